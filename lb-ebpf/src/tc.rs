//! `lb_tc_ingress` and `lb_tc_egress`: the packet paths behind the driver.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_skb_pull_data};
use core::ptr;
use lb_common::abi::packet::{AddressMarks, Ip, interface};
use lb_common::decide::data_path::{Host as _, Services as _};
use lb_common::decide::{Outcome, Stage, egress, ingress, open, run, six};
use lb_common::headers::ether;
use lb_common::packet::Packet;

use crate::ask::is_connected;
use crate::packet::{Raw, Skb, add_header, field};
use crate::packet_maps::{self, Route};
use crate::world::{Hook, Maps, context};

/// Bytes that are made linear: Ethernet, two IP headers with their options or extensions, and the
/// packet quoted behind them.
const HEADERS: u32 = 256;

/// Returns the TC action for a packet that came by an interface.
#[inline(always)]
pub fn forward(skb: *mut __sk_buff) -> i32 {
    pull(skb);
    let mut maps = maps(skb);
    if is_bare(maps.ingress()) && !frame(skb, &maps) {
        return TC_ACT_UNSPEC;
    }
    match ingress(&mut Raw(Skb(skb)), &mut maps, context).outcome() {
        // Programs and the stack after this one go on.
        Outcome::Pass | Outcome::Stack => TC_ACT_UNSPEC,
        Outcome::Transmit => send(maps.ingress()),
        Outcome::Redirect(ifindex) => send(ifindex),
        Outcome::Neighbour(ifindex) => ask_and_send(ifindex),
        Outcome::Drop => TC_ACT_SHOT,
    }
}

/// Returns the TC action for a packet of the host itself that goes out by an interface.
#[inline(always)]
pub fn mend_reply(skb: *mut __sk_buff) -> i32 {
    pull(skb);
    let Some(context) = context() else {
        return TC_ACT_UNSPEC;
    };
    let mut maps = maps(skb);
    match egress(&mut Raw(Skb(skb)), &mut maps, context).outcome() {
        Outcome::Drop => TC_ACT_SHOT,
        _ => TC_ACT_UNSPEC,
    }
}

/// Whether packets come by an interface without an Ethernet header.
#[inline(always)]
fn is_bare(ifindex: u32) -> bool {
    packet_maps::interface(ifindex).is_some_and(|found| found.flags & interface::BARE != 0)
}

/// Gives such a packet the header of a frame. False, and nothing done, if it has to do with no address that
/// is known.
#[inline(always)]
fn frame(skb: *mut __sk_buff, maps: &Maps<Skb>) -> bool {
    let packet = Raw(Skb(skb));
    let kind = field!(skb, __sk_buff, protocol) as u16;
    let ends = match kind {
        ether::IPV4 => packet
            .words::<2>(12)
            .map(|[src, dst]| (Ip::v4(src), Ip::v4(dst))),
        ether::IPV6 => packet
            .words::<8>(8)
            .map(|[a, b, c, d, e, f, g, h]| (Ip([a, b, c, d]), Ip([e, f, g, h]))),
        _ => None,
    };
    let Some((src, dst)) = ends else {
        return false;
    };
    let marks = maps.marks(&dst) & AddressMarks::KNOWN | maps.marks(&src) & AddressMarks::BACKEND;
    marks != 0 && add_header(skb, kind).is_some()
}

/// Makes the headers linear. If that fails, the bytes that are not linear read as cut off.
#[inline(always)]
pub fn pull(skb: *mut __sk_buff) {
    let len = field!(skb, __sk_buff, len) as u32;
    // SAFETY: the context is valid for as long as the program runs.
    unsafe { bpf_skb_pull_data(skb, len.min(HEADERS)) };
}

#[inline(always)]
fn maps(skb: *mut __sk_buff) -> Maps<Skb> {
    Maps { hook: Skb(skb) }
}

#[inline(always)]
fn run_stage(stage: Stage, skb: *mut __sk_buff) -> u64 {
    match context() {
        Some(context) => run(stage, &mut Raw(Skb(skb)), &mut maps(skb), context).code(),
        None => 0,
    }
}

/// See `decide::open`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tc_open(ctx: *mut __sk_buff) -> u64 {
    let ctx = crate::hints::kept(ctx);
    open(&mut Raw(Skb(ctx)), &mut maps(ctx)).code()
}

/// See `decide::six`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_tc_six(ctx: *mut __sk_buff) -> u64 {
    let ctx = crate::hints::kept(ctx);
    six(&mut Raw(Skb(ctx)), &mut maps(ctx)).code()
}

stages! { __sk_buff
    lb_tc_arrived: Ingress,
    lb_tc_flow: Flow,
    lb_tc_forget: Forget,
    lb_tc_known: Known,
    lb_tc_advance: Advance,
    lb_tc_new_flow: NewFlow,
    lb_tc_enter: Enter,
    lb_tc_borrow: Borrow,
    lb_tc_backend_gone: BackendGone,
    lb_tc_dsr: Dsr,
    lb_tc_icmp: Icmp,
    lb_tc_icmp_related: IcmpRelated,
    lb_tc_way_out: WayOut,
    lb_tc_mend: Mend,
    lb_tc_reset: Reset,
    lb_tc_error: Error,
    lb_tc_extensions: Extensions,
    lb_tc_received: Received,
    lb_tc_transitioning: Transitioning,
    lb_tc_send: Send,
    lb_tc_leaving: Leaving,
    lb_tc_local_reply: LocalReply,
    lb_tc_local_known: LocalKnown,
    lb_tc_local_error: LocalError,
    lb_tc_local_icmp: LocalIcmpRelated,
    lb_tc_local_extensions: LocalExtensions,
}

#[inline(always)]
fn send(ifindex: u32) -> i32 {
    // SAFETY: it notes an interface, and may be called anywhere.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// The kernel keeps the packet until it knows the neighbour.
#[inline(always)]
fn ask_and_send(ifindex: u32) -> i32 {
    // SAFETY: as above; without a next hop named, the route of the packet says it.
    unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 }
}

impl Hook for Skb {
    const ASKS: bool = true;

    #[inline(always)]
    fn fib_lookup(&self, route: &mut Route) -> i64 {
        let params = ptr::from_mut(route).cast();
        // SAFETY: the context is valid, and `Route` is the struct that the helper wants.
        unsafe { bpf_fib_lookup(self.0.cast(), params, size_of::<Route>() as i32, 0) }
    }

    #[inline(always)]
    fn sends_to(&self, _ifindex: u32) -> bool {
        true
    }

    #[inline(always)]
    fn is_connected(&self, ends: &mut [u32; 9], size: u32, tcp: bool) -> bool {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { is_connected(self.0.cast(), ends, size, tcp) }
    }

    /// As the kernel has it: PACKET_HOST (linux/if_packet.h).
    #[inline(always)]
    fn is_ours<P: Packet>(&self, _packet: &P) -> bool {
        field!(self.0, __sk_buff, pkt_type) == 0
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        field!(self.0, __sk_buff, ifindex) as u32
    }

    #[inline(always)]
    fn call(&self, stage: Stage) -> u64 {
        call(self.0, stage)
    }

    #[inline(always)]
    fn open(&self) -> u64 {
        lb_tc_open(self.0)
    }

    #[inline(always)]
    fn six(&self) -> u64 {
        lb_tc_six(self.0)
    }
}
