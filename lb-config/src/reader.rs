//! Walking a parsed TOML document: typed fields, known keys, every problem noted and none fatal.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::choice::Choice;
use super::error::{Located, Place, Problems};
use super::foreign;
use super::value::quoted;

/// Parses `text`. A syntax error is noted, and there is no document. Reading the rest would only
/// bring up problems that are not there.
pub(super) fn document<'i>(text: &'i str, problems: &mut Problems) -> Option<DeTable<'i>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(table.into_inner());
    }
    if let Some((line, message)) = foreign::whole_file(text) {
        problems.add_to_line(line, message);
        return None;
    }
    // One mistake often leads the parser into several errors on the same line.
    let mut lines = BTreeSet::new();
    for error in &errors {
        let offset = error.span().map_or(0, |span| span.start);
        if lines.insert(problems.line(offset)) {
            let place = Place {
                offset: Some(offset),
                ..Place::FILE
            };
            let message = error.message().trim().replace('\n', ", ");
            match directive(text, offset) {
                Some(hint) => problems.add(&place, format!("{message} ({hint})")),
                None => problems.add(&place, message),
            }
        }
    }
    None
}

/// A hint about the line at `offset`, if it begins with a directive of another program.
fn directive(text: &str, offset: usize) -> Option<String> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
    foreign::key(text[start..].split_whitespace().next()?)
}

/// A table with keys that are taken one after the other.
pub(super) struct Table<'a, 'i> {
    pub(super) place: Place,
    entries: &'a DeTable<'i>,
    known: Vec<&'static str>,
}

/// A value of the document, with its place.
pub(super) struct Value<'a, 'i> {
    pub(super) place: Place,
    value: &'a DeValue<'i>,
}

impl<'a, 'i> Table<'a, 'i> {
    /// The table of the whole document.
    pub(super) fn root(entries: &'a DeTable<'i>) -> Self {
        Self {
            place: Place::FILE,
            entries,
            known: Vec::new(),
        }
    }

