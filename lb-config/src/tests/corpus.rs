//! Golden outcomes: each configuration of `corpus.txt` with its error lines, or with the values
//! that a good one is read as.
//!
//! `REWRITE=1 cargo test` writes the outcomes anew; the difference is then to be looked at.

use super::*;

const CORPUS: &str = include_str!("corpus.txt");
const TCP: &str = "[[service]]\nname = \"web\"\nlisten = [\"0.0.0.0:80\"]\n";
const HTTP: &str = "[[service]]\nname = \"app\"\nlisten = [\"0.0.0.0:80\"]\nmode = \"http\"\n\
                    backends = [\"127.0.0.1:1\"]\n";

/// The kind of a case, its text, and its outcome.
pub(crate) fn cases() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    CORPUS.split("=== ").skip(1).map(|case| {
        let (input, outcome) = case.split_once("\n---\n").unwrap();
        let (kind, text) = input.split_once('\n').unwrap();
        (kind, text, outcome)
    })
}

/// The configuration of a case. Some cases leave out lines that are alike in many.
fn whole(kind: &str, text: &str) -> String {
    match kind {
        "file" | "ok" => text.to_owned(),
        "agent" => format!("[agent]\n{text}\n{TCP}"),
        "tcp" => format!("{TCP}{text}"),
        "http" => format!("{HTTP}{text}"),
        other => panic!("no kind of case: {other}"),
    }
}

fn outcome(kind: &str, text: &str) -> String {
    let lines = match parse(&whole(kind, text), FilePath::new("f")) {
        Ok(config) if kind == "ok" => format!("{config:#?}"),
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    lines + "\n"
}

#[test]
fn every_mistake_gets_the_lines_that_it_always_got() {
    let mut written = String::new();
    let mut differing = Vec::new();
    for (kind, text, expected) in cases() {
        let found = outcome(kind, text);
        written += &format!("=== {kind}\n{text}\n---\n{found}");
        if found != expected {
            differing.push(format!(
                "{text}\n--- expected\n{expected}--- found\n{found}"
            ));
        }
    }
    if std::env::var_os("REWRITE").is_some() {
        let file = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/corpus.txt");
        std::fs::write(file, written).unwrap();
        return;
    }
    assert!(differing.is_empty(), "{}", differing.join("\n\n"));
}
