//! The source of the book: a copy of the pages, and of the files that they link to, as they lie in the repository.

use crate::tidy::Source;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Files and directories of the repository that pages link to.
const PARTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/",
    "examples/",
    "packaging/",
];
/// The table of contents in the repository. The book has it at its root.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Copies the parts of the book below `root`.
pub(super) fn stage(sources: &[Source], root: &Path) -> Result<()> {
    let is_part = |source: &&Source| PARTS.iter().any(|part| source.path.starts_with(part));
    for source in sources.iter().filter(is_part) {
        let (path, text) = staged(&source.path, &source.text);
        let file = root.join(path);
        let directory = file.parent().context("a file in a directory")?;
        fs::create_dir_all(directory)?;
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Path and text of a file in the book. Its first page has to be `index.md`.
fn staged(path: &str, text: &str) -> (String, String) {
    let text = match path {
        SUMMARY => text.replace("](", "](docs/").replace("](docs/../", "]("),
        _ if path.ends_with(".md") => text.to_owned(),
        _ => return (path.to_owned(), text.to_owned()),
    };
    let path = match path {
        "README.md" => "index.md",
        SUMMARY => "SUMMARY.md",
        other => other,
    };
    let text = text.replace("](README.md", "](index.md");
    let text = text.replace("](docs/SUMMARY.md)", "](docs/getting-started.md)");
    (path.to_owned(), text.replace("../README.md", "../index.md"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_contents_leads_from_the_root() {
        let (path, text) = staged(SUMMARY, "[a](../README.md)\n- [b](x.md)\n- [c](../C.md)\n");
        assert_eq!(path, "SUMMARY.md");
        assert_eq!(text, "[a](index.md)\n- [b](docs/x.md)\n- [c](C.md)\n");
    }

    #[test]
    fn other_files_stay_as_they_are() {
        let (path, text) = staged("examples/a.js", "x](README.md");
        assert_eq!(
            (path.as_str(), text.as_str()),
            ("examples/a.js", "x](README.md")
        );
        assert_eq!(staged("README.md", "").0, "index.md");
    }
}
