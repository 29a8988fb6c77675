//! Runs of pinned programs without a network (BPF_PROG_TEST_RUN). A sk_lookup program is asked for the
//! destination of a connection; XDP and TC programs get a packet.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// A pinned sk_lookup program.
pub struct Steer(OwnedFd);

/// The result of the program for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// SK_PASS; else SK_DROP.
    pub pass: bool,
    /// Cookie of the socket that was assigned (SO_COOKIE); 0 for none.
    pub cookie: u64,
}

/// The kernel's `struct bpf_sk_lookup`.
#[repr(C)]
#[derive(Default)]
struct SkLookup {
    cookie: u64,
    family: u32,
    protocol: u32,
    remote_ip4: u32,
    remote_ip6: [u32; 4],
    remote_port: u16,
    pad: u16,
    local_ip4: u32,
    local_ip6: [u32; 4],
    local_port: u32,
    ingress_ifindex: u32,
    /// The kernel wants it zero.
    tail: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// A pinned XDP or TC program.
pub struct PacketProgram {
    program: OwnedFd,
    out: Vec<u8>,
    context: XdpMd,
}

/// The kernel's `struct xdp_md`, as a test run takes it.
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

impl PacketProgram {
    /// Opens the program that is pinned at `pin`.
    pub fn open(pin: &Path) -> io::Result<Self> {
        Ok(Self {
            program: open_pin(pin)?,
            // A packet of a test run fits in a page.
            out: vec![0; 8192],
            context: XdpMd::default(),
        })
    }

    /// Lets packets come by this interface of the caller's network namespace, an XDP program's; without, they come by
    /// the loopback one.
    pub fn come_by(&mut self, ifindex: u32) {
        self.context.ingress_ifindex = ifindex;
    }

    /// An XDP program that passes everything and looks at nothing.
    pub fn empty() -> io::Result<Self> {
        Ok(Self {
            program: careless_packet_program(2)?,
            out: vec![0; 8192],
            context: XdpMd::default(),
        })
    }

    /// Time of all its runs while `kernel.bpf_stats_enabled` was 1, in nanoseconds, and the number of
    /// runs.
    pub fn cost(&self) -> io::Result<(u64, u64)> {
        let mut info = [0u64; 32];
        let mut attr = InfoByFd {
            bpf_fd: self.program.as_raw_fd() as u32,
            info_len: size_of_val(&info) as u32,
            info: info.as_mut_ptr() as u64,
        };
        bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
        // `run_time_ns` and `run_cnt` of `struct bpf_prog_info`.
        Ok((info[24], info[25]))
    }

    /// Runs it once with `frame`, of 14 bytes or more. Returns its return code and the resulting frame.
    pub fn run(&mut self, frame: &[u8]) -> io::Result<(u32, &[u8])> {
        let mut attr = TestRun {
            prog_fd: self.program.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_size_out: self.out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: self.out.as_mut_ptr() as u64,
            ..TestRun::default()
        };
        if self.context.ingress_ifindex != 0 {
            self.context.data_end = frame.len() as u32;
            attr.ctx_size_in = size_of::<XdpMd>() as u32;
            attr.ctx_in = &raw const self.context as u64;
        }
        bpf(BPF_PROG_TEST_RUN, &mut attr)?;
        Ok((attr.retval, &self.out[..attr.data_size_out as usize]))
    }
}

impl Steer {
    /// Opens the program that is pinned at `pin`.
    pub fn open(pin: &Path) -> io::Result<Self> {
        open_pin(pin).map(Self)
    }

