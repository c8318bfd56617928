//! User-data looked at as cloud-init looks at it, while somebody is there who can mend it: on the machine it would be looked over with a
//! line in a log. Pure.

use serde::{Deserialize, Serialize};
use slipway_protocol::{guest::MAX_USER_DATA_BYTES, seal::Secret};
use utoipa::ToSchema;
use yaml_rust2::{Event, parser::Parser, scanner::Marker};

use crate::error::ApiError;

/// What is looked at of user-data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = UserDataCheck)]
pub enum Check {
    /// That cloud-init will know what it is, and can read it.
    #[default]
    On,
    /// Its size alone: it is for something else than cloud-init.
    Off,
}

/// What the first line may begin with, in small letters, the longest of two first (cloud-init's `INCLUSION_TYPES_MAP`), and what the
/// rest must be.
const KINDS: [(&str, Kind); 9] = [
    ("#cloud-config-archive", Kind::Yaml { list: true }),
    ("#cloud-config-jsonp", Kind::Any),
    ("#cloud-config", Kind::Yaml { list: false }),
    ("#cloud-boothook", Kind::Any),
    ("#include-once", Kind::Any),
    ("#include", Kind::Any),
    ("#part-handler", Kind::Any),
    ("## template: jinja", Kind::Any),
    ("#!", Kind::Script),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Not looked at further.
    Any,
    /// A program for the interpreter that its first line names.
    Script,
    /// One YAML document: a mapping, or a list.
    Yaml { list: bool },
}

/// The same for what is kept secret, if there is any.
///
/// # Errors
/// As [`take_in`].
pub(super) fn taken(given: Option<&Secret>, check: Check) -> Result<Option<Secret>, ApiError> {
    let text = given.map(|given| take_in(given.reveal(), check)).transpose()?;
    Ok(text.map(Secret::new))
}

/// As the machine gets it: without a byte order mark, and without blank lines before its first one, which tells what it is.
///
/// # Errors
/// `user_data` with what cloud-init would not take, and the line of it.
pub(super) fn take_in(text: &str, check: Check) -> Result<String, ApiError> {
    let bad = |detail: String| Err(ApiError::Bad("user_data", detail));
    if text.len() > MAX_USER_DATA_BYTES {
        return bad(format!(
            "user-data of {} bytes is too much for a seed volume: {MAX_USER_DATA_BYTES} are the most; have the rest fetched by `#include`",
            text.len()
        ));
    }
    let text = without_blank_lines(text.strip_prefix('\u{feff}').unwrap_or(text));
    if check == Check::Off || text.is_empty() {
        return Ok(text.to_owned());
    }
    let hint = "; send `user_data_check` as `off` if it is not for cloud-init";
    if text.contains('\0') {
        return bad(format!("user-data has bytes of 0: give it as text{hint}"));
    }
    let begin: String = text.chars().take(4096).flat_map(char::to_lowercase).collect();
    if begin.contains("mime-version:") {
        return Ok(text.to_owned());
    }
    let Some((_, kind)) = KINDS.iter().find(|(word, _)| begin.starts_with(word)) else {
        return bad(format!("{}{hint}", unknown(&begin)));
    };
    match kind {
        Kind::Any => {}
        Kind::Script => {
            if text.lines().next() != text.split('\n').next() {
                return bad(format!(
                    "the script's first line ends as on Windows (CR LF), so its interpreter would not be found: save it with LF{hint}"
                ));
            }
        }
        Kind::Yaml { list } => {
            if let Err(why) = check_yaml(text, *list) {
                return bad(format!("cloud-init could not read this user-data: {why}{hint}"));
            }
        }
    }
    Ok(text.to_owned())
}

/// What is wrong with a first line that tells nothing.
fn unknown(begin: &str) -> String {
    let first: String = begin
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(60)
        .collect();
    let shown = first.escape_debug();
    let plain: String = first.chars().filter(char::is_ascii_alphanumeric).collect();
    if plain.starts_with("cloudconfig") {
        return format!("its first line is `{shown}`: it must be `#cloud-config`, with nothing else in it");
    }
    if begin.starts_with("content-type: multipart") {
        return "a MIME message needs the line `MIME-Version: 1.0` among its first ones".to_owned();
    }
    if first.contains(": ") || first.ends_with(':') {
        return format!(
            "its first line is `{shown}`, by which cloud-init does not know what it is: put `#cloud-config` above it"
        );
    }
    format!(
        "its first line is `{shown}`, by which cloud-init does not know what it is: begin with `#cloud-config`, with `#!` and an \
         interpreter, or with another of its headers"
    )
}

