//! `/api/v1/machines/import`: machines from a list, as JSON or CSV.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Body as HttpBody,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{NO_NUL, Query};
use crate::{
    access::Caller,
    app::App,
    domain::machines::{self, Action, Given, How, ImportRow, Line, RowError},
    error::ApiError,
};

/// Longest list, in bytes.
const MAX_LIST: usize = 8 * 1024 * 1024;

/// How a list is imported.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct ImportQuery {
    /// Only say what would be done
    pub dry_run: bool,
    /// Change machines that are there already and differ
    pub update: bool,
}

/// What is wrong with a field.
#[derive(Debug, Serialize, ToSchema)]
pub struct RowErrorView {
    /// The column.
    pub field: &'static str,
    /// For programs: stable.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// What becomes of a row.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportLine {
    /// Which one, from 1; a header is not counted.
    pub row: usize,
    /// The machine it names.
    pub name: String,
    /// `create`, `update`, `unchanged` or `error`.
    pub action: &'static str,
    /// What is wrong with it.
    pub errors: Vec<RowErrorView>,
}

/// What became of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportView {
    /// Whether it was only tried.
    pub dry_run: bool,
    /// Machines added.
    pub created: usize,
    /// Machines changed.
    pub updated: usize,
    /// Machines that are as the list says.
    pub unchanged: usize,
    /// Rows that are wrong; nothing is done if there are any.
    pub errors: usize,
    /// Every row, in order.
    pub items: Vec<ImportLine>,
}

fn view(lines: Vec<Line>, dry_run: bool) -> ImportView {
    let count = |action| {
        lines
            .iter()
            .filter(|line| line.action == action && line.errors.is_empty())
            .count()
    };
    let error = |e: RowError| RowErrorView {
        field: e.field,
        code: e.code,
        detail: e.detail,
    };
    ImportView {
        dry_run,
        created: count(Action::Create),
        updated: count(Action::Update),
        unchanged: count(Action::Unchanged),
        errors: lines.iter().filter(|line| !line.errors.is_empty()).count(),
        items: lines
            .into_iter()
            .map(|line| ImportLine {
                row: line.row,
                name: line.name,
                action: match line.action {
                    _ if !line.errors.is_empty() => "error",
                    Action::Create => "create",
                    Action::Update => "update",
                    Action::Unchanged => "unchanged",
                    Action::Error => "error",
                },
                errors: line.errors.into_iter().map(error).collect(),
            })
            .collect(),
    }
}

/// Adds many machines at once, all or none, from a JSON array or from CSV with a header: `name,site,macs` and, as you like,
/// `firmware,address,bmc,bmc_user,bmc_password,labels,shelved`. In CSV, MAC addresses are separated by spaces and labels
/// written `k=v;k=v`. A machine that is there already and is as its row says is left alone. If any row is wrong, the answer
/// is a problem with the code `import` that holds the same list of rows.
#[utoipa::path(post, path = "/api/v1/machines/import", tag = "machines", params(ImportQuery),
    request_body(content((Vec<ImportRow> = "application/json"), (String = "text/csv"))),
    responses((status = 200, body = ImportView), (status = 400), (status = 403)))]