    /// The socket to which a TCP connection from `client` to `service` would go.
    pub fn ask(&self, client: SocketAddr, service: SocketAddr) -> io::Result<Verdict> {
        let context = SkLookup::new(client, service);
        let mut after = SkLookup::default();
        let size = size_of::<SkLookup>() as u32;
        let mut attr = TestRun {
            prog_fd: self.0.as_raw_fd() as u32,
            ctx_size_in: size,
            ctx_size_out: size,
            ctx_in: &raw const context as u64,
            ctx_out: &raw mut after as u64,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attr)?;
        Ok(Verdict {
            pass: attr.retval == 1,
            cookie: after.cookie,
        })
    }
}

impl SkLookup {
    fn new(client: SocketAddr, service: SocketAddr) -> Self {
        let mut context = Self {
            protocol: libc::IPPROTO_TCP as u32,
            remote_port: client.port().to_be(),
            local_port: service.port().into(),
            ..Self::default()
        };
        let words = |ip: [u8; 16]| {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(ip.as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            words
        };
        match (client.ip(), service.ip()) {
            (IpAddr::V4(client), IpAddr::V4(service)) => {
                context.family = libc::AF_INET as u32;
                context.remote_ip4 = u32::from_ne_bytes(client.octets());
                context.local_ip4 = u32::from_ne_bytes(service.octets());
            }
            (IpAddr::V6(client), IpAddr::V6(service)) => {
                context.family = libc::AF_INET6 as u32;
                context.remote_ip6 = words(client.octets());
                context.local_ip6 = words(service.octets());
            }
            _ => panic!("{client} and {service} are of two families"),
        }
        context
    }
}

/// The cookie of a socket (SO_COOKIE).
pub fn cookie(socket: &impl std::os::fd::AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let place = (&raw mut cookie).cast();
    // SAFETY: the kernel writes at most `len` bytes to `place`, which has that many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
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

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the command's part of `union bpf_attr`, valid for its size; the pointers
    // in it live as long as the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

/// A program, map or link of the kernel, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    by_id: libc::c_long,
    id: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `union bpf_attr` for BPF_*_GET_FD_BY_ID.
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Everything that is pinned in the directories of `pin_dir`.
pub fn pinned(pin_dir: &Path) -> Vec<Object> {
    let parts = [
        ("programs", BPF_PROG_GET_FD_BY_ID),
        ("maps", BPF_MAP_GET_FD_BY_ID),
        ("links", BPF_LINK_GET_FD_BY_ID),
    ];
    let mut found = Vec::new();
    for (part, by_id) in parts {
        let entries = std::fs::read_dir(pin_dir.join(part)).into_iter().flatten();
        for entry in entries.flatten() {
            let object = open_pin(&entry.path()).unwrap();
            // All three infos begin with the type and the number.
            let mut info = [0u32; 2];
            let mut attr = InfoByFd {
                bpf_fd: object.as_raw_fd() as u32,
                info_len: size_of_val(&info) as u32,
                info: info.as_mut_ptr() as u64,
            };
            bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr).unwrap();
            found.push(Object { by_id, id: info[1] });
        }
    }
    found
}

impl Object {
    /// Whether the kernel still has it.
    pub fn exists(&self) -> bool {
        let mut attr = ById {
            id: self.id,
            next_id: 0,
            open_flags: 0,
        };
        match bpf(self.by_id, &mut attr) {
            // SAFETY: the kernel has just made it, for this process alone.
            Ok(fd) => drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            Err(_) => return false,
        }
        true
    }
}

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made it, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Overwrites the first element of an array map that is pinned.
pub fn overwrite(pin: &Path, value: &[u8]) -> io::Result<()> {
    let map = open_pin(pin)?;
    let key = 0u32;
    let mut attr = MapUpdate {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: &raw const key as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// An sk_lookup program that returns `verdict` for all connections and chooses no socket.
pub fn careless_program(verdict: u32) -> io::Result<OwnedFd> {
    trivial(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, verdict)
}

/// The same for XDP: every frame is given `verdict`.
pub fn careless_packet_program(verdict: u32) -> io::Result<OwnedFd> {
    trivial(BPF_PROG_TYPE_XDP, 0, verdict)
}

/// A program that returns `verdict` and does nothing else.
fn trivial(kind: u32, attach: u32, verdict: u32) -> io::Result<OwnedFd> {
    // r0 = verdict; exit
    let instructions = [0xb7 | u64::from(verdict) << 32, 0x95];
    let mut attr = ProgLoad {
        prog_type: kind,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; 16],
        prog_ifindex: 0,
        expected_attach_type: attach,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just made it, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
