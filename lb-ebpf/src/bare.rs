//! `lb_tc_egress_bare`: the work of `lb_tc_egress` on interfaces with packets that have no Ethernet header.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use lb_common::decide::{Outcome, Stage, egress, run};
use lb_common::packet::Packet;

use crate::packet::{Bare, Raw, Skb, field};
use crate::packet_maps::Route;
use crate::tc::pull;
use crate::world::{Hook, Maps, context};

/// Returns the TC action for a packet of the host itself that goes out by such an interface.
#[inline(always)]
pub fn mend_reply(skb: *mut __sk_buff) -> i32 {
    pull(skb);
    let Some(context) = context() else {
        return TC_ACT_UNSPEC;
    };
    match egress(&mut Raw(Bare(skb)), &mut maps(skb), context).outcome() {
        Outcome::Drop => TC_ACT_SHOT,
        _ => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn maps(skb: *mut __sk_buff) -> Maps<Bare> {
    Maps { hook: Bare(skb) }
}

#[inline(always)]
fn run_stage(stage: Stage, skb: *mut __sk_buff) -> u64 {
    match context() {
        Some(context) => run(stage, &mut Raw(Bare(skb)), &mut maps(skb), context).code(),
        None => 0,
    }
}

stages! { __sk_buff
    lb_bare_leaving: Leaving,
    lb_bare_local_reply: LocalReply,
    lb_bare_local_known: LocalKnown,
    lb_bare_local_error: LocalError,
    lb_bare_local_icmp: LocalIcmpRelated,
    lb_bare_local_extensions: LocalExtensions,
    lb_bare_mend: Mend,
}

impl Hook for Bare {
    const ASKS: bool = Skb::ASKS;

    #[inline(always)]
    fn fib_lookup(&self, route: &mut Route) -> i64 {
        Skb(self.0).fib_lookup(route)
    }

    #[inline(always)]
    fn sends_to(&self, ifindex: u32) -> bool {
        Skb(self.0).sends_to(ifindex)
    }

    #[inline(always)]
    fn is_connected(&self, ends: &mut [u32; 9], size: u32, tcp: bool) -> bool {
        Skb(self.0).is_connected(ends, size, tcp)
    }

    #[inline(always)]
    fn is_ours<P: Packet>(&self, packet: &P) -> bool {
        Skb(self.0).is_ours(packet)
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        field!(self.0, __sk_buff, ifindex) as u32
    }

    #[inline(always)]
    fn call(&self, stage: Stage) -> u64 {
        call(self.0, stage)
    }

    /// A packet that leaves opens no flow.
    #[inline(always)]
    fn open(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn six(&self) -> u64 {
        0
    }
}
