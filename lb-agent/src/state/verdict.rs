//! What its health says of a backend.

/// [`Verdict::ramp`] of a backend that has its whole weight.
pub const FULL_RAMP: u16 = 16;

/// What its health says of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It can serve.
    pub fit: bool,
    /// The part of its weight that it is to have, in parts of [`FULL_RAMP`].
    pub ramp: u16,
}

impl Default for Verdict {
    fn default() -> Self {
        Self {
            fit: true,
            ramp: FULL_RAMP,
        }
    }
}
