//! `cargo xtask docs`: the pages as a book in HTML, with every link checked.
//!
//! The rules for pages themselves are those of `cargo xtask tidy`, which runs first. Tests of the
//! agent give every configuration and command of the pages to the program.

mod html;
mod stage;

use crate::machine::Machine;
use crate::sh::{self, CommandExt, say};
use crate::tidy;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of mdBook that the book is built with.
const MDBOOK: &str = "0.4.52";

/// Configuration of the book. It has no print page, so every link of its pages is one of ours.
const BOOK: &str = "\
[book]
title = \"lb-agent\"
language = \"en\"
src = \"src\"

[build]
build-dir = \"html\"
create-missing = false

[output.html]
no-section-label = true
input-404 = \"\"

[output.html.print]
enable = false
";

/// Checks the pages, builds the book and checks its links.
pub(crate) fn docs() -> Result<()> {
    tidy::tidy()?;
    let mdbook = mdbook()?;
    let book = sh::target_dir().join("book");
    if book.exists() {
        fs::remove_dir_all(&book).with_context(|| format!("empty {}", book.display()))?;
    }
    fs::create_dir_all(book.join("src"))?;
    fs::write(book.join("book.toml"), BOOK)?;
    stage::stage(&tidy::sources()?, &book.join("src"))?;
    Command::new(mdbook).arg("build").arg(&book).run_shown()?;
    let pages = book.join("html");
    let dead = html::dead_links(&pages)?;
    for link in &dead {
        println!("{link}");
    }
    if !dead.is_empty() {
        bail!("{} links of the book lead nowhere", dead.len());
    }
    say(format!(
        "the book is {}",
        pages.join("index.html").display()
    ));
    Ok(())
}

/// The path of mdBook. It is built once from crates.io into the target directory, which takes a
/// minute or two.
fn mdbook() -> Result<PathBuf> {
    let root = sh::target_dir().join("tools");
    let program = root.join("bin/mdbook");
    if !is_wanted(&program) {
        say(format!(
            "building mdBook {MDBOOK} from crates.io (a minute or two)"
        ));
        let machine = Machine::this();
        machine
            .command(&machine.cargo)
            // The profile and flags of this workspace are not for mdBook.
            .current_dir("/")
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR")
            .args(["install", "mdbook", "--locked", "--no-default-features"])
            .args(["--version", MDBOOK, "--root"])
            .arg(&root)
            .run_shown()?;
    }
    Ok(program)
}

fn is_wanted(program: &Path) -> bool {
    let version = Command::new(program).arg("--version").read();
    version.is_ok_and(|text| text.trim().ends_with(MDBOOK))
}
