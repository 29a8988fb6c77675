//! Running pinned programs without a network (BPF_PROG_TEST_RUN): a sk_lookup program, asked where a
//! connection would go, and XDP and TC programs with a packet.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// A pinned sk_lookup program.
pub struct Steer(OwnedFd);

/// What the program did with a connection.
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

fn open(pin: &Path) -> io::Result<OwnedFd> {
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

/// A pinned XDP or TC program.
pub struct PacketProgram {
    program: OwnedFd,
    out: Vec<u8>,
}

impl PacketProgram {
    /// Opens the program that is pinned at `pin`.
    pub fn open(pin: &Path) -> io::Result<Self> {
        Ok(Self {
            program: open(pin)?,
            // A packet of a test run fits in a page.
            out: vec![0; 8192],
        })
    }

    /// Runs it once with `frame`, of 14 bytes or more. What it returns, and what becomes of the
    /// frame.
    pub fn run(&mut self, frame: &[u8]) -> io::Result<(u32, &[u8])> {
        let mut attr = TestRun {
            prog_fd: self.program.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_size_out: self.out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: self.out.as_mut_ptr() as u64,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attr)?;
        Ok((attr.retval, &self.out[..attr.data_size_out as usize]))
    }
}

impl Steer {
    /// Opens the program that is pinned at `pin`.
    pub fn open(pin: &Path) -> io::Result<Self> {
        open(pin).map(Self)
    }

    /// Where a TCP connection from `client` to `service` would go.
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
