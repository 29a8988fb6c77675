//! The tables of keys in docs/configuration.md are those of the schema.

use crate::{Reference, reference};

const PAGE: &str = "../docs/configuration.md";
const END: &str = "<!-- end of keys -->\n";

fn page() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    std::fs::read_to_string(path).unwrap()
}

fn start(table: &str) -> String {
    format!("<!-- keys of {table} -->\n")
}

/// The page with the keys that the schema has now.
fn generated(mut page: String) -> String {
    for Reference { table, keys, .. } in reference() {
        let start = start(&table);
        assert_eq!(
            page.matches(&start).count(),
            1,
            "write {start:?} once on the page"
        );
        let from = page.find(&start).unwrap() + start.len();
        let to = from + page[from..].find(END).expect("a closing comment");
        page.replace_range(from..to, &keys);
    }
    page
}

/// `REWRITE=1 cargo test -p lb-config reference` writes the page anew.
#[test]
fn reference_page_has_the_keys_of_the_schema() {
    let page = page();
    let generated = generated(page.clone());
    if std::env::var_os("REWRITE").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        std::fs::write(path, &generated).unwrap();
        return;
    }
    assert!(
        page == generated,
        "run REWRITE=1 cargo test -p lb-config reference"
    );
    let count = page.matches("<!-- keys of ").count();
    assert_eq!(
        count,
        reference().len(),
        "keys of a table that is not there"
    );
}

#[test]
fn every_link_to_a_table_has_its_heading() {
    let page = page();
    for Reference { heading, .. } in reference() {
        assert!(page.contains(&format!("## `{heading}`\n")), "{heading}");
    }
}

#[test]
fn every_key_has_a_meaning_and_tables_are_there_once() {
    let tables = reference();
    let names: std::collections::BTreeSet<&str> =
        tables.iter().map(|table| table.table.as_str()).collect();
    assert_eq!(names.len(), tables.len());
    for Reference { table, keys, .. } in &tables {
        for row in keys.lines().skip(2) {
            let meaning = row.rsplit(" | ").next().unwrap();
            assert!(meaning.split(' ').count() > 2, "{table}: {row}");
        }
    }
}
