//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! `code` reads Rust, and `modules` finds the uses between modules. `circles` and `layers` check
//! their direction. `docs` checks the promises and links of the pages, and `prose` their sentences.
//! Each rule is a function from files to complaints; this file finds the files and prints.

mod circles;
mod code;
mod docs;
mod layers;
mod modules;
mod prose;

use crate::sh::{self, CommandExt, say};
use anyhow::{Result, bail};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A text file of the repository.
pub(crate) struct Source {
    /// The path from the root of the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_page(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    fn complain(&self, line: usize, message: impl Into<String>) -> Complaint {
        Complaint {
            path: self.path.clone(),
            line,
            message: message.into(),
        }
    }

    #[cfg(test)]
    fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// A violation of a rule, with its place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

type Rule = fn(&[Source]) -> Vec<Complaint>;

const RULES: [Rule; 19] = [
    code::files_open_with_their_purpose,
    code::files_are_short,
    code::hooks_are_short,
    code::nothing_is_left_for_later,
    code::unsafe_stays_where_it_is_listed,
    code::clients_are_accepted_in_one_place,
    circles::siblings_use_each_other_in_one_direction,
    layers::crates_depend_downwards,
    layers::modules_use_what_is_below_them,
    layers::aya_printing_and_configuration_stay_in_their_places,
    docs::promises_are_tested,
    docs::tests_are_listed,
    docs::first_pages_are_short,
    docs::links_resolve,
    docs::pages_are_in_the_book,
    prose::sentences_are_short,
    prose::subjects_have_names,
    prose::retired_names_stay_away,
    docs::paths_are_of_no_machine,
];

/// Checks every rule and prints every complaint.
pub(crate) fn tidy() -> Result<()> {
    let sources = sources()?;
    let complaints: Vec<Complaint> = RULES.iter().flat_map(|rule| rule(&sources)).collect();
    for complaint in &complaints {
        println!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("{} complaints in {} files", complaints.len(), sources.len());
    }
    say(format!(
        "tidy: {} rules, {} files, no complaint",
        RULES.len(),
        sources.len()
    ));
    Ok(())
}

/// The text files of the repository, those not yet committed included.
pub(crate) fn sources() -> Result<Vec<Source>> {
    let root = sh::workspace();
    let mut paths = match tracked(root) {
        Ok(paths) => paths,
        // The directory is an unpacked archive instead of a clone, or a clone of another user.
        Err(_) => walk(root, "")?,
    };
    paths.sort();
    let read = |path: String| {
        let file = root.join(&path);
        // A picture has no lines, but links lead to it.
        let text = match path.ends_with(".png") {
            true => file.exists().then(String::new),
            false => fs::read_to_string(file).ok(),
        };
        text.map(|text| Source { path, text })
    };
    Ok(paths.into_iter().filter_map(read).collect())
}

fn tracked(root: &Path) -> Result<Vec<String>> {
    let list = Command::new("git")
        .current_dir(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .read()?;
    Ok(list
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect())
}

fn walk(root: &Path, below: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{below}{name}");
        if !entry.file_type()?.is_dir() {
            paths.push(path);
        } else if !["target", "node_modules", ".git"].contains(&name.as_str()) {
            paths.extend(walk(root, &format!("{path}/"))?);
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_archive_is_walked_without_what_was_built() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b.rs", "target/x.rs", "tests/apps/node_modules/y.js"] {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        assert_eq!(walk(dir.path(), "").unwrap(), ["a/b.rs"]);
    }
}
