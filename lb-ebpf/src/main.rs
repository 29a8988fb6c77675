//! The eBPF programs of lb-agent: entry points only.
//!
//! `steer`, `listen`, `connect`, `xdp` and `tc` hold what each program does, `maps` every map, `sets`
//! and `flows` the flow tables in theirs, `frame` and `packet` every read of a kernel context, `tables`,
//! `pick` and `world` what decisions are made from. They are not made here but in `lb_common`:
//! `select`, `flows` and `decide`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// For the atomic instructions in `maps`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

/// Makes each part of the way a function of its own to the verifier, and `call`, which runs them.
macro_rules! stages {
    ($context:ident $($name:ident: $stage:ident,)+) => {
        $(
            /// See the [`Stage`] of this name.
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn $name(ctx: *mut $context) -> u64 {
                run_stage(Stage::$stage, crate::kept(ctx))
            }
        )+

        #[inline(always)]
        fn call(ctx: *mut $context, stage: Stage) -> u64 {
            match stage {
                $(Stage::$stage => $name(ctx),)+
                // Of the other direction.
                #[allow(unreachable_patterns)]
                _ => 0,
            }
        }
    };
}

mod connect;
mod flows;
mod frame;
mod listen;
mod maps;
mod packet;
mod pick;
mod sets;
mod steer;
mod tables;
mod tc;
mod world;
mod xdp;

use aya_ebpf::macros::{cgroup_sock_addr, classifier, sk_lookup, sock_ops, xdp};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext, TcContext, XdpContext};

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

/// The packet paths at the driver: `nat` and `dsr`.
#[xdp]
pub fn lb_xdp(ctx: XdpContext) -> u32 {
    xdp::forward(ctx.ctx)
}

/// The same at TC ingress, where a driver has no XDP.
#[classifier]
pub fn lb_tc_ingress(ctx: TcContext) -> i32 {
    tc::forward(ctx.skb.skb)
}

/// Gives the replies of `nat` backends on this host the address of the service.
#[classifier]
pub fn lb_tc_egress(ctx: TcContext) -> i32 {
    tc::mend_reply(ctx.skb.skb)
}

/// Keeps the compiler from leaving out an argument that a function does not use: the verifier
/// wants every function to be called as it is declared.
#[inline(always)]
pub(crate) fn kept<T>(ctx: *mut T) -> *mut T {
    #[cfg(target_arch = "bpf")]
    let mut ctx = ctx;
    #[cfg(target_arch = "bpf")]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "it is not followed")]
    // SAFETY: a move to itself changes nothing.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) ctx, options(nomem, nostack));
    }
    ctx
}

/// Hides from the compiler what it knows of a number: it would leave out bounds checks that it
/// can prove needless, and the verifier cannot follow its proof.
#[inline(always)]
pub(crate) fn opaque(number: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    let mut number = number;
    #[cfg(target_arch = "bpf")]
    // SAFETY: adding nothing changes nothing. (Without any instruction the line table would name
    // one place twice, which the kernel refuses.)
    unsafe {
        core::arch::asm!("{0} += 0", inout(reg) number, options(pure, nomem, nostack));
    }
    number
}

/// Hides from the verifier what it knows of a number, by turning its bytes round and back.
#[inline(always)]
pub(crate) fn forgotten(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let mut number = number;
    #[cfg(target_arch = "bpf")]
    // SAFETY: it changes nothing but a register, and that back.
    unsafe {
        core::arch::asm!(
            "{0} = be64 {0}",
            "{0} = be64 {0}",
            inout(reg) number,
            options(pure, nomem, nostack)
        );
    }
    number
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
