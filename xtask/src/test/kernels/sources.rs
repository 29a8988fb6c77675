//! The sources of this machine's Debian packages: `/etc/apt`, in either of its two formats.

use std::fs;
use std::path::{Path, PathBuf};

/// Names of Debian's own releases; other distributions have suites of other names.
const RELEASES: [&str; 11] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
];

/// The places of Debian's two archives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) main: String,
    pub(super) security: String,
}

impl Places {
    /// The places that this machine uses, else Debian's own.
    pub(super) fn find() -> Self {
        Self::of(&configured(Path::new("/etc/apt")))
    }

    fn of(sources: &[Source]) -> Self {
        let find = |is_wanted: fn(&str) -> bool| {
            let mut found = sources.iter().filter(|source| source.has_main);
            found
                .find(|source| source.suites.iter().any(|suite| is_wanted(suite)))
                .map(|source| source.uri.clone())
        };
        let main = find(|suite| RELEASES.contains(&suite));
        let security = find(|suite| {
            suite
                .strip_suffix("-security")
                .or_else(|| suite.strip_suffix("/updates"))
                .is_some_and(|release| RELEASES.contains(&release))
        });
        Self {
            main: main.unwrap_or_else(|| "http://deb.debian.org/debian".to_owned()),
            security: security
                .unwrap_or_else(|| "http://deb.debian.org/debian-security".to_owned()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    has_main: bool,
}

/// All that is configured in a directory like `/etc/apt`.
fn configured(dir: &Path) -> Vec<Source> {
    let parts = fs::read_dir(dir.join("sources.list.d"))
        .into_iter()
        .flatten();
    let mut files: Vec<PathBuf> = parts.flatten().map(|entry| entry.path()).collect();
    files.push(dir.join("sources.list"));
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => found.extend(stanzas(&text)),
            Some("list") => found.extend(text.lines().filter_map(line)),
            _ => {}
        }
    }
    found
}

/// `deb [options] URI SUITE COMPONENT…`
fn line(text: &str) -> Option<Source> {
    let text = text.split('#').next()?.trim();
    let rest = text
        .strip_prefix("deb")?
        .strip_prefix([' ', '\t'])?
        .trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    Some(Source {
        uri: words.next()?.trim_end_matches('/').to_owned(),
        suites: vec![words.next()?.to_owned()],
        has_main: words.any(|component| component == "main"),
    })
}

/// Stanzas of `Key: value` lines (deb822).
fn stanzas(text: &str) -> Vec<Source> {
    let mut stanza: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            found.extend(source(&std::mem::take(&mut stanza)));
        } else if !line.starts_with('#') {
            stanza.push(line);
        }
    }
    found
}

fn source(stanza: &[&str]) -> Option<Source> {
    let words = |key: &str| {
        let is_key = |line: &&str| {
            let name = line.split_once(':').map(|(name, _)| name);
            name.is_some_and(|name| name.eq_ignore_ascii_case(key))
        };
        let at = stanza.iter().position(is_key)?;
        let (_, first) = stanza[at].split_once(':')?;
        let more = stanza[at + 1..]
            .iter()
            .take_while(|line| line.starts_with([' ', '\t']));
        let all = std::iter::once(first).chain(more.copied());
        Some(all.flat_map(str::split_whitespace).collect::<Vec<_>>())
    };
    if words("Enabled").is_some_and(|value| value == ["no"]) || !words("Types")?.contains(&"deb") {
        return None;
    }
    Some(Source {
        uri: words("URIs")?.first()?.trim_end_matches('/').to_owned(),
        suites: words("Suites")?.into_iter().map(str::to_owned).collect(),
        has_main: words("Components").is_some_and(|all| all.contains(&"main")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(name: &str, text: &str) -> Places {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        Places::of(&configured(dir.path()))
    }

    #[test]
    fn stanzas_name_the_places() {
        let text = "# the archive\nTypes: deb deb-src\nURIs: http://mirror.test/debian/\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main contrib\n\n\
                    Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\n\
                    Components: main\n";
        let found = places("sources.list.d/debian.sources", text);
        assert_eq!(found.main, "http://mirror.test/debian");
        assert_eq!(found.security, "http://mirror.test/security");
    }

    #[test]
    fn lines_name_the_places() {
        let text = "deb-src http://source.test/debian trixie main\n\
                    deb [arch=amd64 signed-by=/x.gpg] http://mirror.test/debian trixie main # here\n\
                    deb\thttp://mirror.test/security trixie-security main\n";
        let found = places("sources.list", text);
        assert_eq!(found.main, "http://mirror.test/debian");
        assert_eq!(found.security, "http://mirror.test/security");
    }

    #[test]
    fn archives_of_others_and_what_is_turned_off_are_passed_by() {
        let text = "Types: deb\nURIs: http://other.test/debian\nSuites: bookworm\nComponents: stable\n\n\
                    Types: deb\nURIs: http://tools.test\nSuites: bookworm-tools\nComponents: main\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://off.test\nSuites: sid\nComponents: main\n";
        let found = places("sources.list.d/others.sources", text);
        assert_eq!(found.main, "http://deb.debian.org/debian");
        assert_eq!(found.security, "http://deb.debian.org/debian-security");
    }
}
