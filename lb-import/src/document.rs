//! The configuration that comes out: tables in the order of the file, and a comment for the origin of each part.

use std::fmt::Write as _;

use toml::Value;

use crate::report::Origin;

/// A table of the configuration with its heading.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    heading: String,
    origin: Option<Origin>,
    keys: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Key {
    name: &'static str,
    value: Value,
    origin: Option<Origin>,
}

impl Part {
    /// The table under `heading`, as `[[service]]`.
    pub(crate) fn new(heading: impl Into<String>, origin: Option<&Origin>) -> Self {
        Self {
            heading: heading.into(),
            origin: origin.cloned(),
            keys: Vec::new(),
        }
    }

    /// Gives `name` a value, which came from `origin`.
    pub(crate) fn set(
        &mut self,
        name: &'static str,
        value: impl Into<Value>,
        origin: Option<&Origin>,
    ) {
        let value = value.into();
        let origin = origin.cloned();
        match self.keys.iter_mut().find(|key| key.name == name) {
            Some(key) => (key.value, key.origin) = (value, origin),
            None => self.keys.push(Key {
                name,
                value,
                origin,
            }),
        }
    }

    /// The value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        let mut keys = self.keys.iter();
        keys.find(|key| key.name == name).map(|key| &key.value)
    }

    /// Takes `name` away, if it has it.
    pub(crate) fn remove(&mut self, name: &str) {
        self.keys.retain(|key| key.name != name);
    }

    /// Whether it has no key.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The names of its keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }

    fn write(&self, text: &mut String) {
        if let Some(origin) = &self.origin {
            let _ = writeln!(text, "# {origin}");
        }
        let _ = writeln!(text, "{}", self.heading);
        let widest = self.keys.iter().map(|key| key.name.len()).max();
        let widest = widest.unwrap_or_default();
        for Key {
            name,
            value,
            origin,
        } in &self.keys
        {
            let _ = write!(text, "{name:widest$} = {value}");
            match origin {
                Some(origin) if Some(origin) != self.origin.as_ref() => {
                    let _ = writeln!(text, "  # {origin}");
                }
                _ => text.push('\n'),
            }
        }
    }
}

/// The parts as TOML, after the comment `head`.
pub(crate) fn toml(head: &str, parts: &[Part]) -> String {
    let mut text = String::new();
    for line in head.lines() {
        let _ = writeln!(text, "# {line}");
    }
    for part in parts {
        text.push('\n');
        part.write(&mut text);
    }
    text
}

/// A list of texts.
pub(crate) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Value {
    Value::Array(
        texts
            .into_iter()
            .map(|text| Value::String(text.into()))
            .collect(),
    )
}

/// A table on one line.
pub(crate) fn table<const N: usize>(keys: [(&str, Value); N]) -> Value {
    let keys = keys.map(|(name, value)| (name.to_owned(), value));
    Value::Table(keys.into_iter().collect())
}
