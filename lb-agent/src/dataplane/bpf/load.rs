//! Loads and attaches the programs on pinned maps. The maps are new, or left by an earlier agent.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use aya::programs::{SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{ABI_VERSION, META_MAGIC, Meta, ServiceKey};

use super::access::AccessMaps;
use super::addresses;
use super::canary;
use super::create;
use super::link;
use super::maps::{self, COUNTED_BY_LISTEN, ClientMaps, Maps};
use super::open_error::{OpenError, io_error};
use super::packet::{self, FlowSettings};
use super::pod;
use super::programs::{pin_program, program, refused};
use lb_net::handover::FdStore;

/// The eBPF programs for sockets; empty when the agent was built without them.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf.o"));

/// Names of the programs for sockets.
pub(super) const PROGRAMS: [&str; 2] = ["lb_listen", "lb_steer"];
/// Settings for loading the programs and pinning them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the pins, in a bpf file system.
    pub pin_dir: PathBuf,
    /// Remembered clients per protocol.
    pub max_clients: u32,
    /// The cgroup of the observed sockets; the root of the hierarchy by default.
    pub cgroup: Option<PathBuf>,
    /// Configuration of the packet paths.
    pub flows: FlowSettings,
    /// Descriptors of an earlier agent: its lock on the pins, and its claims on listen addresses.
    pub kept: FdStore,
}

/// The loaded programs and their maps.
pub(super) struct Loaded {
    /// The maps that the agent reads and writes.
    pub maps: Maps,
    /// The maps of clients, for choices that the agent makes itself.
    pub clients: ClientMaps,
    /// The maps of bans and lists.
    pub access: AccessMaps,
    /// Warnings for the operator.
    pub notes: Vec<String>,
    /// The eBPF object, for its log and for programs that are loaded later.
    pub object: Ebpf,
    /// The cgroup of the observed sockets.
    pub cgroup: PathBuf,
    /// A lock that keeps other agents from the pins until it is dropped.
    pub lock: fs::File,
}

/// Loads the programs on the pinned maps, or on new ones. Attaches them, or replaces the running programs.
pub(super) fn load(settings: &Settings) -> Result<Loaded, OpenError> {
    if OBJECT.is_empty() {
        return Err(OpenError::NoObject);
    }
    let pin_dir = &settings.pin_dir;
    let fresh = !pin_dir.exists();
    make_pin_dir(pin_dir)?;
    let lock = lock_pins(pin_dir, &settings.kept)?;
    open(settings, lock).inspect_err(|_| {
        // A failed first start leaves no pins.
        if fresh && let Err(error) = purge(pin_dir) {
            tracing::warn!("{error}");
        }
    })
}

