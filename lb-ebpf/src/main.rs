//! The programs for sockets, entry points only: the socket path, and clients on this host.
//!
//! `steer`, `listen` and `connect` hold the bodies of the programs, `socket_maps` their maps, `frame` every
//! read of a kernel context. `maps` and `tables`, from which backends are chosen, are those of the packet
//! programs, too (`packets`). The choice is not made here but in `lb_common::select`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// For the instructions in `atomic` and `hints`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod access;
mod atomic;
mod caps;
mod connect;
mod frame;
mod hints;
mod listen;
mod maps;
mod object;
mod socket_maps;
mod steer;
mod tables;

use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

/// Hands a new connection, or a UDP datagram, to the socket of the chosen backend.
#[sk_lookup]
pub fn lb_steer(ctx: SkLookupContext) -> u32 {
    steer::steer(&ctx)
}

/// Notes listening sockets, and counts the connections that they accept.
#[sock_ops]
pub fn lb_listen(ctx: SockOpsContext) -> u32 {
    listen::socket_event(&ctx);
    // The return value of a sock_ops program is an answer to some operations, none of them ours.
    0
}

/// The entry points of `connect`. 1 lets the system call go on; nothing here refuses one.
macro_rules! at_system_call {
    ($($hook:ident, $name:ident, $does:path;)+) => {$(
        #[cgroup_sock_addr($hook)]
        pub fn $name(ctx: SockAddrContext) -> i32 {
            $does(&ctx);
            1
        }
    )+};
}

at_system_call! {
    connect4, lb_connect4, connect::connect::<false>;
    connect6, lb_connect6, connect::connect::<true>;
    sendmsg4, lb_sendmsg4, connect::send::<false>;
    sendmsg6, lb_sendmsg6, connect::send::<true>;
    recvmsg4, lb_recvmsg4, connect::receive::<false>;
    recvmsg6, lb_recvmsg6, connect::receive::<true>;
    getpeername4, lb_getpeername4, connect::peer_name::<false>;
    getpeername6, lb_getpeername6, connect::peer_name::<true>;
}

/// The crate compiles for the host too, so that the linters can read it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
