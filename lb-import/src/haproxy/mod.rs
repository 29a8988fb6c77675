//! Configurations of HAProxy.
//!
//! | file | owns |
//! | --- | --- |
//! | `tree` | words, sections |
//! | `values` | addresses, times, headers |
//! | `condition` | `acl`, `if` and `unless` as hosts and paths |
//! | `backend` | servers, health checks, what keeps clients with one |
//! | `binds` | addresses and certificates |
//! | `http` | routes and settings of services of HTTP |
//! | `frontend` | services |
//! | `words` | what needs no key, and why the rest is lost |

mod backend;
mod binds;
mod condition;
mod frontend;
mod http;
mod tree;
mod values;
mod words;

use std::path::Path;

use crate::document::Part;
use crate::report::{Findings, Kind};
use crate::{ImportError, Imported, finished};
use tree::{Line, Section};

/// What all rules need beside their lines.
struct Import<'a> {
    findings: Findings,
    sections: &'a [Section],
}

impl<'a> Import<'a> {
    fn report(&self, line: &Line, kind: Kind, reason: &str) {
        line.take();
        self.findings.note(&line.origin, line.shown(), kind, reason);
    }

    fn lost(&self, line: &Line, reason: &str) {
        self.report(line, Kind::Lost, reason);
    }

    fn differs(&self, line: &Line, difference: &str) {
        self.report(line, Kind::Different, difference);
    }

    fn needless(&self, line: &Line, why: &str) {
        self.report(line, Kind::Needless, why);
    }

    /// The lines that hold in `section`: its own, then those of the `defaults` before it.
    fn lines_of(&self, section: &'a Section) -> Vec<&'a Line> {
        let at = self
            .sections
            .iter()
            .position(|other| std::ptr::eq(other, section));
        let before = self.sections[..at.unwrap_or(0)].iter().rev();
        let defaults = before.into_iter().find(|other| other.kind() == "defaults");
        let inherited = defaults.into_iter().flat_map(|defaults| &defaults.lines);
        section.lines.iter().chain(inherited).collect()
    }

    /// The backend or `listen` with this name.
    fn backend(&self, name: &str) -> Option<&'a Section> {
        let mut sections = self.sections.iter();
        sections.find(|section| {
            matches!(section.kind(), "backend" | "listen") && section.name() == name
        })
    }

    /// `[agent]`, where it needs a key.
    fn agent(&self) -> Option<Part> {
        let mut part = Part::new("[agent]", None);
        let globals = self
            .sections
            .iter()
            .filter(|section| section.kind() == "global");
        for line in globals.flat_map(|section| &section.lines) {
            if line.is("maxconn")
                && let Ok(most) = line.word(1).parse::<i64>()
            {
                line.take();
                part.set("max_connections", most, Some(&line.origin));
            }
        }
        (!part.is_empty()).then_some(part)
    }
}

/// The first of `lines` whose first words are `words`; it is carried over then.
fn first<'a>(lines: &[&'a Line], words: &str) -> Option<&'a Line> {
    let found = lines.iter().find(|line| line.is(words)).copied()?;
    found.take();
    Some(found)
}

/// The configuration of HAProxy in the file `path`.
///
/// # Errors
///
/// A file that cannot be read, a mistake of syntax, or nothing that can be translated.
pub fn import(path: &Path) -> Result<Imported, ImportError> {
    let sections = tree::read(path)?;
    let import = Import {
        findings: Findings::default(),
        sections: &sections,
    };
    let fronts = sections
        .iter()
        .filter(|section| matches!(section.kind(), "frontend" | "listen"));
    let mut parts = Vec::new();
    for section in fronts {
        parts.extend(frontend::parts(section, &import));
    }
    let agent = import.agent();
    words::sweep(&sections, &import);
    finished((path, "HAProxy"), agent, parts, import.findings.sorted())
}
