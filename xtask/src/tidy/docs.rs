//! Rules for pages: promises are tested, links resolve, no page has a path of its author's machine.
//!
//! CONTRIBUTING.md has a section `## Promises` with a table; the last cell of each row names the
//! test files that keep the promise, as in `` `tests/kernel/sticky.rs` ``. Every test file is
//! named.

use super::{Complaint, Source};
use crate::areas;
use std::collections::HashSet;

/// Home and work directories. The names are in parts, as this file is checked too.
const MACHINE_PATHS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
];

/// The table of contents of the book.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Pages that are to be read as a whole, and the most lines of each.
const SHORT_PAGES: [(&str, usize); 2] = [("README.md", 150), ("ARCHITECTURE.md", 250)];

/// Pages that are to be read as a whole stay short.
pub(super) fn first_pages_are_short(sources: &[Source]) -> Vec<Complaint> {
    let longest = |source: &Source| {
        let page = SHORT_PAGES.iter().find(|(path, _)| source.path == *path)?;
        let (_, most) = *page;
        let message = format!("this page has more than {most} lines: details go to docs/");
        (source.lines().count() > most).then(|| source.complain(most + 1, message))
    };
    sources.iter().filter_map(longest).collect()
}

/// Each promise names test files that exist, and each test file is named.
pub(super) fn promises_are_tested(sources: &[Source]) -> Vec<Complaint> {
    let Some(page) = sources
        .iter()
        .find(|source| source.path == "CONTRIBUTING.md")
    else {
        return Vec::new();
    };
    let rows = promise_rows(page);
    if rows.is_empty() {
        return vec![page.complain(1, "no table of promises under `## Promises`")];
    }
    let mut complaints = Vec::new();
    let mut named = HashSet::new();
    for (number, row) in rows {
        let files = files_of_row(row);
        if files.is_empty() {
            complaints.push(page.complain(number, "this promise names no test file"));
        }
        for file in files {
            if !sources.iter().any(|source| source.path == file) {
                complaints.push(page.complain(number, format!("there is no {file}")));
            }
            named.insert(file);
        }
    }
    let unnamed = test_files(sources).filter(|source| !named.contains(source.path.as_str()));
    complaints
        .extend(unnamed.map(|source| {
            source.complain(1, "no promise in CONTRIBUTING.md names this test file")
        }));
    complaints
}

/// The rows of the table, without its head.
fn promise_rows(page: &Source) -> Vec<(usize, &str)> {
    page.lines()
        .skip_while(|(_, line)| line.trim() != "## Promises")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter(|(_, line)| line.trim_start().starts_with('|'))
        .skip(2)
        .collect()
}

/// The test files in the last cell.
fn files_of_row(row: &str) -> Vec<&str> {
    let cell = row
        .trim()
        .trim_end_matches('|')
        .rsplit('|')
        .next()
        .unwrap_or_default();
    cell.split('`')
        .filter(|part| part.ends_with(".rs"))
        .collect()
}

fn test_files(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources
        .iter()
        .filter(|source| areas::of(&source.path).is_some())
}

/// Cargo builds the tests that are listed, and no others.
pub(super) fn tests_are_listed(sources: &[Source]) -> Vec<Complaint> {
    let manifest = sources
        .iter()
        .find(|source| source.path == "tests/Cargo.toml");
    let listed = |file: &Source| {
        let line = format!("path = \"{}\"", file.path.trim_start_matches("tests/"));
        manifest.is_some_and(|manifest| manifest.lines().any(|(_, text)| text == line))
    };
    test_files(sources)
        .filter(|file| !listed(file))
        .map(|file| file.complain(1, "tests/Cargo.toml does not list this test"))
        .collect()
}

/// Links between pages lead to files and headings that exist.
pub(super) fn links_resolve(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for page in sources.iter().filter(|source| source.is_page()) {
        for (number, line) in page.lines() {
            for link in links(line) {
                complaints.extend(dead(link, page, sources).map(|why| page.complain(number, why)));
            }
        }
    }
    complaints
}

/// Every page below docs/ is in the table of contents.
pub(super) fn pages_are_in_the_book(sources: &[Source]) -> Vec<Complaint> {
    let Some(summary) = sources.iter().find(|source| source.path == SUMMARY) else {
        return Vec::new();
    };
    let listed: HashSet<String> = summary
        .lines()
        .flat_map(|(_, line)| links(line))
        .map(|link| resolve(SUMMARY, link))
        .collect();
    sources
        .iter()
        .filter(|page| page.is_page() && page.path.starts_with("docs/") && page.path != SUMMARY)
        .filter(|page| !listed.contains(&page.path))
        .map(|page| page.complain(1, format!("{SUMMARY} does not list this page")))
        .collect()
}

/// The targets of links, `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

