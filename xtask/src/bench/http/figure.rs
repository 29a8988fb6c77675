//! Figures of a measurement.

/// What a figure is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    PerSecond,
    P50Ms,
    P99Ms,
    CpuUs,
    KibPerSocket,
    Compressed,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::P50Ms => "p50, ms",
            Self::P99Ms => "p99, ms",
            Self::CpuUs => "CPU of the proxy, us",
            Self::KibPerSocket => "KiB for a socket",
            Self::Compressed => "bytes, compressed",
        }
    }

    /// Whether more of it is better.
    pub(super) fn is_gain(self) -> bool {
        self == Self::PerSecond
    }
}

/// What came of one measurement.
pub(super) struct Reading {
    pub(super) figures: Vec<(Unit, f64)>,
    pub(super) errors: u64,
}
