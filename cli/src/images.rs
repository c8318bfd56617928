//! `slipway image`: images, their versions and what machines they are for.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
};

/// Images.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Upload a raw disk image, or one compressed by zstd
    Upload {
        file: PathBuf,
        #[arg(long)]
        name: String,
        /// The family it is a version of
        #[arg(long, requires = "version")]
        family: Option<String>,
        /// Its version, as in 13.2
        #[arg(long, requires = "family")]
        version: Option<String>,
    },
    /// Change what is said of an image; what is not given stays
    Set(Box<Changes>),
    /// List images
    List {
        /// Versions of one family
        #[arg(long)]
        family: Option<String>,
    },
    /// Show an image
    Show { image: String },
    /// Remove an image nobody uses
    Delete { image: String },
}

/// What is to be changed of an image.
#[derive(Debug, Args)]
pub(crate) struct Changes {
    image: String,
    /// A new name
    #[arg(long)]
    name: Option<String>,
    /// The family it is a version of
    #[arg(long, requires = "version")]
    family: Option<String>,
    /// Its version
    #[arg(long, requires = "family")]
    version: Option<String>,
    /// It is in no family any more
    #[arg(long, conflicts_with = "family")]
    no_family: bool,
    /// Whether its family's name no longer means it
    #[arg(long, action = clap::ArgAction::Set)]
    deprecated: Option<bool>,
    /// Only for machines of this type; may be repeated; they take the place of all there were
    #[arg(long = "type", value_name = "TYPE")]
    machine_types: Vec<String>,
    /// For machines of any type
    #[arg(long, conflicts_with = "machine_types")]
    any_type: bool,
}

const COLUMNS: [(&str, &str); 8] = [
    ("image", "/name"),
    ("family", "/family"),
    ("version", "/version"),
    ("deprecated", "/deprecated"),
    ("types", "/machine_types"),
    ("bytes", "/size_bytes"),
    ("stored", "/stored_bytes"),
    ("id", "/id"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, image: Image) -> anyhow::Result<ExitCode> {
    let answer = match image {
        Image::Upload {
            file,
            name,
            family,
            version,
        } => {
            let query = [("name", Some(name)), ("family", family), ("version", version)];
            client.upload(&query, &file).await?
        }
        Image::Set(changes) => {
            let path = format!("/api/v1/images/{}", changes.image);
            client.patch(&path, change(*changes)).await?
        }
        Image::List { family } => client.all("/api/v1/images", &[("family", family)]).await?,
        Image::Show { image } => client.get(&format!("/api/v1/images/{image}")).await?,
        Image::Delete { image } => {
            client.delete(&format!("/api/v1/images/{image}")).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::print(format, &answer, &COLUMNS);
    Ok(ExitCode::SUCCESS)
}

/// What is not given is not said, and so stays.
fn change(changes: Changes) -> Value {
    let mut body = json!({});
    if let Some(name) = changes.name {
        body["name"] = name.into();
    }
    if changes.no_family {
        (body["family"], body["version"]) = (Value::Null, Value::Null);
    } else if let Some(family) = changes.family {
        (body["family"], body["version"]) = (family.into(), changes.version.into());
    }
    if let Some(deprecated) = changes.deprecated {
        body["deprecated"] = deprecated.into();
    }
    if changes.any_type || !changes.machine_types.is_empty() {
        body["machine_types"] = changes.machine_types.into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        changes: Changes,
    }

    #[test]
    fn a_change_says_what_is_given_and_no_more() {
        for (line, expected) in [
            ("i", json!({})),
            (
                "i --family debian --version 13.2",
                json!({ "family": "debian", "version": "13.2" }),
            ),
            (
                "i --no-family --deprecated true",
                json!({ "family": null, "version": null, "deprecated": true }),
            ),
            (
                "i --type big --type gpu --name j",
                json!({ "name": "j", "machine_types": ["big", "gpu"] }),
            ),
            ("i --any-type", json!({ "machine_types": [] })),
        ] {
            let changes = Line::parse_from(["x"].into_iter().chain(line.split(' '))).changes;
            assert_eq!(change(changes), expected, "{line}");
        }
        assert!(Line::try_parse_from(["x", "i", "--family", "debian"]).is_err());
    }
}
