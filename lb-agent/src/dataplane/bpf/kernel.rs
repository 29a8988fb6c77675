//! The running kernel's version, and the oldest supported one.

use std::fs;

/// The oldest kernel that all tests run on. Older kernels lack features: network namespace cookies came
/// with 5.14, the helpers of the packet programs with 5.16. Their verifiers also understand less of a
/// program.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// The version of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Release of the kernel, for example `6.1.0-57-amd64`.
    pub release: String,
    version: (u32, u32),
}

impl Kernel {
    /// The kernel of this machine.
    pub fn running() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self::of(text.trim())
    }

    /// The kernel with a release; missing parts of the version count as 0.
    pub fn of(release: &str) -> Self {
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|part| part.parse().ok());
        Self {
            release: release.to_owned(),
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
        }
    }

    /// Whether the kernel is older than [`OLDEST_KERNEL`].
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
