//! Why a request has no answer of its backend.

use h2::Reason;

use super::h2c::Unanswered;
use super::metrics::Cause;
use super::upload::UploadError;

/// Why there is no answer.
pub(super) enum Failure {
    /// Nothing of the request was written.
    Unsent,
    /// The request cannot be sent over HTTP/2.
    Unsendable,
    /// The backend did not look at the request, and says so.
    Refused,
    /// The backend reset the stream before any byte of an answer.
    Reset(Reason),
    /// The connection broke before any byte of an answer.
    Broken,
    /// The backend's bytes are no answer of HTTP; the text names the fault.
    Malformed(&'static str),
    /// It took too long.
    Timeout,
    /// The request itself came to no end.
    Upload(UploadError),
    /// The client has gone away.
    Gone,
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Unsent => Self::Unsent,
            Unanswered::Unsendable => Self::Unsendable,
            Unanswered::Refused => Self::Refused,
            Unanswered::Reset(reason) => Self::Reset(reason),
            Unanswered::Broken => Self::Broken,
            Unanswered::Malformed(what) => Self::Malformed(what),
        }
    }
}

impl Failure {
    /// The cause, as metrics have it.
    pub(super) const fn cause(&self) -> Cause {
        match self {
            Self::Unsent | Self::Broken | Self::Reset(_) => Cause::Broken,
            Self::Refused => Cause::Refused,
            Self::Malformed(_) => Cause::Malformed,
            Self::Timeout => Cause::Timeout,
            Self::Unsendable | Self::Upload(_) | Self::Gone => Cause::Other,
        }
    }

    /// The reason for the reset of the client's stream.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused => Some(Reason::REFUSED_STREAM),
            Self::Reset(reason) => Some(*reason),
            _ => None,
        }
    }
}
