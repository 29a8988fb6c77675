//! The programs of the peers: this machine's, or nginx and HAProxy in a root of another release; and what the versions
//! of all proxies are.

use super::ports::Proxy;
use crate::build::{self, Profile};
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories of a root that may have the loader of programs, and how its name begins.
const LOADERS: [(&str, &str); 3] = [
    ("lib64", "ld-linux"),
    ("usr/lib64", "ld-linux"),
    ("lib", "ld-linux"),
];

/// The programs that a root has.
const IN_ROOT: [&str; 2] = ["nginx", "haproxy"];

/// Where the peers are.
pub(super) struct Peers {
    root: Option<Root>,
}

struct Root {
    dir: PathBuf,
    loader: PathBuf,
    libraries: OsString,
}

impl Peers {
    /// Those of this machine, or those below `root`, run by its own loader with its libraries.
    pub(super) fn new(root: Option<&Path>) -> Result<Self> {
        let root = root.map(Root::new).transpose()?;
        Ok(Self { root })
    }

    /// Whether a program is in another root, so that this machine needs no package of it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.root.is_some() && IN_ROOT.contains(&name)
    }

    /// The words that a command for a program begins with.
    pub(super) fn words(&self, name: &str) -> Vec<OsString> {
        let root = self.root.as_ref().filter(|_| IN_ROOT.contains(&name));
        let Some(root) = root else {
            return vec![name.into()];
        };
        vec![
            root.loader.clone().into(),
            "--library-path".into(),
            root.libraries.clone(),
            root.dir.join("usr/sbin").join(name).into(),
        ]
    }

    /// The version of a proxy, as in "1.22.1".
    pub(super) fn version(&self, proxy: Proxy) -> Result<String> {
        let (words, option) = match proxy {
            Proxy::Nginx => (self.words("nginx"), "-v"),
            Proxy::Haproxy => (self.words("haproxy"), "-v"),
            Proxy::H2o => (self.words("h2o"), "--version"),
            Proxy::Varnish => (self.words("varnishd"), "-V"),
            Proxy::Caddy => (self.words("caddy"), "version"),
            Proxy::Agent => (vec![build::agent(Profile::Dist).into()], "--version"),
        };
        let output = Command::new(&words[0])
            .args(&words[1..])
            .arg(option)
            .output()
            .with_context(|| format!("run {words:?}"))?;
        // nginx says it on standard error.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let found = number(&text).with_context(|| format!("{} said: {text}", proxy.name()))?;
        Ok(found.to_owned())
    }
}

impl Root {
    fn new(dir: &Path) -> Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("find {}", dir.display()))?;
        for name in IN_ROOT {
            let program = dir.join("usr/sbin").join(name);
            ensure!(program.exists(), "there is no {}", program.display());
        }
        let loader = LOADERS
            .iter()
            .find_map(|(at, name)| file_in(&dir.join(at), name));
        let loader = loader.context("no loader of programs in the root of --peers")?;
        let libraries = ["usr/lib", "lib"].map(|lib| {
            let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
            dir.join(lib).join(triplet)
        });
        Ok(Self {
            libraries: std::env::join_paths(libraries)?,
            dir,
            loader,
        })
    }
}

/// A file of a directory, by how its name begins.
fn file_in(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = dir.read_dir().ok()?.flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .map(|entry| entry.path())
        .find(|path| path.exists())
}

/// The first number with dots.
fn number(text: &str) -> Option<&str> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.');
    numbers.find(|number| number.starts_with(|c: char| c.is_ascii_digit()) && number.contains('.'))
}

/// Whether a version is at least this one.
pub(super) fn is_at_least(version: &str, least: [u32; 3]) -> bool {
    let parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    parts.collect::<Vec<u32>>() >= least.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(number("nginx version: nginx/1.22.1\n"), Some("1.22.1"));
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(number(haproxy), Some("2.6.12"));
        assert_eq!(number("lb-agent 0.1.0"), Some("0.1.0"));
        assert_eq!(number("h2o version 2.2.5\n"), Some("2.2.5"));
        let varnish = "varnishd (varnish-7.1.1 revision 7cee1c581bead20e88d1)";
        assert_eq!(number(varnish), Some("7.1.1"));
        assert_eq!(number("v2.11.4 h1:abc="), Some("2.11.4"));
        assert_eq!(number("not found"), None);
        assert!(is_at_least("1.25.1", [1, 25, 1]) && is_at_least("1.30.0", [1, 25, 1]));
        assert!(!is_at_least("1.22.1", [1, 25, 1]));
    }
}
