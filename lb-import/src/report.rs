//! What became of each directive.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

/// Where something stands in the original.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file, as it was named or included.
    pub file: Rc<PathBuf>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// How far a directive is carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// There is no counterpart: requests that it concerns come out otherwise.
    Lost,
    /// It is carried over with a difference.
    Different,
    /// No key is needed for it.
    Needless,
}

/// What was found so far.
#[derive(Default)]
pub(crate) struct Findings(RefCell<Vec<Finding>>);

impl Findings {
    /// Adds one. What holds in several places is read for each of them, and found once.
    pub(crate) fn note(&self, origin: &Origin, directive: String, kind: Kind, reason: &str) {
        let finding = Finding {
            origin: origin.clone(),
            directive,
            kind,
            reason: reason.to_owned(),
        };
        let mut findings = self.0.borrow_mut();
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// All of them in the order of their lines.
    pub(crate) fn sorted(self) -> Vec<Finding> {
        let mut findings = self.0.into_inner();
        findings.sort_by(|one, other| (&one.origin, one.kind).cmp(&(&other.origin, other.kind)));
        findings
    }
}

/// A directive that is not carried over word by word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands.
    pub origin: Origin,
    /// The directive with its arguments, shortened.
    pub directive: String,
    /// How far it is carried over.
    pub kind: Kind,
    /// The reason, or the difference, and the remedy.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Lost => "not translated",
            Kind::Different => "differs",
            Kind::Needless => "needless",
        };
        let Self {
            origin,
            directive,
            reason,
            ..
        } = self;
        write!(f, "{origin}: {directive}: {kind}: {reason}")
    }
}
