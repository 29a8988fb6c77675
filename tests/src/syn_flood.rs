//! A SYN flood from made-up addresses: frames by a packet socket, bounded in number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::packets::ip_packet;
use crate::topology::hosts::{FrameSocket, Host};
use crate::wire::{self, Tcp};

/// Most frames of a flood: a test that hangs sends no more.
const MOST: u64 = 2_000_000;
/// Frames between two short pauses, which leave a small machine to its other tasks.
const AT_ONCE: u64 = 64;

/// A flood that goes on until it is dropped.
pub struct SynFlood {
    ends: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl SynFlood {
    /// Sends SYNs to each of `to` in turn from `host` by `interface`, in frames from its MAC address to `mac`. Each comes
    /// from an address and a port of its own, in 198.18.0.0/15 (RFC 2544) or 2001:db8:f::/48 (RFC 3849).
    pub fn start(host: &Host, interface: &str, mac: [u8; 6], to: &[SocketAddr]) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (until, count) = (Arc::clone(&ends), Arc::clone(&sent));
        let (own, to) = (host.mac(interface), to.to_vec());
        let socket = host.frame_socket(interface);
        let thread = host.spawn(move || flood(&socket, [mac, own], &to, &until, &count));
        Self {
            ends,
            sent,
            thread: Some(thread),
        }
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for SynFlood {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn flood(
    socket: &FrameSocket,
    macs: [[u8; 6]; 2],
    to: &[SocketAddr],
    until: &AtomicBool,
    sent: &AtomicU64,
) {
    for n in 0..MOST {
        if until.load(Ordering::Relaxed) {
            return;
        }
        let to = to[n as usize % to.len()];
        let mut frame = syn_frame(made_up(n, to.ip()), to);
        frame[..12].copy_from_slice(&macs.concat());
        socket.send(&frame);
        sent.store(n + 1, Ordering::Relaxed);
        if n.is_multiple_of(AT_ONCE) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The nth address that nobody has, of the family of `to`.
fn made_up(n: u64, to: IpAddr) -> SocketAddr {
    let [.., a, b, c] = n.to_be_bytes();
    let ip: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::new(198, 18 | a & 1, b, c).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, n as u16, 1).into(),
    };
    SocketAddr::new(ip, 1024 + (n % 60_000) as u16)
}

/// The frame of a SYN with the options of a Linux client.
pub fn syn_frame(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut syn = Tcp::new(from.port(), to.port(), 2);
    // Maximum segment size, SACK permitted, timestamps, window scale.
    syn.options = [
        &[2, 4, 0x05, 0xb4, 4, 2, 8, 10][..],
        &[0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7],
    ]
    .concat();
    let segment = syn.bytes(from.ip(), to.ip());
    let packet = ip_packet(from.ip(), to.ip(), wire::number::TCP, &segment);
    wire::frame(&[], &packet)
}
