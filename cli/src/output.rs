//! What commands print: the API's JSON as it is, or an aligned table. Pure.

use std::io::Write as _;

use serde_json::Value;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: what the API answered.
    Json,
}

/// Prints an answer; `columns` are JSON pointers into each row, with their headings.
pub(crate) fn print(format: Format, answer: &Value, columns: &[(&str, &str)]) {
    // Whoever reads may have seen enough, as `head` has: that is no failure.
    let _ = writeln!(std::io::stdout(), "{}", render(format, answer, columns));
}

fn render(format: Format, answer: &Value, columns: &[(&str, &str)]) -> String {
    if format == Format::Json || columns.is_empty() {
        return format!("{answer:#}");
    }
    match answer["items"].as_array() {
        Some(rows) => table(rows, columns),
        None => columns
            .iter()
            .map(|(head, at)| format!("{head:<12} {}\n", cell(answer, at)))
            .collect::<String>(),
    }
    .trim_end()
    .to_owned()
}

fn table(rows: &[Value], columns: &[(&str, &str)]) -> String {
    let mut lines = vec![
        columns
            .iter()
            .map(|(head, _)| (*head).to_uppercase())
            .collect::<Vec<_>>(),
    ];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|(_, at)| cell(row, at)).collect()),
    );
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cell(row: &Value, at: &str) -> String {
    match row.pointer(at) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_json_is_left_alone() {
        let answer =
            serde_json::json!({ "items": [{ "id": "bj-1", "online": true }, { "id": "a", "online": null }] });
        let text = render(Format::Table, &answer, &[("site", "/id"), ("online", "/online")]);
        assert_eq!(text, "SITE  ONLINE\nbj-1  true\na     -");
        let json = render(Format::Json, &answer, &[("site", "/id")]);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), answer);
    }
}
