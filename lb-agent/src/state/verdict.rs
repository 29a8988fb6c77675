//! The health verdict of a backend.

/// [`Verdict::ramp`] of a backend that has its whole weight.
pub const FULL_RAMP: u16 = 16;

/// The health verdict of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the backend can serve.
    pub fit: bool,
    /// The part of its weight that the backend is to have, in units of 1/[`FULL_RAMP`].
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
