//! The eBPF programs of lb-agent: entry points only.
//!
//! `steer` and `listen` hold what each program does, `maps` every map, `frame` every read of a
//! kernel context. Decisions are not made here but in `lb_common::select`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// For the one instruction in `maps::atomic_add`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod frame;
mod listen;
mod maps;
mod steer;

use aya_ebpf::macros::{sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockOpsContext};

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

/// GPL-compatible, as some helpers ask; the sources are MIT OR Apache-2.0.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A panic that the compiler could not rule out loops for ever, which the verifier refuses: no
/// program with a reachable panic is ever loaded.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The crate compiles for the host too, so that the linters can read it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