fn without_blank_lines(mut text: &str) -> &str {
    while let Some((line, rest)) = text.split_once('\n')
        && line.trim().is_empty()
    {
        text = rest;
    }
    if text.trim().is_empty() { "" } else { text }
}

/// Walks over the document without building it: aliases cost nothing, and no depth is too great.
fn check_yaml(text: &str, list: bool) -> Result<(), String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    let mut is_first = false;
    loop {
        let (event, at) = parser
            .next_token()
            .map_err(|error| format!("{}, {}", place(error.marker()), error.info()))?;
        if is_behind_tab(&lines, &at) {
            return Err(format!("{}, a tab stands where blanks must", place(&at)));
        }
        match event {
            Event::StreamEnd => return Ok(()),
            Event::DocumentStart => {
                documents += 1;
                is_first = true;
                if documents > 1 {
                    return Err(format!("{}, a second document begins; it reads one", place(&at)));
                }
                continue;
            }
            Event::MappingStart(..) if is_first && list => {
                return Err("an archive is a list of parts (`- type: ..`)".to_owned());
            }
            Event::SequenceStart(..) if is_first && !list => {
                return Err("it is a list, and must be a mapping (`key: value`)".to_owned());
            }
            // Nothing at all is as good as an empty mapping.
            Event::Scalar(ref value, ..) if is_first && !value.is_empty() && value != "~" => {
                return Err(format!(
                    "{}, it is plain text, and must be a mapping (`key: value`)",
                    place(&at)
                ));
            }
            _ => {}
        }
        is_first = is_first && matches!(event, Event::StreamStart | Event::Nothing);
    }
}

/// Whether a tab is in what a line is indented by: cloud-init's reader takes none, and ours would.
fn is_behind_tab(lines: &[&str], at: &Marker) -> bool {
    let line = at.line().checked_sub(1).and_then(|index| lines.get(index));
    let mut before = line.into_iter().flat_map(|line| line.chars()).take(at.col());
    before.clone().all(char::is_whitespace) && before.any(|c| c == '\t')
}

