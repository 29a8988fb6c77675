//! A trial of a new program before it takes the place of the one that runs (BPF_PROG_TEST_RUN).
//!
//! `lb_steer` is asked where made-up clients would go, over the tables that are in force: whoever
//! finds a socket by the program that runs must find one by the new program. It counts nothing for
//! clients with port 0, which no real one has. For `lb_listen` there is no such trial: the kernel has
//! none for sock_ops programs, so it is the verifier alone that vouches for it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;

use lb_common::abi::{ServiceKey, protocol};
use lb_common::addr;

use super::link::{bpf, open_pin};

/// Listen addresses that are tried.
const MOST_SERVICES: usize = 64;
/// Clients that come to each.
const CLIENTS: u8 = 8;
/// What the program returns for a connection that goes on.
const SK_PASS: u32 = 1;

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// Why a new program is not let in.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The trial itself failed.
    #[error("try the new lb_steer")]
    Run(#[source] io::Error),
    /// It would turn away who is served now.
    #[error(
        "the new lb_steer would turn away clients of {service} that the one that runs serves; it goes \
         on running (start the version before again)"
    )]
    Worse {
        /// Where they come to.
        service: String,
    },
}

/// Tries `new` on `services`, against the program pinned at `running` if there is one.
///
/// # Errors
/// When the trial cannot be made, or the new program does worse.
pub fn check(
    new: BorrowedFd<'_>,
    running: &Path,
    services: &[ServiceKey],
) -> Result<(), CanaryError> {
    // Whom no service concerns, it must leave alone.
    let nobody = Context::new(&ServiceKey::new(addr::ANY_V4, 0, protocol::TCP), 0);
    let verdict = run(new, &nobody).map_err(CanaryError::Run)?;
    if verdict
        != (Verdict {
            pass: true,
            socket: 0,
        })
    {
        return Err(CanaryError::Worse {
            service: "no service".to_owned(),
        });
    }
    let running = match open_pin(running) {
        Ok(program) => program,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CanaryError::Run(error)),
    };
    let tcp = services.iter().filter(|key| key.protocol == protocol::TCP);
    for key in tcp.take(MOST_SERVICES) {
        for client in 0..CLIENTS {
            let context = Context::new(key, client);
            let served = |program| run(program, &context).map(|verdict| verdict.socket != 0);
            let was = served(running.as_fd()).map_err(CanaryError::Run)?;
            if was && !served(new).map_err(CanaryError::Run)? {
                let ip = addr::to_ip(&key.addr);
                let service = std::net::SocketAddr::new(ip, key.port).to_string();
                return Err(CanaryError::Worse { service });
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    pass: bool,
    /// Cookie of the socket that it was handed to; 0 for none.
    socket: u64,
}

fn run(program: BorrowedFd<'_>, context: &Context) -> io::Result<Verdict> {
    let size = size_of::<Context>() as u32;
    let mut after = Context::default();
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        ctx_size_in: size,
        ctx_size_out: size,
        ctx_in: &raw const *context as u64,
        ctx_out: &raw mut after as u64,
        ..TestRun::default()
    };
    match bpf(BPF_PROG_TEST_RUN, &mut attr) {
        Ok(_) => Ok(Verdict {
            pass: attr.retval == SK_PASS,
            socket: after.cookie,
        }),
        // A socket was chosen, and it is one of a SO_REUSEPORT group: the kernel does not try the
        // choice within it (kernel commit 7c32e8f8bc33, bpf_prog_test_run_sk_lookup).
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Verdict {
            pass: true,
            socket: u64::MAX,
        }),
        Err(error) => Err(error),
    }
}

/// The kernel's `struct bpf_sk_lookup`.
#[repr(C)]
#[derive(Default)]
struct Context {
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
    tail: u32,
}

impl Context {
    /// A client of `key` from an address that is nobody's (RFC 5737, RFC 3849), and from port 0.
    fn new(key: &ServiceKey, client: u8) -> Self {
        let mut context = Self {
            protocol: key.protocol.into(),
            local_port: key.port.into(),
            ..Self::default()
        };
        if addr::is_v4(&key.addr) {
            context.family = libc::AF_INET as u32;
            context.remote_ip4 = u32::from_ne_bytes([192, 0, 2, client]);
            let local = &key.addr[12..];
            context.local_ip4 = u32::from_ne_bytes([local[0], local[1], local[2], local[3]]);
        } else {
            context.family = libc::AF_INET6 as u32;
            context.remote_ip6[0] = u32::from_be(0x2001_0db8);
            // Another /64 for each.
            context.remote_ip6[1] = u32::from(client).to_be();
            for (word, bytes) in context.local_ip6.iter_mut().zip(key.addr.chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        context
    }
}

/// The kernel's `union bpf_attr` for BPF_PROG_TEST_RUN (`test` in `linux/bpf.h`).
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