/// The state directory is locked too, but two agents may share their pins and no state directory.
fn lock_pins(pin_dir: &Path, kept: &FdStore) -> Result<fs::File, OpenError> {
    let lock = fs::File::open(pin_dir).map_err(io_error("open", pin_dir))?;
    match kept.lock("pins", lock) {
        Ok(lock) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse {
            dir: pin_dir.to_owned(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(io_error("lock", pin_dir)(error)),
    }
}

fn open(settings: &Settings, lock: fs::File) -> Result<Loaded, OpenError> {
    let pin_dir = &settings.pin_dir;
    let cgroup = settings
        .cgroup
        .clone()
        .or_else(cgroup_root)
        .ok_or(OpenError::NoCgroup)?;
    let cookie =
        netns_cookie().map_err(io_error("read the cookie of", "/proc/thread-self/ns/net"))?;
    check_meta(pin_dir, cookie)?;
    if !link::is_live(&link::pin_of(pin_dir, "lb_listen")) {
        maps::unpin(pin_dir, &COUNTED_BY_LISTEN).map_err(io_error("clean up", pin_dir))?;
    }

    for outer in [create::TABLES, create::UDP_CLIENTS, create::UDP_LOCAL] {
        outer
            .make(&maps::dir(pin_dir))
            .map_err(io_error("make maps in", pin_dir))?;
    }
    let mut object = load_object(settings)?;
    show_owner(pin_dir);
    let mut maps = Maps::take(&mut object)?;
    let meta = Meta {
        magic: META_MAGIC,
        abi_version: ABI_VERSION,
        netns_cookie: cookie,
    };
    maps.meta.set(0, pod::Meta(meta), 0)?;
    let clients = ClientMaps::take(&mut object, pin_dir)?;
    let access = AccessMaps::take(&mut object)?;
    let mut notes = size_notes(settings)?;
    notes.extend(addresses::keep(maps::local_addresses(&mut object)?));

    // Listeners are noted before connections are steered to them.
    let listen: &mut SockOps = program(&mut object, "lb_listen")?;
    listen.load().map_err(refused("lb_listen"))?;
    let steer: &mut SkLookup = program(&mut object, "lb_steer")?;
    steer.load().map_err(refused("lb_steer"))?;
    let fd = steer.fd().map_err(refused("lb_steer"))?.as_fd();
    canary::check(fd, &pin_dir.join("programs/lb_steer"), &services(&maps)?)?;
    let listen: &mut SockOps = program(&mut object, "lb_listen")?;
    link::listen(listen, &cgroup, &link::pin_of(pin_dir, "lb_listen"))?;
    let steer: &mut SkLookup = program(&mut object, "lb_steer")?;
    link::steer(steer, &link::pin_of(pin_dir, "lb_steer")).inspect_err(|_| {
        // The two programs belong together, so the old one gets its old companion back.
        let old = pin_dir.join("programs/lb_listen");
        if let Err(error) = link::put_back(&old, &link::pin_of(pin_dir, "lb_listen")) {
            tracing::warn!(%error, "the lb_listen of before is not put back");
        }
    })?;
    for name in PROGRAMS {
        pin_program(&mut object, name, pin_dir)?;
    }
    Ok(Loaded {
        maps,
        clients,
        access,
        notes,
        object,
        cgroup,
        lock,
    })
}

/// Puts the programs for sockets in force again that another agent has replaced.
pub(super) fn put_back(object: &mut Ebpf, pin_dir: &Path) -> Result<(), OpenError> {
    for name in PROGRAMS {
        let program = object.program(name).ok_or(OpenError::NoObject)?;
        let fd = program.fd().map_err(refused(name))?;
        link::replace(fd, &link::pin_of(pin_dir, name))?;
        pin_program(object, name, pin_dir)?;
    }
    Ok(())
}

/// The listen addresses in force.
fn services(maps: &Maps) -> Result<Vec<ServiceKey>, OpenError> {
    let keys: Result<_, _> = maps
        .services
        .keys()
        .map(|key| key.map(|key| key.0))
        .collect();
    Ok(keys?)
}

fn load_object(settings: &Settings) -> Result<Ebpf, OpenError> {
    let mut loader = EbpfLoader::new();
    // The programs do not depend on the kernel's own types, which take some ten megabytes.
    loader.btf(None);
    size_maps(&mut loader, settings.max_clients);
    for name in maps::NAMES {
        loader.map_pin_path(name, maps::pin_of(&settings.pin_dir, name));
    }
    Ok(loader.load(OBJECT)?)
}

/// Sets the sizes of the maps that depend on the number of clients.
pub(super) fn size_maps(loader: &mut EbpfLoader<'_>, clients: u32) {
    loader.map_max_entries("AFFINITY", clients);
}

/// Makes the names of pins and `META` readable without privileges. An unprivileged agent then sees the
/// network namespace that the pins serve. If the modes cannot be changed, such an agent refuses to start
/// beside the pins.
fn show_owner(pin_dir: &Path) {
    let meta = maps::pin_of(pin_dir, "META");
    let shown = [
        (pin_dir, 0o755),
        (&pin_dir.join("links"), 0o755),
        (&maps::dir(pin_dir), 0o755),
        (&meta, 0o644),
    ];
    for (path, mode) in shown {
        if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
            tracing::debug!(%error, path = %path.display(), "set the mode");
        }
    }
}

/// Creates the directories for the pins, if they are in a bpf file system.
fn make_pin_dir(pin_dir: &Path) -> Result<(), OpenError> {
    let there = pin_dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let kind = rustix::fs::statfs(there)
        .map_err(|error| io_error("look at", there)(error.into()))?
        .f_type;
    // BPF_FS_MAGIC, `linux/magic.h`.
    if kind as u64 != 0xcafe_4a11 {
        return Err(OpenError::NotBpffs {
            dir: pin_dir.to_owned(),
        });
    }
    for part in ["maps", "links", "programs"] {
        let dir = pin_dir.join(part);
        fs::create_dir_all(&dir).map_err(io_error("make directory", &dir))?;
    }
    Ok(())
}

/// Refuses pins that this agent must not change. Pins of a removed network namespace are deleted.
fn check_meta(pin_dir: &Path, netns_cookie: u64) -> Result<(), OpenError> {
    let Some(meta) = maps::pinned_meta(pin_dir)? else {
        return Ok(());
    };
    // A zero magic: an earlier start ended right after the creation of the map.
    if meta.magic == 0 {
        return Ok(());
    }
    let dir = pin_dir.to_owned();
    if meta.magic != META_MAGIC || meta.abi_version != ABI_VERSION {
        return Err(OpenError::OtherAbi {
            dir,
            found: meta.abi_version,
        });
    }
    if meta.netns_cookie == netns_cookie {
        return Ok(());
    }
    if link::is_live(&link::pin_of(pin_dir, "lb_steer")) {
        return Err(OpenError::OtherNamespace { dir });
    }
    purge(pin_dir)?;
    make_pin_dir(pin_dir)
}

/// Removes every pin of the agent, and with them the programs and maps. Links are removed first, so that no
/// program runs with some of its maps missing.
pub(super) fn purge(pin_dir: &Path) -> Result<bool, OpenError> {
    if !pin_dir.exists() {
        return Ok(false);
    }
    for part in ["links", "programs", "maps"] {
        let dir = pin_dir.join(part);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("read", &dir)(error)),
        };
        for entry in entries {
            let path = entry.map_err(io_error("read", &dir))?.path();
            // A link without its namespace or cgroup is detached already; it ends with its pin.
            if part == "links"
                && let Err(error) = link::detach(&path)
            {
                tracing::debug!(%error, path = %path.display(), "detach");
            }
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        fs::remove_dir(&dir).map_err(io_error("remove", &dir))?;
    }
    // An error is ignored: the directory may contain foreign files.
    let _ = fs::remove_dir(pin_dir);
    Ok(true)
}

