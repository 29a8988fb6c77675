//! The part of `deny.toml` that is checked here. A reader of that one file, not of TOML: strings in lists,
//! under keys, under sections.

use anyhow::{Result, bail};
use std::collections::HashMap;

/// The rules of `deny.toml` for dependencies.
pub(super) struct Rules {
    /// Targets that are compiled for; all if there are none.
    pub(super) targets: Vec<String>,
    /// Licences by their SPDX names.
    pub(super) licenses: Vec<String>,
    /// Versions that are allowed beside another one, as in `syn@^2`.
    pub(super) skip: Vec<String>,
    registries: Vec<String>,
    git: Vec<String>,
}

impl Rules {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Fails if a list is missing without which nothing would be checked, or a version is not
    /// understood.
    pub(super) fn read(text: &str) -> Result<Self> {
        let mut lists = lists(text);
        let mut take = |name: &str| lists.remove(name).unwrap_or_default();
        let rules = Self {
            targets: take("graph.targets"),
            licenses: take("licenses.allow"),
            skip: take("bans.skip"),
            registries: take("sources.allow-registry"),
            git: take("sources.allow-git"),
        };
        if rules.licenses.is_empty() || rules.registries.is_empty() {
            bail!("deny.toml allows no licence or no registry");
        }
        if let Some(skip) = rules.skip.iter().find(|skip| !skip.contains("@^")) {
            bail!("deny.toml: write {skip} as in \"syn@^2\"");
        }
        Ok(rules)
    }

    /// Whether a package may come from `source`, as cargo names it.
    pub(super) fn is_allowed_source(&self, source: &str) -> bool {
        match source.split_once('+') {
            Some(("registry" | "sparse", url)) => self.registries.iter().any(|known| known == url),
            Some(("git", url)) => {
                let url = url.split(['?', '#']).next().unwrap_or_default();
                self.git.iter().any(|known| known == url)
            }
            _ => false,
        }
    }

    /// The entry of `skip` that allows this version beside another one.
    pub(super) fn skips(&self, name: &str, version: &str) -> Option<&str> {
        let fits = |skip: &&String| {
            skip.split_once("@^").is_some_and(|(of, from)| {
                let rest = version.strip_prefix(from);
                of == name && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        self.skip.iter().find(fits).map(String::as_str)
    }
}

/// The strings of every list, by `section.key`. From a table in a list, only `crate` is taken.
fn lists(text: &str) -> HashMap<String, Vec<String>> {
    let mut lists: HashMap<String, Vec<String>> = HashMap::new();
    let (mut section, mut key) = (String::new(), String::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.to_owned();
            continue;
        }
        let mut values = line;
        if let Some((name, rest)) = line.split_once(" = ")
            && !name.contains(['"', '{'])
        {
            key = format!("{section}.{name}");
            values = rest;
        }
        let values = match values.split_once("crate = ") {
            Some((_, name)) => name.split('"').nth(1).into_iter().collect(),
            None => values.split('"').skip(1).step_by(2).collect::<Vec<_>>(),
        };
        let list = lists.entry(key.clone()).or_default();
        list.extend(values.into_iter().map(str::to_owned));
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_on_one_line_and_on_many() {
        let text = r#"
            # allow = ["no"]
            [licenses]
            allow = [
                "MIT",
                "Zlib",
            ]
            [bans]
            multiple-versions = "deny"
            skip = [
                { crate = "syn@^2", reason = "macros" },
            ]
            [sources]
            allow-registry = ["https://example.org/a", "https://example.org/b"]
        "#;
        let rules = Rules::read(text).unwrap();
        assert_eq!(rules.licenses, ["MIT", "Zlib"]);
        assert_eq!(rules.skip, ["syn@^2"]);
        assert_eq!(rules.registries.len(), 2);
        assert_eq!(rules.skips("syn", "2.0.119"), Some("syn@^2"));
        assert_eq!(rules.skips("syn", "20.0.0"), None);
    }

    #[test]
    fn file_that_would_check_nothing_is_refused() {
        assert!(Rules::read("[licenses]\nallow = []\n").is_err());
    }
}
