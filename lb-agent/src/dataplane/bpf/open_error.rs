//! Why the kernel's data plane cannot serve.

use std::io;
use std::path::{Path, PathBuf};

use aya::EbpfError;
use lb_common::abi::ABI_VERSION;

use super::address_claims::Claimed;
use super::canary::CanaryError;
use super::link::AttachError;

/// Why the kernel's data plane cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The binary carries no eBPF programs.
    #[error("this binary was built without its eBPF programs (build it with `cargo xtask build`)")]
    NoObject,
    /// The directory of the pins is not in a bpf file system.
    #[error(
        "{} is not in a bpf file system (mount one: mount -t bpf bpf /sys/fs/bpf)", dir.display()
    )]
    NotBpffs {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no cgroup v2 hierarchy.
    #[error("no cgroup v2 hierarchy is mounted (mount one: mount -t cgroup2 none /sys/fs/cgroup)")]
    NoCgroup,
    /// Another agent that runs has the pins.
    #[error(
        "another lb-agent uses the pins in {} (stop it first, or give this one a state_dir, control \
         and pin_dir of its own)",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The pins are of another network namespace.
    #[error(
        "the pins in {} serve another network namespace (give this agent a pin_dir of its own)",
        dir.display()
    )]
    OtherNamespace {
        /// The directory.
        dir: PathBuf,
    },
    /// The pins are of another version.
    #[error(
        "the pins in {} have layout version {found}, this agent has {ABI_VERSION} (run \
         `lb-agent stop --purge` and start again: open connections stay, remembered clients are \
         forgotten)", dir.display()
    )]
    OtherAbi {
        /// The directory.
        dir: PathBuf,
        /// Version of the pins.
        found: u32,
    },
    /// A file could not be read or written.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a map or a program.
    #[error("load the eBPF programs")]
    Load(#[from] EbpfError),
    /// The kernel refused a program.
    #[error("load the program {name}")]
    Program {
        /// Which.
        name: &'static str,
        /// Its answer.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The same, of any program.
    #[error("load the program {name}")]
    Trial {
        /// Which.
        name: String,
        /// Its answer.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A map is not what it should be.
    #[error("open the maps")]
    Map(#[from] aya::maps::MapError),
    /// A program could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The new program does worse than the one that runs.
    #[error(transparent)]
    Canary(#[from] CanaryError),
    /// Another agent steers an address that is in force here.
    #[error(transparent)]
    Claimed(#[from] Claimed),
}

impl OpenError {
    /// Whether another data plane may serve instead. What other agents left must not be passed
    /// by: two balancers would answer on the same addresses.
    pub fn may_fall_back(&self) -> bool {
        !matches!(
            self,
            Self::OtherNamespace { .. }
                | Self::OtherAbi { .. }
                | Self::Canary(_)
                | Self::InUse { .. }
                | Self::Claimed(_)
        )
    }
}

/// The failure of something that was tried on a file.
pub(super) fn io_error<P: AsRef<Path>>(
    what: &'static str,
    path: P,
) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        what,
        path: path.as_ref().to_owned(),
        source,
    }
}
