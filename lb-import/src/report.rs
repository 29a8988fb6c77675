//! What became of each directive.

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