pub async fn import(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(query): Query<ImportQuery>,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Response, ApiError> {
    let bytes = axum::body::to_bytes(body, MAX_LIST).await;
    let bytes = bytes.map_err(|e| ApiError::Bad("body", format!("the list cannot be read: {e}")))?;
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let rows = if kind.starts_with("text/csv") {
        csv_rows(&bytes)?
    } else {
        json_rows(&bytes)?
    };
    let how = How {
        dry_run: query.dry_run,
        update: query.update,
    };
    let view = view(machines::import(&app, &caller, rows, how).await?, query.dry_run);
    if view.errors == 0 || query.dry_run {
        return Ok(Json(view).into_response());
    }
    let detail = format!(
        "{} of {} rows are wrong, so nothing was done: `rows` says what",
        view.errors,
        view.items.len()
    );
    let problem = json!({
        "type": "about:blank", "title": "Bad Request", "status": 400, "code": "import", "detail": detail, "rows": view.items,
    });
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    Ok((StatusCode::BAD_REQUEST, kind, problem.to_string()).into_response())
}

fn json_rows(bytes: &[u8]) -> Result<Vec<Given>, ApiError> {
    if bytes.windows(6).any(|six| six == br"\u0000") {
        return Err(ApiError::Bad("body", NO_NUL.to_owned()));
    }
    let rows: Vec<ImportRow> = serde_json::from_slice(bytes).map_err(|e| {
        ApiError::Bad(
            "body",
            format!("the list is neither `text/csv` nor a JSON array of machines: {e}"),
        )
    })?;
    Ok(rows.into_iter().map(|row| (row, Vec::new())).collect())
}

/// Refuses what spreadsheets save in place of commas in UTF-8, and says what to do.
fn check_form(bytes: &[u8]) -> Result<(), ApiError> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        let detail = "the list is UTF-16 (\"Unicode text\"): save it as CSV in UTF-8";
        return Err(ApiError::Bad("body", detail.to_owned()));
    }
    let header = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let others = [(b';', "semicolons"), (b'\t', "tabs"), (b'|', "vertical bars")];
    let other = others.iter().find(|(byte, _)| header.contains(byte));
    match other {
        Some((_, name)) if !header.contains(&b',') => Err(ApiError::Bad(
            "columns",
            format!(
                "the columns are separated by {name}: save the list with commas, as some spreadsheets do only when asked"
            ),
        )),
        _ => Ok(()),
    }
}

fn csv_rows(bytes: &[u8]) -> Result<Vec<Given>, ApiError> {
    check_form(bytes)?;
    if bytes.contains(&0) {
        return Err(ApiError::Bad("body", NO_NUL.to_owned()));
    }
    // A spreadsheet puts this mark before its UTF-8.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let unreadable = |e: csv::Error| ApiError::Bad("body", format!("the CSV cannot be read: {e}"));
    let header: Vec<String> = reader
        .headers()
        .map_err(unreadable)?
        .iter()
        .map(str::to_owned)
        .collect();
    if let Some(missing) = ["name", "site", "macs"]
        .iter()
        .find(|c| !header.iter().any(|h| h == *c))
    {
        return Err(ApiError::Bad(
            "columns",
            format!("the CSV's header has no column `{missing}`"),
        ));
    }
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let (mut row, mut errors) = (ImportRow::default(), Vec::new());
        for (column, text) in header.iter().zip(record.iter()) {
            if let Err(error) = put(&mut row, column, text)? {
                errors.push(error);
            }
        }
        rows.push((row, errors));
    }
    Ok(rows)
}

