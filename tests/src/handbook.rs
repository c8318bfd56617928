//! What a handbook tells people to type: the indented lines of one of its sections. Pure, and must never leave one out:
//! a story that runs them fails when one cannot be run.

/// The commands of the section of this title, in order, without their comments; a line that ends in `\` goes on.
///
/// A section ends at the next title of its rank; an indented line is one of four blanks or more that is not the text of a
/// numbered point going on, which has three.
#[must_use]
pub fn commands(handbook: &str, title: &str) -> Vec<String> {
    let section = handbook
        .lines()
        .skip_while(|line| line.strip_prefix("## ") != Some(title))
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in section.filter(|line| line.starts_with("    ")) {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        let part = line.trim_end_matches('\\').trim_end();
        match commands.last_mut().filter(|_| goes_on) {
            Some(last) => *last = format!("{last} {part}"),
            None => commands.push(part.to_owned()),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_indented_lines_of_one_section_are_its_commands() {
        let page = "# Page\n\n## Other\n\n    no\n\n## This one\n\n1. Do:\n\n       first --flag   # why\n   and so on\n\n\
                    \x20   second \\\n        --more\n\n## Next\n\n    no\n";
        assert_eq!(commands(page, "This one"), ["first --flag", "second --more"]);
        assert!(commands(page, "None").is_empty());
    }
}
