//! Configurations of nginx and HAProxy as tutorials have them, beside what becomes of them.
//!
//! `REWRITE=1 cargo test -p lb-import --test corpus` writes the results anew.

use std::fs;
use std::path::{Path, PathBuf};

use lb_import::{ImportError, Imported, Kind, haproxy, nginx};

/// The files of the corpus by name. The tests run in their directory, so that findings have short names of files.
fn corpus() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    std::env::set_current_dir(directory).unwrap();
    let entries = fs::read_dir(".").unwrap();
    let names = entries.map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let mut files: Vec<PathBuf> = names
        .filter(|name| is_of(name, "nginx") || is_of(name, "haproxy"))
        .collect();
    files.sort();
    files
}

fn is_of(name: &Path, program: &str) -> bool {
    name.extension().is_some_and(|end| end == program)
}

fn import(file: &Path) -> Result<Imported, ImportError> {
    match is_of(file, "nginx") {
        true => nginx::import(file),
        false => haproxy::import(file),
    }
}

fn findings(imported: &Imported) -> String {
    imported
        .findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

#[test]
fn results_are_those_beside_the_files() {
    let files = corpus();
    assert!(files.len() >= 45);
    for file in files {
        let imported = import(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for (end, text) in [
            ("toml", imported.toml.clone()),
            ("findings", findings(&imported)),
        ] {
            let path = file.with_extension(end);
            if std::env::var_os("REWRITE").is_some() {
                fs::write(&path, &text).unwrap();
            }
            let expected = fs::read_to_string(&path).unwrap();
            assert_eq!(text, expected, "{}", path.display());
        }
    }
}

/// A directive that is neither reported nor changes anything would be lost in silence.
#[test]
fn every_directive_has_an_effect_or_a_finding() {
    let copies = tempfile::tempdir().unwrap();
    let mut silent = Vec::new();
    for file in corpus() {
        let text = fs::read_to_string(&file).unwrap();
        if text.contains("include conf.d") {
            continue;
        }
        let copy = copies.path().join(&file);
        fs::write(&copy, &text).unwrap();
        let whole = import(&copy).unwrap();
        let is_nginx = is_of(&file, "nginx");
        let mut blocks: Vec<usize> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split(" # ").next().unwrap_or_default().trim();
            let is_one = match is_nginx {
                true => {
                    line.matches(';').count() == 1
                        && line.ends_with(';')
                        && !line.contains(['{', '}'])
                }
                // Headings of sections are no lines of their own.
                false => text
                    .lines()
                    .nth(at)
                    .is_some_and(|line| line.starts_with(' ')),
            };
            let is_found = |at: &usize| {
                let mut findings = whole.findings.iter();
                findings.any(|finding| finding.origin.line == at + 1)
            };
            let is_told = is_found(&at) || blocks.iter().any(is_found);
            if !is_nginx && !is_one {
                blocks = vec![at];
            }
            for char in line.chars().filter(|_| is_nginx) {
                match char {
                    '{' => blocks.push(at),
                    '}' => drop(blocks.pop()),
                    _ => {}
                }
            }
            if !is_one || is_told {
                continue;
            }
            // Another value has to change the result, or none at all.
            let other = match is_nginx {
                true => line.replace(';', "x;"),
                false => format!("  {line}x"),
            };
            let changed = [other, String::new()].map(|line| {
                let mut lines: Vec<&str> = text.lines().collect();
                lines[at] = &line;
                fs::write(&copy, lines.join("\n")).unwrap();
                import(&copy).map_or(true, |other| {
                    other.toml != whole.toml || other.findings != whole.findings
                })
            });
            if changed == [false, false] {
                silent.push(format!("{}:{}: {line}", file.display(), at + 1));
            }
        }
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[test]
fn losses_are_findings() {
    let lossy = |name: &str| {
        corpus();
        let imported = import(Path::new(name)).unwrap();
        imported.lost().count()
    };
    assert_eq!(lossy("node_proxy.nginx"), 0);
    assert!(lossy("wordpress.nginx") > 0);
    let kinds = import(Path::new("socketio.nginx")).unwrap().findings;
    assert!(kinds.iter().any(|finding| finding.kind == Kind::Needless));
}