/// Puts a cell into its row; an empty one says nothing.
fn put(row: &mut ImportRow, column: &str, text: &str) -> Result<Result<(), RowError>, ApiError> {
    let given = (!text.is_empty()).then(|| text.to_owned());
    match column {
        "name" => row.name = text.to_owned(),
        "site" => row.site = text.to_owned(),
        "macs" => row.macs = text.split_whitespace().map(str::to_owned).collect(),
        "firmware" => row.firmware = given,
        "address" => row.address = given,
        "bmc" => row.bmc = given,
        "bmc_user" => row.bmc_user = given,
        "bmc_password" => row.bmc_password = given,
        "labels" => match given.map(|text| labels(&text)).transpose() {
            Ok(labels) => row.labels = labels,
            Err(error) => return Ok(Err(error)),
        },
        "shelved" => match text {
            "" => {}
            "true" => row.shelved = Some(true),
            "false" => row.shelved = Some(false),
            other => {
                let detail = format!("`{other}` is neither true nor false");
                return Ok(Err(RowError {
                    field: "shelved",
                    code: "shelved",
                    detail,
                }));
            }
        },
        other => {
            return Err(ApiError::Bad(
                "columns",
                format!("the CSV has a column `{other}` that is not known"),
            ));
        }
    }
    Ok(Ok(()))
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, RowError> {
    let label = |part: &str| {
        let (name, value) = part.trim().split_once('=').ok_or_else(|| RowError {
            field: "labels",
            code: "label",
            detail: format!("`{part}` is not NAME=VALUE"),
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    text.split(';')
        .filter(|part| !part.trim().is_empty())
        .map(label)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Result<usize, &'static str> {
        csv_rows(text.as_bytes())
            .map(|rows| rows.len())
            .map_err(|e| e.code())
    }

    #[test]
    fn csv_is_read_as_spreadsheets_write_it() {
        let text = "\u{feff}name,site,macs,labels,shelved,bmc_password\r\n\
                    m1, bj-1,52:54:00:00:00:01 52:54:00:00:00:02,\"rack=a1;u=7\",true,\"a,\"\"b\"\r\nm2,bj-1,x,rack,maybe,\r\n";
        let rows = csv_rows(text.as_bytes()).unwrap();
        let (first, errors) = &rows[0];
        assert!(errors.is_empty());
        assert_eq!(
            (first.site.as_str(), first.macs.len(), first.shelved),
            ("bj-1", 2, Some(true))
        );
        assert_eq!(first.labels.as_ref().unwrap()["u"], "7");
        assert_eq!(first.bmc_password.as_deref(), Some("a,\"b"));
        let (second, errors) = &rows[1];
        let fields: Vec<_> = errors.iter().map(|e| e.field).collect();
        assert_eq!(
            (fields, second.bmc_password.is_none()),
            (vec!["labels", "shelved"], true)
        );
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(code("name,site\nm1,bj-1\n"), Err("columns"));
        assert_eq!(code("name,site,macs,colour\nm1,bj-1,x,red\n"), Err("columns"));
        assert_eq!(code("name,site,macs\nm1,bj-1\n"), Err("body"));
        assert_eq!(code("name,site,macs\n"), Ok(0));
        assert_eq!(code("name,site,macs\nm\0,bj-1,x\n"), Err("body"));
        for (separator, name) in [(';', "semicolons"), ('\t', "tabs"), ('|', "vertical bars")] {
            let text = "\u{feff}name,site,macs\r\nm1,bj-1,x\r\n".replace(',', &separator.to_string());
            let refused = csv_rows(text.as_bytes()).err().unwrap();
            assert!(
                refused.code() == "columns" && refused.to_string().contains(name),
                "{refused}"
            );
        }
        let utf16: Vec<u8> = "\u{feff}name,site,macs\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let refused = csv_rows(&utf16).err().unwrap();
        assert!(
            refused.code() == "body" && refused.to_string().contains("UTF-16"),
            "{refused}"
        );
        assert!(json_rows(b"{}").is_err() && json_rows(br#"[{"name":"m1","colour":"red"}]"#).is_err());
    }

    #[test]
    fn fuzzed_csv_ends_nothing() {
        let seeds = [
            "\u{feff}name,site,macs,labels,shelved,bmc_password\r\nm1,bj-1,52:54:00:00:00:01,\"rack=a1;u=7\",true,\"a,\"\"b\"\r\n",
            "name,site,macs,bmc,bmc_user,bmc_password\nm1,bj-1,52:54:00:00:00:01,192.0.2.9:623,admin,secret\nm2,bj-1,x,,,\n",
            "name;site;macs\nm1;bj-1;52-54-00-00-00-01\n",
            "name\tsite\tmacs\nm1\tbj-1\t5254.0000.0001\n",
        ];
        let seeds = seeds.map(|seed| seed.as_bytes().to_vec());
        let words: [&[u8]; 8] = [
            b"\"",
            b"\r\n",
            b",,,",
            b"labels",
            b"=;",
            b"\xff\xfe",
            b"ff:ff:ff:ff:ff:ff",
            b"bmc_driver",
        ];
        let mut taken = 0_u64;
        slipway_fuzz::fuzz("csv", &seeds, &words, |bytes| {
            let Ok(rows) = csv_rows(bytes) else {
                return;
            };
            taken += rows.len() as u64;
        });
        assert!(taken > 0, "some are read");
    }
}
