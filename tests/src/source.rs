//! The project's own source, for tests that hold a page of the documentation to it. Must never read what was built.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The Rust files at or below a path, folders of build products left out.
///
/// # Errors
/// When a folder cannot be read, or there is none.
pub fn rust_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.metadata()?.is_file() {
        let is_rust = path.extension().is_some_and(|end| end == "rs");
        return Ok(is_rust.then(|| path.to_owned()).into_iter().collect());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if !path.ends_with("target") {
            found.extend(rust_files(&path)?);
        }
    }
    Ok(found)
}