/// The reason for a dead link.
fn dead(link: &str, page: &Source, sources: &[Source]) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = if file.is_empty() {
        page.path.clone()
    } else {
        resolve(&page.path, file)
    };
    let inside = format!("{}/", path.trim_end_matches('/'));
    let is_directory = sources
        .iter()
        .any(|source| source.path.starts_with(&inside));
    let target = sources.iter().find(|source| source.path == path);
    match target {
        None if is_directory => None,
        None => Some(format!("the link to {link} leads to no file")),
        Some(target) if anchor.is_empty() || has_heading(target, anchor) => None,
        Some(_) => Some(format!("the link to {link} leads to no heading")),
    }
}

/// A path relative to the page's directory, with `..` carried out.
fn resolve(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn has_heading(page: &Source, anchor: &str) -> bool {
    page.lines()
        .filter(|(_, line)| line.starts_with('#'))
        .any(|(_, line)| slug(line.trim_start_matches('#').trim()) == anchor)
}

/// The anchor that GitHub gives to a heading.
fn slug(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

/// No file names a directory of its author's machine.
pub(super) fn paths_are_of_no_machine(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources {
        for (number, line) in source.lines() {
            for path in MACHINE_PATHS
                .iter()
                .filter(|path| starts_a_path(line, path))
            {
                complaints.push(source.complain(number, format!("{path} is of one machine")));
            }
        }
    }
    complaints
}

/// Whether `prefix` stands in the line as the start of a path, not in the middle of one.
fn starts_a_path(line: &str, prefix: &str) -> bool {
    line.match_indices(prefix).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_.-~/}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# A\n## Promises\n\n| promise | test |\n| --- | --- |\n\
                          | sticks | `tests/kernel/sticky.rs` |\n## Next\n| no | row |\n";

    fn complaints_about(readme: &str, test_files: &[&str]) -> Vec<String> {
        let mut sources = vec![Source::new("CONTRIBUTING.md", readme)];
        sources.extend(test_files.iter().map(|path| Source::new(path, "//! T.\n")));
        promises_are_tested(&sources)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_promise_with_its_test_file_is_fine() {
        assert!(complaints_about(README, &["tests/kernel/sticky.rs"]).is_empty());
    }

    #[test]
    fn a_promise_without_test_file_and_a_file_without_promise_are_found() {
        let complaints = complaints_about(README, &["tests/kernel/other.rs"]);
        assert_eq!(
            complaints[0],
            "CONTRIBUTING.md:6: there is no tests/kernel/sticky.rs"
        );
        assert!(
            complaints[1].starts_with("tests/kernel/other.rs:1:"),
            "{complaints:?}"
        );
        let untested = README.replace("`tests/kernel/sticky.rs`", "trust us");
        assert!(complaints_about(&untested, &[])[0].contains("names no test file"));
        assert!(complaints_about("# A\n", &[])[0].contains("no table"));
    }

    #[test]
    fn test_that_cargo_is_not_told_of_is_found() {
        let found = |listed: &str| {
            let manifest = Source::new("tests/Cargo.toml", listed);
            tests_are_listed(&[manifest, Source::new("tests/kernel/sticky.rs", "//! T.\n")]).len()
        };
        assert_eq!(found("path = \"kernel/sticky.rs\"\n"), 0);
        assert_eq!(found("path = \"kernel/other.rs\"\n"), 1);
    }

    #[test]
    fn a_first_page_that_grows_long_is_found() {
        let found = |path: &str, lines: usize| {
            first_pages_are_short(&[Source::new(path, &"a\n".repeat(lines))]).len()
        };
        assert_eq!((found("README.md", 150), found("README.md", 151)), (0, 1));
        assert_eq!(found("ARCHITECTURE.md", 251), 1);
        assert_eq!(found("docs/limits.md", 1000), 0);
    }

    #[test]
    fn links_to_files_headings_and_directories_are_followed() {
        let page = "[a](B.md#what-it-is) [b](../lb-common/) [c](https://x.org) [d](#a)\n# A\n";
        let sources = [
            Source::new("docs/A.md", page),
            Source::new("docs/B.md", "## What it is?\n"),
            Source::new("lb-common/Cargo.toml", ""),
        ];
        assert_eq!(links_resolve(&sources), []);
        let broken = Source::new("A.md", "[a](B.md) [b](#nowhere)");
        assert_eq!(links_resolve(&[broken]).len(), 2);
    }

    #[test]
    fn a_path_of_a_machine_is_found() {
        let found = |line: String| paths_are_of_no_machine(&[Source::new("a", &line)]).len();
        for path in MACHINE_PATHS {
            assert_eq!(found(format!("see {path}x")), 1);
            assert_eq!(found(format!("{path}x")), 1);
            assert_eq!(found(format!("docs{path}x")), 0);
        }
    }

    #[test]
    fn every_page_is_in_the_table_of_contents() {
        let summary = Source::new("docs/SUMMARY.md", "- [a](a.md)\n- [b](../B.md)\n");
        let page = |path: &str| Source::new(path, "# A\n");
        let sources = [summary, page("docs/a.md"), page("docs/c.md"), page("D.md")];
        let complaints = pages_are_in_the_book(&sources);
        assert_eq!(complaints.len(), 1);
        assert_eq!(complaints[0].path, "docs/c.md");
    }
}
