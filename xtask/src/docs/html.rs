//! Links of the built pages, to files and anchors.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Each link of the HTML pages below `root` that leads to no file or to no anchor.
pub(super) fn dead_links(root: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    read(root, &mut pages)?;
    let mut anchors: BTreeMap<&Path, HashSet<&str>> = BTreeMap::new();
    for (path, text) in &pages {
        anchors.insert(path, values(text, "id").collect());
    }
    let mut dead = Vec::new();
    for (path, text) in &pages {
        for link in values(text, "href").filter(|link| is_local(link)) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = target(path, file);
            let leads = match anchors.get(target.as_path()) {
                Some(ids) => anchor.is_empty() || ids.contains(anchor),
                None => anchor.is_empty() && target.exists(),
            };
            if !leads {
                let page = path.strip_prefix(root).unwrap_or(path);
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    dead.dedup();
    Ok(dead)
}

/// The text of each page.
fn read(directory: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, pages)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "html")
        {
            let text = fs::read_to_string(&path);
            let text = text.with_context(|| format!("read {}", path.display()))?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// The values of an attribute.
fn values<'t>(text: &'t str, attribute: &'static str) -> impl Iterator<Item = &'t str> {
    let start = format!(" {attribute}=\"");
    let ends: Vec<usize> = text
        .match_indices(&start)
        .map(|(at, found)| at + found.len())
        .collect();
    ends.into_iter()
        .filter_map(|at| text[at..].split('"').next())
}

fn is_local(link: &str) -> bool {
    !link.contains("://") && !link.starts_with("mailto:") && !link.starts_with("javascript:")
}

/// The file that a link on the page `path` leads to.
fn target(path: &Path, file: &str) -> PathBuf {
    if file.is_empty() {
        return path.to_owned();
    }
    let joined = path.parent().unwrap_or(path).join(file);
    let mut target = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::ParentDir => drop(target.pop()),
            Component::CurDir => {}
            other => target.push(other),
        }
    }
    if target.is_dir() {
        target.push("index.html");
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_missing_files_and_anchors_are_dead() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("x.json"), "{}").unwrap();
        fs::write(dir.path().join("b.html"), "<h2 id=\"there\">").unwrap();
        let page = "<a href=\"../b.html#there\"> <a href=\"../x.json\"> <a href=\"https://a.test/\">\
                    <a href=\"../b.html#gone\"> <a href=\"gone.html\"> <a class=\"c\" href=\"#gone\">";
        fs::write(dir.path().join("a/a.html"), page).unwrap();
        let dead = dead_links(dir.path()).unwrap();
        let expected = ["../b.html#gone", "gone.html", "#gone"];
        assert_eq!(dead, expected.map(|link| format!("a/a.html: {link}")));
    }
}
