//! The running kernel's version, and the oldest that takes the programs.

use std::fs;

/// The first kernel that everything is tested on. What differs before is not only features (cookies of
/// network namespaces came with 5.14, the helpers of the packet programs with 5.16) but how much of a
/// program the verifier understands.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// A kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, for example `6.1.0-57-amd64`.
    pub release: String,
    version: (u32, u32),
}

impl Kernel {
    /// That of this machine.
    pub fn running() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::of(text.trim())
    }

    /// The kernel of a release.
    pub fn of(release: &str) -> Self {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|part| part.parse().ok());
        Self {
            release: release.to_owned(),
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        }
    }

    /// Whether it is older than [`OLDEST_KERNEL`].
    pub fn is_too_old(&self) -> bool {
        self.version < OLDEST_KERNEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_before_6_1_is_too_old() {
        for (release, too_old) in [
            ("5.10.0-46-cloud-amd64", true),
            ("5.15.0-91-generic", true),
            ("6.0.12", true),
            ("6.1.0-57-amd64", false),
            ("6.12.118+deb13-amd64", false),
            ("7.3.4", false),
        ] {
            assert_eq!(Kernel::of(release).is_too_old(), too_old, "{release}");
        }
    }
}