/// Mount point of the cgroup v2 hierarchy.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, dir, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(dir))
    })
}

/// The kernel's cookie of this network namespace (SO_NETNS_COOKIE, Linux 5.14).
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let place = (&raw mut cookie).cast();
    // SAFETY: the kernel writes at most `len` bytes to `place`, which has that many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            place,
            &raw mut len,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

/// Warnings about sizes that are not in force: a pinned map keeps its original size.
fn size_notes(settings: &Settings) -> Result<Vec<String>, OpenError> {
    let note = |key, wanted: u32, found: u32| {
        format!(
            "{key} is {wanted} but the map in use holds {found}: the new size comes with \
             `lb-agent stop --purge` and a start"
        )
    };
    let (pin_dir, wanted) = (&settings.pin_dir, settings.max_clients);
    let there = maps::CLIENTS
        .into_iter()
        .filter(|name| maps::is_pinned(pin_dir, name));
    let clients = packet::smallest(pin_dir, there)?;
    // A larger map, as an earlier default may have made, is sufficient.
    let clients = (clients < wanted).then(|| note("max_clients", wanted, clients));
    let flows = settings.flows.others_in_force(pin_dir)?;
    let flows = flows.map(|found| note("flow_table", settings.flows.flows, found));
    Ok(clients.into_iter().chain(flows).collect())
}
