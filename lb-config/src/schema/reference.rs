//! The tables of keys in docs/configuration.md.

use std::collections::BTreeMap;

use super::shape::one_line;
use super::{Change, Key, Section, Shape};

/// The keys of one table of the configuration, for a page.
pub struct Reference {
    /// The path of the table, as in `service.http.timeouts`.
    pub table: String,
    /// The same in TOML, as in `[service.http.timeouts]` or `[[service.route]]`.
    pub heading: String,
    /// The keys, as a table in Markdown.
    pub keys: String,
}

/// Every table of a document that is a section, once, each before those inside it.
pub(crate) fn reference<S: Section>() -> Vec<Reference> {
    let mut tables = Tables::new();
    find(&Shape::table::<S>(), "", false, &mut tables);
    let places: BTreeMap<&str, &str> = tables
        .iter()
        .map(|table| (table.name, table.heading.as_str()))
        .collect();
    let of = |table: &Table| Reference {
        table: table.path.clone(),
        heading: table.heading.clone(),
        keys: rows(&table.keys, &places),
    };
    // The document itself has no heading: its keys are those of the two tables in it.
    tables.iter().skip(1).map(of).collect()
}

/// A table of the configuration and the names of its keys, for hints.
pub(crate) struct Place {
    /// The path of the table, as in `service.http.timeouts`; empty for the document.
    pub(crate) path: String,
    /// The same in TOML, as in `[service.http.timeouts]`.
    pub(crate) heading: String,
    /// The names of its keys.
    pub(crate) keys: Vec<&'static str>,
}

/// Every table of a document that is a section, once, without the document itself.
pub(crate) fn places<S: Section>() -> Vec<Place> {
    let mut tables = Tables::new();
    find(&Shape::table::<S>(), "", false, &mut tables);
    let of = |table: Table| Place {
        path: table.path,
        heading: table.heading,
        keys: table.keys.iter().map(|key| key.name).collect(),
    };
    tables.into_iter().skip(1).map(of).collect()
}

/// A table as it was found.
struct Table {
    name: &'static str,
    path: String,
    heading: String,
    keys: Vec<Key>,
}

type Tables = Vec<Table>;

/// Finds the tables in `shape`, which `is_listed` if it is that of an item of a list.
fn find(shape: &Shape, path: &str, is_listed: bool, tables: &mut Tables) {
    match shape {
        Shape::List(item) => find(item, path, true, tables),
        Shape::Either(shapes) => {
            for shape in shapes {
                find(shape, path, is_listed, tables);
            }
        }
        Shape::Table { name, keys, .. } if tables.iter().all(|table| table.name != *name) => {
            let heading = match is_listed {
                true => format!("[[{path}]]"),
                false => format!("[{path}]"),
            };
            tables.push(Table {
                name,
                path: path.to_owned(),
                heading,
                keys: keys(),
            });
            for key in keys() {
                let path = match path {
                    "" => key.name.to_owned(),
                    _ => format!("{path}.{}", key.name),
                };
                find(&key.shape, &path, false, tables);
            }
        }
        _ => {}
    }
}

/// Headings by the names of tables.
type Places<'a> = BTreeMap<&'a str, &'a str>;

fn rows(keys: &[Key], places: &Places<'_>) -> String {
    let mut table = String::from(
        "| Key | Type and unit | Default | Since | Takes effect | Meaning |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for key in keys {
        let cells = [
            format!("`{}`", key.name),
            words(&key.shape, places),
            default(key),
            key.since.to_owned(),
            match key.change {
                Change::Reload => "reload".to_owned(),
                Change::Restart => "restart".to_owned(),
            },
            meaning(key),
        ];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        table += &format!("| {} |\n", cells.join(" | "));
    }
    table
}

fn default(key: &Key) -> String {
    match (&key.default, key.default_in_words, &key.shape) {
        (_, Some(words), _) => words.to_owned(),
        (Some(_), None, Shape::Table { .. }) => "that of each key".to_owned(),
        (Some(value), None, _) => format!("`{value}`"),
        (None, None, _) if key.required => "required".to_owned(),
        (None, None, _) => "none".to_owned(),
    }
}

fn meaning(key: &Key) -> String {
    let mut text = one_line(key.about);
    if let Shape::Choice(names) = &key.shape {
        for (name, about) in names {
            text += &format!(" `\"{name}\"`: {}", one_line(about));
        }
    }
    text
}

fn words(shape: &Shape, places: &Places<'_>) -> String {
    match shape {
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Text { what, .. } => (*what).to_owned(),
        Shape::Choice(names) => {
            let names = names.iter().map(|(name, _)| format!("`\"{name}\"`"));
            format!("one of {}", names.collect::<Vec<_>>().join(", "))
        }
        Shape::Whole { least, most, unit } => whole(*least, *most, unit),
        Shape::Number { least, most, unit } => format!("number, {least} to {most}, {unit}"),
        Shape::List(item) => format!("list: {}", words(item, places)),
        Shape::Either(shapes) => either(shapes, places),
        Shape::Map { keys, values } => {
            format!("table of {keys}, each with a {}", words(values, places))
        }
        Shape::Table { name, .. } => {
            let heading = places.get(name).copied().unwrap_or_default();
            let anchor: String = heading.chars().filter(|c| !"[.]".contains(*c)).collect();
            format!("table [`{heading}`](#{anchor})")
        }
    }
}

fn either(shapes: &[Shape], places: &Places<'_>) -> String {
    let mut all: Vec<String> = shapes.iter().map(|shape| words(shape, places)).collect();
    if let [list, item] = all.as_slice()
        && *list == format!("list: {item}")
    {
        all = vec![item.clone(), "a list of them".to_owned()];
    }
    all.join(", or ")
}

fn whole(least: i64, most: i64, unit: &str) -> String {
    let of = if unit.is_empty() { "" } else { " of " };
    match most {
        i64::MAX => format!("whole number{of}{unit}, {least} and more"),
        most => format!("whole number{of}{unit}, {least} to {most}"),
    }
}
