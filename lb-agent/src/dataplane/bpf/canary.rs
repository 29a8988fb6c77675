//! Tests a new program before it replaces the running one (BPF_PROG_TEST_RUN).
//!
//! `lb_steer` runs on made-up clients, over the tables in force. If the running program finds a socket for
//! a client, the new one must find one, too. The program counts nothing for clients with port 0, which no
//! real client has.
//!
//! The packet programs run on frames that are for no service. Such frames are the other traffic of the
//! host, and must pass unchanged.
//!
//! The kernel has no test run for sock_ops programs, so only the verifier checks `lb_listen`.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use lb_common::abi::{ServiceKey, protocol};
use lb_common::addr;

use super::link::open_pin;
use super::sys;

/// Most listen addresses that are tested.
const MOST_SERVICES: usize = 64;
/// Test clients for each listen address.
const CLIENTS: u8 = 8;
/// SK_PASS: return value of the program for a connection that continues.
const SK_PASS: u32 = 1;

/// The reason for which a new program is rejected.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The test run itself failed.
    #[error("try the new program")]
    Run(#[source] io::Error),
    /// The new program would drop or change other traffic of this host.
    #[error(
        "the new {program} would drop or change frames that are for no service; it is not let in \
         (start the version before again)"
    )]
    Meddles {
        /// Name of the program.
        program: &'static str,
    },
    /// The new program would reject clients that the running one serves.
    #[error(
        "the new lb_steer would turn away clients of {service} that the one that runs serves; it goes \
         on running (start the version before again)"
    )]
    Worse {
        /// Listen address of the service that would lose clients.
        service: String,
    },
}

/// Tests `new` on `services`, against the program pinned at `running` if there is one.
///
/// # Errors
/// The test cannot be run, or the new program serves fewer clients.
pub fn check(
    new: BorrowedFd<'_>,
    running: &Path,
    services: &[ServiceKey],
) -> Result<(), CanaryError> {
    // The program must ignore a connection to no service.
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

/// Return values of the packet programs for a frame that passes unchanged.
pub mod pass {
    /// XDP_PASS, for `lb_xdp`.
    pub const XDP: u32 = 2;
    /// TC_ACT_UNSPEC, for the TC programs.
    pub const TC: u32 = u32::MAX;
}

/// Tests the packet program `name`, which returns `pass` (one of [`pass`]) for a frame that passes
/// unchanged.
///
/// # Errors
/// The test cannot be run, or the program drops or changes a frame that is for no service.
pub fn check_packets(
    program: BorrowedFd<'_>,
    name: &'static str,
    pass: u32,
) -> Result<(), CanaryError> {
    for frame in others() {
        // The frames are short, so the kernel's limit for frames without fragments is no concern.
        let mut after = [0u8; 256];
        let (returned, left) =
            sys::run_on_frame(program, &frame, &mut after).map_err(CanaryError::Run)?;
        if returned != pass || after[..left] != frame[..] {
            return Err(CanaryError::Meddles { program: name });
        }
    }
    Ok(())
}

/// Frames that belong to no service in any configuration: not IP, an experimental IP protocol (RFC 3692),
/// and TCP to port 0 of 0.0.0.0.
fn others() -> [Vec<u8>; 4] {
    const EXPERIMENT: u8 = 253;
    let ethernet = |kind: [u8; 2], packet: &[u8]| {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(kind);
        frame.extend(packet);
        frame.resize(64, 0);
        frame
    };
    let v4 = |protocol| {
        let mut packet = [0; 40];
        packet[..10].copy_from_slice(&[0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, protocol]);
        // The bytes of a SYN, used if the protocol is TCP.
        packet[32..34].copy_from_slice(&[0x50, 2]);
        ethernet([8, 0], &packet)
    };
    let mut v6 = [0; 48];
    v6[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 8, EXPERIMENT, 64]);
    [
        ethernet([8, 6], &[0, 1, 8, 0, 6, 4, 0, 1]),
        v4(EXPERIMENT),
        v4(protocol::TCP),
        ethernet([0x86, 0xdd], &v6),
    ]
}

#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    pass: bool,
    /// Cookie of the chosen socket; 0 for none.
    socket: u64,
}

fn run(program: BorrowedFd<'_>, context: &Context) -> io::Result<Verdict> {
    let mut after = *context;
    match sys::run_on_context(program, &mut after) {
        Ok(returned) => Ok(Verdict {
            pass: returned == SK_PASS,
            socket: after.cookie,
        }),
        // The program chose a socket of a SO_REUSEPORT group, and the kernel does not run the choice within
        // the group. See kernel commit 7c32e8f8bc33 (bpf_prog_test_run_sk_lookup).
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Verdict {
            pass: true,
            socket: u64::MAX,
        }),
        Err(error) => Err(error),
    }
}

/// The kernel's `struct bpf_sk_lookup`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Context {
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
    /// A client of `key` with port 0 and an address for documentation (RFC 5737, RFC 3849).
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
            // Each client has a /64 of its own.
            context.remote_ip6[1] = u32::from(client).to_be();
            for (word, bytes) in context.local_ip6.iter_mut().zip(key.addr.chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        context
    }
}
