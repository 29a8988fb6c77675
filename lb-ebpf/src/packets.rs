//! The programs for packets, entry points only: `nat` and `dsr`. They are an object of their own
//! because their maps take memory. A host without such backends does not load them.
//!
//! `xdp`, `tc` and `bare` hold the bodies of the programs, `packet_maps` their maps, `sets` and `flows` the
//! flow tables in them. `packet` holds every read of a kernel context and `clock` the time. `tables`, `pick`,
//! `choices` and `world` hold the inputs of decisions. Decisions are made in
//! `lb_common`: `select`, `flows` and `decide`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// For the instructions in `atomic` and `hints`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

/// Makes each part of the way a function of its own to the verifier, and `call`, which runs them.
macro_rules! stages {
    ($context:ident $($name:ident: $stage:ident,)+) => {
        $(
            /// See the [`Stage`] of this name.
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn $name(ctx: *mut $context) -> u64 {
                run_stage(Stage::$stage, crate::hints::kept(ctx))
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

mod access;
mod ask;
mod atomic;
mod bare;
mod caps;
mod choices;
mod clock;
mod cookies;
mod flows;
mod hints;
mod maps;
mod object;
mod packet;
mod packet_maps;
mod pick;
mod sets;
mod tables;
mod tc;
mod world;
mod xdp;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// The packet paths at the driver: `nat` and `dsr`.
#[xdp]
pub fn lb_xdp(ctx: XdpContext) -> u32 {
    xdp::forward(ctx.ctx)
}

/// The same at TC ingress, for a driver without XDP.
#[classifier]
pub fn lb_tc_ingress(ctx: TcContext) -> i32 {
    tc::forward(ctx.skb.skb)
}

/// Gives the replies of `nat` backends on this host the address of the service.
#[classifier]
pub fn lb_tc_egress(ctx: TcContext) -> i32 {
    tc::mend_reply(ctx.skb.skb)
}

/// The same on an interface whose packets have no Ethernet header.
#[classifier]
pub fn lb_tc_egress_bare(ctx: TcContext) -> i32 {
    bare::mend_reply(ctx.skb.skb)
}

/// The crate compiles for the host too, so that the linters can read it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
