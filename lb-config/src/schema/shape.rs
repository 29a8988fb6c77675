//! The allowed values of a key, and the JSON schema made of that.

use serde_json::{Map, Value, json};

use super::{Key, Section};

/// The allowed values of a key.
pub(crate) enum Shape {
    /// A boolean: `true` or `false`.
    Flag,
    /// A text with a meaning.
    Text {
        /// The meaning of the text, in words.
        what: &'static str,
        /// An example, as TOML with its quotes.
        example: &'static str,
    },
    /// One of these texts, with their meanings.
    Choice(Vec<(&'static str, &'static str)>),
    /// A whole number within bounds.
    Whole {
        /// The least number, inclusive.
        least: i64,
        /// The greatest number, inclusive.
        most: i64,
        /// The unit of the number; may be empty.
        unit: &'static str,
    },
    /// A number within bounds, whole or not.
    Number {
        /// The least number, inclusive.
        least: f64,
        /// The greatest number, inclusive.
        most: f64,
        /// The unit of the number; may be empty.
        unit: &'static str,
    },
    /// A list with items of one shape.
    List(Box<Shape>),
    /// A value of any one of these shapes.
    Either(Vec<Shape>),
    /// A table with free keys, which are values themselves.
    Map {
        /// The meaning of its keys.
        keys: &'static str,
        /// The shape of its values.
        values: Box<Shape>,
    },
    /// A section with keys of its own.
    Table {
        /// The name in Rust, which is unique.
        name: &'static str,
        /// The doc comment of the section.
        about: &'static str,
        /// The keys in their order.
        keys: fn() -> Vec<Key>,
    },
}

impl Shape {
    pub(super) fn table<S: Section>() -> Self {
        Self::Table {
            name: S::NAME,
            about: S::ABOUT,
            keys: S::keys,
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Flag => json!({ "type": "boolean" }),
            Self::Text { example, .. } => {
                json!({ "type": "string", "examples": [example.trim_matches('"')] })
            }
            Self::Choice(names) => {
                let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                json!({ "type": "string", "enum": names })
            }
            Self::Whole { least, most, .. } => {
                json!({ "type": "integer", "minimum": least, "maximum": most })
            }
            Self::Number { least, most, .. } => {
                json!({ "type": "number", "minimum": least, "maximum": most })
            }
            Self::List(item) => json!({ "type": "array", "items": item.json() }),
            Self::Either(shapes) => {
                let shapes: Vec<Value> = shapes.iter().map(Self::json).collect();
                json!({ "anyOf": shapes })
            }
            Self::Map { values, .. } => {
                json!({ "type": "object", "additionalProperties": values.json() })
            }
            Self::Table { keys, about, .. } => table(&keys(), about),
        }
    }
}

fn table(keys: &[Key], about: &str) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required = keys.iter().filter(|key| key.required);
    let required: Vec<&str> = required.map(|key| key.name).collect();
    json!({
        "type": "object",
        "description": one_line(about),
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(key: &Key) -> Value {
    let mut schema = key.shape.json();
    schema["description"] = one_line(key.about).into();
    let simple = key.default.as_ref().filter(|value| !value.is_table());
    if let Some(default) = simple.and_then(|value| serde_json::to_value(value).ok()) {
        schema["default"] = default;
    }
    schema
}

/// A doc comment on one line.
pub(super) fn one_line(about: &str) -> String {
    let words: Vec<&str> = about.split_whitespace().collect();
    words.join(" ")
}

/// The JSON schema of a document that is a section (draft 7).
pub(crate) fn json_schema<S: Section>() -> String {
    let mut schema = Shape::table::<S>().json();
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "Configuration of lb-agent".into();
    format!("{schema:#}\n")
}
