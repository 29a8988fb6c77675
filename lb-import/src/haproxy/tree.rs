//! The syntax of HAProxy: lines of words, in sections.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use crate::ImportError;
use crate::report::Origin;

/// A line of a section.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) origin: Origin,
    pub(super) words: Vec<String>,
    /// Whether some rule has taken it.
    taken: Cell<bool>,
}

impl Line {
    /// Word `index`, or an empty text.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// Whether its first words are these.
    pub(super) fn is(&self, words: &str) -> bool {
        let mut own = self.words.iter();
        words
            .split(' ')
            .all(|word| own.next().is_some_and(|own| own == word))
    }

    /// Marks it as carried over.
    pub(super) fn take(&self) {
        self.taken.set(true);
    }

    /// Whether it is carried over.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.get()
    }

    /// All words, at most some 60 bytes of them.
    pub(super) fn shown(&self) -> String {
        let text = self.words.join(" ");
        match text.len() {
            0..=60 => text,
            _ => format!("{}...", &text[..text.floor_char_boundary(57)]),
        }
    }
}

/// A section: its heading and its lines.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) heading: Line,
    pub(super) lines: Vec<Line>,
}

impl Section {
    pub(super) fn kind(&self) -> &str {
        self.heading.word(0)
    }

    pub(super) fn name(&self) -> &str {
        self.heading.word(1)
    }
}

/// Words that begin a section.
const SECTIONS: [&str; 14] = [
    "backend",
    "cache",
    "defaults",
    "fcgi-app",
    "frontend",
    "global",
    "http-errors",
    "listen",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "userlist",
];

/// The sections of the file `path`.
pub(super) fn read(path: &Path) -> Result<Vec<Section>, ImportError> {
    let bytes =
        fs::read(path).map_err(|error| ImportError(format!("{}: {error}", path.display())))?;
    let text = String::from_utf8_lossy(&bytes);
    let file = Rc::new(path.to_owned());
    let mut sections: Vec<Section> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let error =
            |problem: &str| ImportError(format!("{}:{}: {problem}", path.display(), at + 1));
        let words = words(line).ok_or_else(|| error("a quote is not closed"))?;
        let Some(first) = words.first() else {
            continue;
        };
        let is_heading = SECTIONS.contains(&first.as_str());
        let line = Line {
            origin: Origin {
                file: Rc::clone(&file),
                line: at + 1,
            },
            words,
            taken: Cell::new(false),
        };
        if is_heading {
            let lines = Vec::new();
            sections.push(Section {
                heading: line,
                lines,
            });
        } else {
            let section = sections
                .last_mut()
                .ok_or_else(|| error("it stands in no section"))?;
            section.lines.push(line);
        }
    }
    Ok(sections)
}

/// The words of a line, without a comment.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (char, Some(open)) if char == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            ('#', None) => break,
            (char, None) if char.is_whitespace() => words.extend(word.take()),
            (char, _) => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_where_those_of_haproxy_do() {
        let of = |line: &str| words(line).map(|words| words.join("|"));
        assert_eq!(of("  bind :80 # all").as_deref(), Some("bind|:80"));
        assert_eq!(
            of("a 'b c' \"d\\\"e\" f\\ g").as_deref(),
            Some("a|b c|d\"e|f g")
        );
        assert_eq!(of("log \"\" x").as_deref(), Some("log||x"));
        assert_eq!(of("a 'b"), None);
        assert_eq!(of("# comment").as_deref(), Some(""));
    }
}