fn place(at: &Marker) -> String {
    format!("in line {} at column {}", at.line(), at.col() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cloud_init_takes_is_taken_as_it_reads_it() {
        for (given, taken) in [
            (
                "#cloud-config\npackages: [vim]\n",
                "#cloud-config\npackages: [vim]\n",
            ),
            ("\u{feff}#cloud-config\n{}\n", "#cloud-config\n{}\n"),
            (
                "\n \t\r\n\n#cloud-config\nruncmd:\n - ls\n",
                "#cloud-config\nruncmd:\n - ls\n",
            ),
            ("#cloud-config", "#cloud-config"),
            (
                "#cloud-config\n# nothing but a comment\n",
                "#cloud-config\n# nothing but a comment\n",
            ),
            (
                "#cloud-config\r\nhostname: a\r\n",
                "#cloud-config\r\nhostname: a\r\n",
            ),
            ("#Cloud-Config\na: 1\na: 2\n", "#Cloud-Config\na: 1\na: 2\n"),
            ("#!/bin/sh\necho \"a: b: [\"\n", "#!/bin/sh\necho \"a: b: [\"\n"),
            (
                "#cloud-config\nwrite_files:\n- content: |\n    a\n    \tb\n  path: /x\t# where\n",
                "#cloud-config\nwrite_files:\n- content: |\n    a\n    \tb\n  path: /x\t# where\n",
            ),
            ("#include\nhttp://192.0.2.1/x\n", "#include\nhttp://192.0.2.1/x\n"),
            (
                "## template: jinja\n#cloud-config\n{% if x %}",
                "## template: jinja\n#cloud-config\n{% if x %}",
            ),
            (
                "#cloud-config-archive\n- type: text/x\n",
                "#cloud-config-archive\n- type: text/x\n",
            ),
            (
                "Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x--\n",
                "Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x--\n",
            ),
            ("", ""),
            ("\n\n", ""),
        ] {
            assert_eq!(take_in(given, Check::On).unwrap(), taken, "{given:?}");
        }
    }

    #[test]
    fn what_it_would_look_over_is_refused_with_why() {
        let deep = format!("#cloud-config\na: {}\n", "[".repeat(100_000));
        for (given, why) in [
            ("packages: [vim]\n", "put `#cloud-config` above it"),
            ("# cloud-config\na: b\n", "it must be `#cloud-config`"),
            ("#cloud config\na: b\n", "it must be `#cloud-config`"),
            ("echo hello\n", "begin with `#cloud-config`"),
            ("#cloud-config\na: [1, 2\n", "line"),
            ("#cloud-config\na: b: c\n", "line 2"),
            ("#cloud-config\na: \"open\n", "line"),
            ("#cloud-config\n\tb: 1\n", "line 2"),
            ("#cloud-config\nb:\n  - 1\n\t- 2\n", "line"),
            ("#cloud-config\n- a\n- b\n", "a list"),
            ("#cloud-config\njust words\n", "plain text"),
            ("#cloud-config\na: *nowhere\n", "line 2"),
            ("#cloud-config\na: 1\n---\nb: 2\n", "a second document"),
            ("#cloud-config-archive\na: 1\n", "a list of parts"),
            ("#!/bin/sh\r\necho\r\n", "Windows"),
            ("Content-Type: multipart/mixed; boundary=x\n\n", "MIME-Version"),
            ("#cloud-config\na: \0\n", "bytes of 0"),
            (deep.as_str(), "line"),
        ] {
            let refused = take_in(given, Check::On).unwrap_err();
            assert_eq!(refused.code(), "user_data");
            let text = refused.to_string();
            let shown: String = given.chars().take(40).collect();
            assert!(
                text.contains(why) && text.contains("user_data_check"),
                "{shown:?}: {text}"
            );
            assert!(take_in(given, Check::Off).is_ok(), "{shown:?}");
        }
        let large = format!("#!/bin/sh\n{}", "#".repeat(MAX_USER_DATA_BYTES));
        for check in [Check::On, Check::Off] {
            assert_eq!(take_in(&large, check).unwrap_err().code(), "user_data");
        }
    }

    /// An alias of an alias of an alias: built, it would not fit into any machine.
    #[test]
    fn a_document_that_grows_is_walked_over() {
        let mut text = "#cloud-config\na0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..40 {
            let inner = vec![format!("*a{}", n - 1); 9].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{inner}]\n"));
        }
        assert!(take_in(&text, Check::On).is_ok());
    }

    /// Recordings of cloud-init's own tests are taken as they are.
    #[test]
    fn recorded_user_data_is_taken() {
        let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
        let folder = std::env::var("SLIPWAY_FIXTURES").unwrap_or_else(|_| usual.to_owned());
        let mut taken = 0;
        for entry in std::fs::read_dir(format!("{folder}/cloud-init/merge_sources")).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            if path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("source"))
            {
                let kept =
                    take_in(&text, Check::On).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert!(text.ends_with(&kept), "{}", path.display());
                taken += 1;
            }
        }
        assert!(taken >= 20, "{taken} sources");
        let message = std::fs::read_to_string(format!("{folder}/cloud-init/user_data.1.txt")).unwrap();
        assert_eq!(take_in(&message, Check::On).unwrap(), message);
    }

    #[test]
    fn fuzzed_user_data_ends_nothing() {
        let seeds = [
            "#cloud-config\npackages: [vim, {a: b}]\nruncmd:\n  - [ls, -l]\n  - |\n    x\n",
            "#cloud-config\na: &x {b: *x}\n? - k\n: v\n--- \n...\n",
            "#cloud-config-archive\n- type: text/x\n  content: \"\\x41\\u0041\"\n",
            "#!/bin/sh\r\necho\n",
            "\u{feff}\n\n#include\nhttp://192.0.2.1\n",
        ];
        let seeds = seeds.map(|seed| seed.as_bytes().to_vec());
        let words: [&[u8]; 10] = [
            b"[",
            b"{",
            b": ",
            b"- ",
            b"&a ",
            b"*a",
            b"!!str ",
            b"\n\t",
            b"|2\n",
            b"%YAML 9.9\n",
        ];
        slipway_fuzz::fuzz("user-data", &seeds, &words, |bytes| {
            let _ = take_in(&String::from_utf8_lossy(bytes), Check::On);
        });
    }
}
