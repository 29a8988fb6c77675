//! Problems of a configuration. All of them are reported, each with its line and key path.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::MAX_FILE_BYTES;

/// Problems that are shown of one file at most. A file with more of them is not a configuration.
const SHOWN: usize = 50;

/// A configuration that cannot be used. [`fmt::Display`] gives one line for each problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    source: PathBuf,
    problems: Vec<Problem>,
}

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line in the file, from 1; `None` if the problem is about the whole of it.
    pub line: Option<usize>,
    /// The key, as in `service[0].backends[1].weight`; may be empty.
    pub path: String,
    /// The problem and its remedy.
    pub message: String,
}

/// The line of a setting in its file, from 1, for messages; 0 without one. It is no part of the setting, so all are
/// equal: a configuration whose lines have moved is the same.
#[derive(Clone, Copy, Default)]
pub struct Line(pub usize);

impl PartialEq for Line {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Line {}

impl std::hash::Hash for Line {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.display();
        for (index, problem) in self.problems.iter().take(SHOWN).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{source}:{problem}")?;
        }
        match self.problems.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n{source}: and {more} more problems"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)
    }
}

impl ConfigError {
    /// All problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn unreadable(source: &Path, error: &io::Error) -> Self {
        let cause = match error.kind() {
            io::ErrorKind::NotFound => "no such file (name another with --config)".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied (use sudo)".to_owned(),
            io::ErrorKind::IsADirectory => "is a directory (name a file in it)".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        Self::whole(source, None, cause)
    }

    pub(super) fn too_long(source: &Path) -> Self {
        let message = format!(
            "longer than {} MiB (this is not a configuration of lb-agent)",
            MAX_FILE_BYTES >> 20
        );
        Self::whole(source, None, message)
    }

    /// The error for a file that is not UTF-8. `before` is the text before the first bad byte.
    pub(super) fn not_utf8(source: &Path, before: &[u8]) -> Self {
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let message = "not UTF-8 text (TOML is always UTF-8)".to_owned();
        Self::whole(source, Some(line), message)
    }

    fn whole(source: &Path, line: Option<usize>, message: String) -> Self {
        let problem = Problem {
            line,
            path: String::new(),
            message,
        };
        Self {
            source: source.to_owned(),
            problems: vec![problem],
        }
    }
}

/// A place in the file: a key, and the byte offset of it or its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    /// The key path; empty for the whole file.
    pub(super) path: String,
    /// Byte offset; `None` if the key is missing.
    pub(super) offset: Option<usize>,
}

impl Place {
    /// The whole file, without key or offset.
    pub(super) const FILE: Self = Self {
        path: String::new(),
        offset: None,
    };
}

/// A value with its place in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A remedy for an unknown key, by the path of its table and its name.
pub(super) type Hint = fn(&str, &str) -> Option<String>;

/// Collects the problems of one file while it is read.
pub(super) struct Problems {
    newlines: Vec<usize>,
    found: Vec<Problem>,
    hint: Hint,
}

impl Problems {
    pub(super) fn new(text: &str, hint: Hint) -> Self {
        Self {
            newlines: text.match_indices('\n').map(|(at, _)| at).collect(),
            found: Vec::new(),
            hint,
        }
    }

    /// A remedy for the unknown `key` of the table at `path`, if there is one beside the keys of that table.
    pub(super) fn hint(&self, path: &str, key: &str) -> Option<String> {
        (self.hint)(path, key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Problems so far.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// Notes a problem of the value at `place`.
    pub(super) fn add(&mut self, place: &Place, message: impl fmt::Display) {
        self.found.push(Problem {
            line: place.offset.map(|offset| self.line(offset)),
            path: place.path.clone(),
            message: message.to_string(),
        });
    }

    /// Notes a problem of a whole line, which is counted from 0.
    pub(super) fn add_to_line(&mut self, line: usize, message: String) {
        self.found.push(Problem {
            line: Some(line + 1),
            path: String::new(),
            message,
        });
    }

    /// Takes the value out of `result`, or notes why there is none.
    pub(super) fn keep<T, E: fmt::Display>(
        &mut self,
        place: &Place,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.add(place, error)).ok()
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.newlines.partition_point(|newline| *newline < offset)
    }

    pub(super) fn into_error(mut self, source: &Path) -> ConfigError {
        // Problems of the whole file come first: they often explain the rest.
        self.found.sort_by_key(|problem| problem.line);
        ConfigError {
            source: source.to_owned(),
            problems: self.found,
        }
    }
}
