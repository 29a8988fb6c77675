//! Questions to the kernel, as it wants them: for a route, and for a socket of this host.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use lb_common::abi::packet::{FlowKey, Ip};

use crate::packet_maps::Route;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Fills in a question to the routes.
#[inline(always)]
pub fn fill(route: &mut Route, src: &Ip, dst: &Ip, ingress: u32) {
    let v4 = dst.is_v4();
    route.family = if v4 { AF_INET } else { AF_INET6 };
    route.protocol = 0;
    route.ports = [0; 2];
    // Not 0: TC would compare the length of its packet with the device's, before it is cut up.
    route.len = 1;
    route.ifindex = ingress;
    route.tos = 0;
    route.vlan = 0;
    route.macs = [0; 3];
    if v4 {
        route.src = [src.0[3], 0, 0, 0];
        route.dst = [dst.0[3], 0, 0, 0];
    } else {
        route.src = src.0;
        route.dst = dst.0;
    }
}

/// A flow as the kernel's `struct bpf_sock_tuple` has it: `N` words of it.
#[inline(always)]
pub fn ends_of<const N: usize>(key: &FlowKey) -> [u32; 9] {
    let words = key.words::<N>();
    let mut ends = [0; 9];
    let mut i = 0;
    while i < N {
        ends[i] = words[i];
        i += 1;
    }
    ends
}

/// Sockets of the program's own network namespace.
pub const HERE: u64 = -1i64 as u64;
/// State of a socket that listens, and of one that is connected, also by UDP (linux/tcp_states.h).
pub const LISTENS: u32 = 10;
const CONNECTED: u32 = 1;

/// Asks the kernel for a socket; both programs' contexts will do. See [`Hook::is_connected`].
///
/// # Safety
/// `ctx` is the context of the program that runs.
#[inline(always)]
pub unsafe fn is_connected(ctx: *mut c_void, ends: &mut [u32; 9], size: u32, tcp: bool) -> bool {
    let ends = core::ptr::from_mut(ends).cast();
    let socket = if tcp {
        // SAFETY: the context is valid, and `ends` has `size` bytes.
        unsafe { bpf_skc_lookup_tcp(ctx, ends, size, HERE, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(ctx, ends, size, HERE, 0) }
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the kernel returned a socket, which it keeps until it is released.
    let state = unsafe { (*socket).state };
    // SAFETY: as above, and nothing is read of it afterwards.
    unsafe { bpf_sk_release(socket.cast()) };
    if tcp {
        state != LISTENS
    } else {
        state == CONNECTED
    }
}
