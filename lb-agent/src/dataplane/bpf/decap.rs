//! Attaches `lb_decap` to an interface of a backend, until the value is dropped or for good by pins.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::abi::decap::DecapSettings;
use lb_common::addr::Addr;
use lb_common::decap::Outcome;

use super::{addresses, pod};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-decap.o"));

/// Default directory of the pins; it has a subdirectory for each interface.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/lb-agent-decap";

/// Settings of the decapsulation: port and allowed sources.
#[derive(Clone, Debug)]
pub struct Settings {
    /// UDP port of GUE; `None` for no GUE.
    pub gue_port: Option<u16>,
    /// Allowed sources of encapsulated packets, each an address and its prefix length out of 128 bits. An
    /// empty list allows all.
    pub from: Vec<(Addr, u32)>,
}

/// The attachment point of an XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel allocates memory for a packet.
    Native,
    /// In the network stack, after the kernel has allocated memory for a packet.
    Generic,
}

impl Mode {
    /// The mode's name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// The reason for which packets cannot be decapsulated.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    /// The binary carries no eBPF programs.
    #[error("this binary was built without its eBPF programs (build it with `cargo xtask build`)")]
    NoObject,
    /// No interface has this name.
    #[error("no interface {0} (see: ip link)")]
    NoInterface(String),
    /// The interface has an XDP program already.
    #[error("{0} has an XDP program already (see: ip link show {0}; --detach takes off ours)")]
    Busy(String),
    /// The kernel refused a program or map.
    #[error("load lb_decap")]
    Load(#[from] EbpfError),
    /// A map could not be read or written.
    #[error("fill the maps of lb_decap")]
    Map(#[from] MapError),
    /// The kernel refused the program.
    #[error("load lb_decap")]
    Program(#[from] ProgramError),
    /// The kernel refused to attach the program.
    #[error("attach lb_decap to {interface} in {} mode", mode.name())]
    Attach {
        /// Name of the requested interface.
        interface: String,
        /// Requested attachment point.
        mode: Mode,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pin could not be created, read or removed.
    #[error("{what} {}", path.display())]
    Pin {
        /// The failed action, for the message.
        what: &'static str,
        /// Path of the pin.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No pins exist for the interface.
    #[error("nothing of ours is pinned for {0} (a `decap` in the foreground ends with Ctrl-C)")]
    NotPinned(String),
}

/// Counters of packets, indexed by [`Outcome`].
pub type Counts = [u64; Outcome::COUNT];

/// The loaded and attached program; dropping it detaches the program, unless it has been pinned.
pub struct Decap {
    object: Ebpf,
    link: FdLink,
    mode: Mode,
    notes: Vec<String>,
    not_native: Option<DecapError>,
}

impl Decap {
    /// Loads the program and attaches it to `interface`. Without a `mode` the driver is tried first, then
    /// the stack.
    pub fn attach(
        interface: &str,
        mode: Option<Mode>,
        settings: &Settings,
    ) -> Result<Self, DecapError> {
        if OBJECT.is_empty() {
            return Err(DecapError::NoObject);
        }
        if nix::net::if_::if_nametoindex(interface).is_err() {
            return Err(DecapError::NoInterface(interface.to_owned()));
        }
        let mut object = EbpfLoader::new().load(OBJECT)?;
        // Once loaded, the program keeps references to its maps, so they can be taken out of the object.
        program(&mut object)?.load()?;
        let notes = fill(&mut object, settings)?;
        let program = program(&mut object)?;
        let mut not_native = None;
        let (link, mode) = match mode {
            Some(mode) => (attach(program, interface, mode)?, mode),
            None => match attach(program, interface, Mode::Native) {
                Ok(link) => (link, Mode::Native),
                Err(error @ DecapError::Attach { .. }) => {
                    not_native = Some(error);
                    (attach(program, interface, Mode::Generic)?, Mode::Generic)
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Self {
            object,
            link,
            mode,
            notes,
            not_native,
        })
    }

    /// The attachment point in use.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The driver's error, if no mode was requested and the program runs in the stack.
    pub fn not_native(&self) -> Option<&DecapError> {
        self.not_native.as_ref()
    }

    /// Warnings for the operator.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The packet counters, summed over all CPUs.
    pub fn counts(&self) -> Result<Counts, DecapError> {
        let stats = self.object.map("DECAP_STATS").ok_or(DecapError::NoObject)?;
        Ok(sums(&PerCpuArray::try_from(stats)?)?)
    }

    /// Leaves the program attached to `interface`, with its link and maps pinned under `pin_dir`.
    pub fn pin(self, pin_dir: &Path, interface: &str) -> Result<(), DecapError> {
        let dir = dir_of(pin_dir, interface);
        fs::create_dir_all(&dir).map_err(|error| failed("make the directory", &dir, error))?;
        let pinned = pin_all(self, &dir);
        if pinned.is_err() {
            // A failed attempt leaves no pins.
            let _ = remove(&dir);
        }
        pinned
    }
}

fn pin_all(mut decap: Decap, dir: &Path) -> Result<(), DecapError> {
    let (stats, program, link) = (dir.join("stats"), dir.join("program"), dir.join("link"));
    decap
        .object
        .map("DECAP_STATS")
        .ok_or(DecapError::NoObject)?
        .pin(&stats)
        .map_err(|error| failed("pin the counters at", &stats, error))?;
    decap
        .object
        .program_mut("lb_decap")
        .ok_or(DecapError::NoObject)?
        .pin(&program)
        .map_err(|error| failed("pin lb_decap at", &program, error))?;
    decap
        .link
        .pin(&link)
        .map(drop)
        .map_err(|error| failed("pin the link at", &link, error))
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp, DecapError> {
    let program = object.program_mut("lb_decap").ok_or(DecapError::NoObject)?;
    Ok(program.try_into()?)
}

fn attach(program: &mut Xdp, interface: &str, mode: Mode) -> Result<FdLink, DecapError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| match errno(&*source) {
        Some(libc::EBUSY | libc::EEXIST) => DecapError::Busy(interface.to_owned()),
        _ => DecapError::Attach {
            interface: interface.to_owned(),
            mode,
            source,
        },
    };
    let flags = match mode {
        Mode::Native => XdpMode::Driver,
        Mode::Generic => XdpMode::Skb,
    };
    let id = program
        .attach(interface, flags)
        .map_err(|error| failed(error.into()))?;
    let link = program.take_link(id)?;
    link.try_into()
        .map_err(|error: aya::programs::links::LinkError| failed(error.into()))
}

/// The OS error number of the first `io::Error` in the chain of causes.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// Fills the maps; returns warnings for the operator.
fn fill(object: &mut Ebpf, settings: &Settings) -> Result<Vec<String>, DecapError> {
    let mut array: Array<_, pod::DecapSettings> = taken(object, "DECAP_SETTINGS")?.try_into()?;
    let value = DecapSettings {
        gue_port_be: settings.gue_port.unwrap_or(0).to_be(),
        only_from: u16::from(!settings.from.is_empty()),
    };
    array.set(0, pod::DecapSettings(value), 0)?;
    let mut from: LpmTrie<_, [u8; 16], u8> = taken(object, "DECAP_FROM")?.try_into()?;
    for (first, bits) in &settings.from {
        from.insert(&Key::new(*bits, *first), 1, 0)?;
    }
    let own = taken(object, "DECAP_ADDRESSES")?.try_into()?;
    Ok(addresses::keep(own).into_iter().collect())
}

fn taken(object: &mut Ebpf, name: &str) -> Result<Map, DecapError> {
    object.take_map(name).ok_or(DecapError::NoObject)
}

fn sums<T: std::borrow::Borrow<MapData>>(stats: &PerCpuArray<T, u64>) -> Result<Counts, MapError> {
    let mut counts = Counts::default();
    for (index, count) in (0..).zip(&mut counts) {
        *count = stats.get(&index, 0)?.iter().sum();
    }
    Ok(counts)
}

/// The packet counters of a pinned program.
pub fn pinned_counts(pin_dir: &Path, interface: &str) -> Result<Counts, DecapError> {
    let pin = dir_of(pin_dir, interface).join("stats");
    if !pin.exists() {
        return Err(DecapError::NotPinned(interface.to_owned()));
    }
    let stats: PerCpuArray<MapData, u64> = Map::PerCpuArray(MapData::from_pin(pin)?).try_into()?;
    Ok(sums(&stats)?)
}

/// Detaches the program that is pinned for `interface`, and removes its pins.
pub fn detach(pin_dir: &Path, interface: &str) -> Result<(), DecapError> {
    let dir = dir_of(pin_dir, interface);
    if !dir.exists() {
        return Err(DecapError::NotPinned(interface.to_owned()));
    }
    let link = dir.join("link");
    // If the interface is gone, its link is detached already.
    if let Err(error) = super::link::detach(&link) {
        tracing::debug!(%error, path = %link.display(), "detach");
    }
    remove(&dir)
}

fn remove(dir: &Path) -> Result<(), DecapError> {
    for name in ["link", "program", "stats"] {
        let pin = dir.join(name);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &pin, error));
            }
            _ => {}
        }
    }
    fs::remove_dir(dir).map_err(|error| failed("remove", dir, error))
}

/// The directory of an interface's pins. Names of interfaces (VLANs) may contain dots, which a bpf file
/// system refuses. Colons are the reverse: the file system allows them, and names of interfaces do not.
fn dir_of(pin_dir: &Path, interface: &str) -> PathBuf {
    pin_dir.join(interface.replace('.', ":"))
}

fn failed(
    what: &'static str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> DecapError {
    DecapError::Pin {
        what,
        path: path.to_owned(),
        source: source.into(),
    }
}
