//! `cargo xtask deny`: licences, sources and versions of all dependencies, against `deny.toml`.
//!
//! The file is in the format of cargo-deny, which is run too if it is installed. Nothing here
//! installs it, as it takes minutes to compile. `cargo metadata` knows all but the advisories.
//!
//! | file | owns |
//! | --- | --- |
//! | `rules` | reading `deny.toml` |
//! | `graph` | the packages that are compiled, by `cargo metadata` |
//! | `spdx` | licence expressions |

mod graph;
mod rules;
mod spdx;

use crate::sh::{self, CommandExt, say};
use anyhow::{Context, Result, bail};
use graph::Package;
use rules::Rules;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The workspaces of this repository, each with a lock file of its own.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "lb-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// Checks the dependencies of every workspace.
pub(crate) fn deny() -> Result<()> {
    let path = sh::workspace().join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rules = Rules::read(&text)?;
    let mut complaints = Vec::new();
    let mut skipped = BTreeSet::new();
    let mut count = 0;
    for manifest in MANIFESTS {
        let packages = graph::packages(&sh::workspace().join(manifest), &rules.targets)?;
        count += packages.len();
        let found = check(&packages, &rules, &mut skipped);
        complaints.extend(found.into_iter().map(|line| format!("{manifest}: {line}")));
    }
    let needless = rules.skip.iter().filter(|skip| !skipped.contains(*skip));
    complaints.extend(
        needless.map(|skip| format!("deny.toml: {skip} is skipped, and is not there twice")),
    );
    for complaint in &complaints {
        println!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("{} complaints about dependencies", complaints.len());
    }
    say(format!(
        "deny: licences, sources and versions of {count} packages in {} workspaces, no complaint",
        MANIFESTS.len()
    ));
    cargo_deny()
}

/// Runs cargo-deny, with advisories if their database can be had.
fn cargo_deny() -> Result<()> {
    let Some(program) = sh::find_program("cargo-deny") else {
        say(
            "deny: advisories are SKIPPED: they take cargo-deny (cargo install --locked cargo-deny)",
        );
        return Ok(());
    };
    let command = |manifest: &str| {
        let mut command = Command::new(&program);
        command.current_dir(sh::workspace());
        command.args(["--manifest-path", manifest]);
        command
    };
    if let Err(error) = command(MANIFESTS[0]).args(["fetch", "db"]).read() {
        say(format!(
            "deny: advisories are SKIPPED, as their database cannot be had: {error:#}"
        ));
        return each(|manifest| {
            command(manifest)
                .args(CHECK)
                .args(["bans", "licenses", "sources"])
                .run_shown()
        });
    }
    each(|manifest| command(manifest).args(CHECK).run_shown())
}

/// Allows entries of `deny.toml` that only another workspace needs.
const CHECK: [&str; 7] = [
    "check",
    "--allow",
    "unmatched-skip",
    "--allow",
    "unnecessary-skip",
    "--allow",
    "license-not-encountered",
];

/// Runs it for all workspaces, even if one fails.
fn each(mut run: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let outcomes: Vec<Result<()>> = MANIFESTS.iter().map(|manifest| run(manifest)).collect();
    outcomes.into_iter().collect()
}

/// Complaints about the packages of one workspace. Versions that are let pass are added to
/// `skipped`.
fn check(packages: &[Package], rules: &Rules, skipped: &mut BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in packages {
        let named = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref();
        match licence.map(|text| spdx::is_allowed(text, &rules.licenses)) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => {
                let licence = licence.unwrap_or_default();
                complaints.push(format!(
                    "{named} is under {licence}, which deny.toml does not allow"
                ));
            }
            Some(Err(error)) => complaints.push(format!("{named}: {error}")),
            None => complaints.push(format!("{named} names no licence")),
        }
        if let Some(source) = &package.source
            && !rules.is_allowed_source(source)
        {
            complaints.push(format!(
                "{named} is from {source}, which deny.toml does not allow"
            ));
        }
    }
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    for (name, versions) in versions
        .into_iter()
        .filter(|(_, versions)| versions.len() > 1)
    {
        let mut skips = |version: &&str| {
            let skip = rules.skips(name, version);
            skipped.extend(skip.map(str::to_owned));
            skip.is_some()
        };
        let left: Vec<&str> = versions
            .iter()
            .copied()
            .filter(|version| !skips(version))
            .collect();
        if left.len() > 1 {
            complaints.push(format!(
                "{name} is there in versions {}: take one, or name the other under skip in deny.toml",
                left.join(" and ")
            ));
        }
    }
    complaints
}

/// The manifest in words, for errors.
fn shown(manifest: &Path) -> String {
    let path = manifest.strip_prefix(sh::workspace()).unwrap_or(manifest);
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [licenses]
        allow = ["MIT"]
        [bans]
        skip = [{ crate = "syn@^2", reason = "macros" }]
        [sources]
        allow-registry = ["https://example.org/index"]
    "#;

    fn package(name: &str, version: &str, license: &str, source: Option<&str>) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: (!license.is_empty()).then(|| license.to_owned()),
            source: source.map(str::to_owned),
        }
    }

    fn complaints(packages: &[Package]) -> (Vec<String>, BTreeSet<String>) {
        let mut skipped = BTreeSet::new();
        let rules = Rules::read(RULES).unwrap();
        (check(packages, &rules, &mut skipped), skipped)
    }

    #[test]
    fn licence_that_is_not_listed_is_found_and_a_missing_one_too() {
        let packages = [
            package("a", "1.0.0", "MIT OR GPL-3.0", None),
            package("b", "1.0.0", "MIT AND GPL-3.0", None),
            package("c", "1.0.0", "", None),
        ];
        let (found, _) = complaints(&packages);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("b 1.0.0 is under MIT AND GPL-3.0"));
        assert_eq!(found[1], "c 1.0.0 names no licence");
    }

    #[test]
    fn source_that_is_not_listed_is_found() {
        let from = |source| {
            complaints(&[package("a", "1.0.0", "MIT", Some(source))])
                .0
                .len()
        };
        assert_eq!(from("registry+https://example.org/index"), 0);
        assert_eq!(from("registry+https://example.org/other"), 1);
        assert_eq!(from("git+https://example.org/index#abc"), 1);
    }

    #[test]
    fn second_version_is_found_unless_it_is_skipped() {
        let twice = |name, versions: [&str; 2]| {
            complaints(&versions.map(|version| package(name, version, "MIT", None)))
        };
        assert_eq!(twice("nix", ["0.30.1", "0.31.3"]).0.len(), 1);
        let (found, skipped) = twice("syn", ["2.0.119", "3.0.9"]);
        assert!(found.is_empty(), "{found:?}");
        assert!(skipped.contains("syn@^2"));
        assert_eq!(twice("syn", ["3.0.9", "4.0.0"]).0.len(), 1);
    }
}