    /// The value of `key`, if there is one. This makes `key` a known one.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'a, 'i>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.peek(key)
    }

    /// The value of `key`, without making it known.
    pub(super) fn peek(&self, key: &str) -> Option<Value<'a, 'i>> {
        let mut entries = self.entries.iter();
        let found = entries.find(|(name, _)| name.get_ref() == key);
        found.map(|(_, value)| self.value_of(key, value))
    }

    /// Whether the value of `key` is the text `expected`.
    pub(super) fn says(&self, key: &str, expected: &str) -> bool {
        let value = self.peek(key);
        value.is_some_and(|value| value.value.as_str() == Some(expected))
    }

    /// Whether the table has `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.keys().any(|name| name.get_ref() == key)
    }

    /// The value of `key`; a missing one is noted.
    pub(super) fn require(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Problems,
    ) -> Option<Value<'a, 'i>> {
        let value = self.take(key);
        if value.is_none() {
            problems.add(
                &self.place,
                format!("{key} is missing (write {key} = {example})"),
            );
        }
        value
    }

    /// All keys with their values, for a table with free keys, which are values themselves.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Value<'a, 'i>)> {
        self.entries.iter().map(|(key, value)| {
            let key = key.get_ref().as_ref();
            (key, self.value_of(key, value))
        })
    }

    fn value_of(&self, key: &str, value: &'a Spanned<DeValue<'i>>) -> Value<'a, 'i> {
        Value {
            place: Place {
                path: self.path_of(key),
                offset: Some(value.span().start),
            },
            value: value.get_ref(),
        }
    }

    /// Notes the keys that were not taken.
    pub(super) fn finish(self, problems: &mut Problems) {
        for name in self.entries.keys() {
            let key = name.get_ref().as_ref();
            if !self.known.contains(&key) {
                let place = Place {
                    path: self.path_of(key),
                    offset: Some(name.span().start),
                };
                let remedy = instead_of(key, &self, problems);
                problems.add(&place, format!("unknown key ({remedy})"));
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let key = if !key.is_empty() && key.bytes().all(bare) {
            key.to_owned()
        } else {
            quoted(key)
        };
        match self.place.path.as_str() {
            "" => key,
            path => format!("{path}.{key}"),
        }
    }
}

impl<'a, 'i> Value<'a, 'i> {
    /// The string, turned into a value by `read`.
    pub(super) fn string<T, E: std::fmt::Display>(
        &self,
        example: &str,
        problems: &mut Problems,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let DeValue::String(text) = self.value else {
            return self.mismatch("a string", example, problems);
        };
        problems.keep(&self.place, read(text))
    }

    /// One of the names of a choice.
    pub(super) fn choice<T: Choice>(&self, problems: &mut Problems) -> Option<T> {
        let names: Vec<&str> = T::ALL.iter().map(|(name, ..)| *name).collect();
        let example = format!("\"{}\"", names[0]);
        self.string(&example, problems, |text| {
            let found = T::ALL.iter().find(|(name, ..)| *name == text);
            found.map(|(_, choice, _)| *choice).ok_or_else(|| {
                let key = self.place.path.rsplit('.').next().unwrap_or_default();
                let remedy = foreign::instead_of_value(key, text, &either(&names));
                format!("{} is unknown ({remedy})", quoted(text))
            })
        })
    }

    /// A whole number; another type is noted.
    pub(super) fn integer(&self, example: &str, problems: &mut Problems) -> Option<i128> {
        let DeValue::Integer(digits) = self.value else {
            return self.mismatch("a whole number", example, problems);
        };
        let number = i128::from_str_radix(digits.as_str(), digits.radix());
        problems.keep(
            &self.place,
            number.map_err(|_| format!("number too large (write something like {example})")),
        )
    }

    /// A whole number in `range`.
    pub(super) fn integer_in<T>(
        &self,
        range: std::ops::RangeInclusive<T>,
        problems: &mut Problems,
    ) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + std::fmt::Display,
    {
        let example = range.end().to_string();
        let number = self.integer(&example, problems)?;
        let fitting = T::try_from(number)
            .ok()
            .filter(|number| range.contains(number));
        let wrong = format!(
            "{number} is out of range (use {} to {})",
            range.start(),
            range.end()
        );
        problems.keep(&self.place, fitting.ok_or(wrong))
    }

    /// A number, whole or not.
    pub(super) fn number(&self, example: &str, problems: &mut Problems) -> Option<f64> {
        let number = match self.value {
            DeValue::Float(digits) => digits.as_str().parse().ok(),
            DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
                .ok()
                .map(|number| number as f64),
            _ => None,
        };
        number.or_else(|| self.mismatch("a number", example, problems))
    }

    /// The items of a list.
    pub(super) fn list(&self, example: &str, problems: &mut Problems) -> Vec<Self> {
        let DeValue::Array(items) = self.value else {
            self.mismatch::<()>("a list", example, problems);
            return Vec::new();
        };
        let item = |(index, item): (usize, &'a Spanned<DeValue<'i>>)| Value {
            place: Place {
                path: format!("{}[{index}]", self.place.path),
                offset: Some(item.span().start),
            },
            value: item.get_ref(),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The table, with its keys yet to be taken.
    pub(super) fn table(&self, example: &str, problems: &mut Problems) -> Option<Table<'a, 'i>> {
        let DeValue::Table(entries) = self.value else {
            return self.mismatch("a table", example, problems);
        };
        Some(Table {
            place: self.place.clone(),
            entries,
            known: Vec::new(),
        })
    }

    /// A boolean; another type is noted.
    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.mismatch("true or false", "true", problems),
        }
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(|items| items.is_empty())
    }

    /// The text, if the value is one.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// All keys with their values, if the value is a table.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> {
        let entries = self.value.as_table();
        let table = entries.map(|entries| Table {
            place: self.place.clone(),
            entries,
            known: Vec::new(),
        });
        let entries: Vec<(&'a str, Self)> = table.iter().flat_map(Table::entries).collect();
        entries.into_iter()
    }

    pub(super) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    pub(super) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    /// `value` with the place of this one.
    pub(super) fn locate<T>(&self, value: T) -> Located<T> {
        Located {
            value,
            place: self.place.clone(),
        }
    }

    /// Notes that another type was expected.
    fn mismatch<T>(&self, expected: &str, example: &str, problems: &mut Problems) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("expected {expected}, not {found} (write something like {example})");
        problems.add(&self.place, message);
        None
    }
}

/// A remedy for the unknown `key` of `table`: a key that differs by a letter or its end, a hint, the nearest
/// key, or all keys.
fn instead_of(key: &str, table: &Table<'_, '_>, problems: &Problems) -> String {
    let known = table.known.as_slice();
    let distance = |name: &&str| strsim::damerau_levenshtein(key, name);
    let is_beginning = |name: &&str| key.len() > 3 && name.starts_with(key);
    // Comparing costs time in the product of the lengths: nothing that long is meant to be a key.
    let nearest = (key.len() <= 64)
        .then(|| {
            let rank = |name: &&str| (!is_beginning(name), distance(name));
            known.iter().copied().min_by_key(rank)
        })
        .flatten();
    let near = nearest.filter(|name| distance(name) <= 1 + name.len() / 4 || name.starts_with(key));
    let is_typo = near.is_some_and(|name| is_beginning(&name) || distance(&name) == 1);
    let hint = || problems.hint(&table.place.path, key);
    match (near, (!is_typo).then(hint).flatten()) {
        (_, Some(hint)) => hint,
        (Some(name), None) => format!("did you mean {name}?"),
        (None, None) => format!("there is {}", all(known)),
    }
}

/// "a", "a or b", "a, b or c".
fn either(names: &[&str]) -> String {
    joined(names, "or", '"')
}

fn all(names: &[&str]) -> String {
    joined(names, "and", ' ')
}

fn joined(names: &[&str], last: &str, quote: char) -> String {
    let quoted: Vec<String> = names
        .iter()
        .map(|name| format!("{quote}{name}{quote}").trim().to_owned())
        .collect();
    match quoted.split_last() {
        Some((end, [])) => end.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
        None => String::new(),
    }
}
