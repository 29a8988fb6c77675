//! `lb_xdp`: the packet paths at the driver.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect};
use core::ptr;
use lb_common::abi::packet::{PacketCounter, PacketSettings, interface};
use lb_common::decide::data_path::{Counters as _, Host as _};
use lb_common::decide::{Outcome, Stage, ingress, open, run, six};
use lb_common::headers::destination;
use lb_common::packet::Packet;

use crate::ask::is_connected;
use crate::cookies;
use crate::packet::{Raw, Xdp, field};
use crate::packet_maps::{Route, interface, packet_settings};
use crate::world::{Hook, Maps, context, takes_xdp};

/// Returns the XDP action for the packet.
#[inline(always)]
pub fn forward(ctx: *mut xdp_md) -> u32 {
    let mut maps = maps(ctx);
    match ingress(&mut Raw(Xdp(ctx)), &mut maps, context).outcome() {
        Outcome::Pass if answers_syns() && lb_xdp_cookie(ctx) != 0 => send_back(maps.ingress()),
        // A neighbour is never asked for here.
        Outcome::Pass | Outcome::Stack | Outcome::Neighbour(_) => XDP_PASS,
        Outcome::Transmit => send_back(maps.ingress()),
        Outcome::Redirect(ifindex) => redirect(ifindex),
        Outcome::Drop => XDP_DROP,
    }
}

/// See [`PacketSettings::syn_cookies`].
#[inline(always)]
fn answers_syns() -> bool {
    packet_settings().is_some_and(|settings: &PacketSettings| settings.syn_cookies != 0)
}

/// See `cookies::answer`: 1 if the packet is the answer now.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_xdp_cookie(ctx: *mut xdp_md) -> u64 {
    let ctx = crate::hints::kept(ctx);
    if cookies::answer(ctx).is_none() {
        return 0;
    }
    maps(ctx).inc(PacketCounter::SynCookie);
    1
}

/// By the interface that the packet came by.
#[inline(always)]
fn send_back(ingress: u32) -> u32 {
    if redirects_back() {
        redirect(ingress)
    } else {
        XDP_TX
    }
}

/// See [`PacketSettings::redirects_back`].
#[inline(always)]
fn redirects_back() -> bool {
    packet_settings().is_some_and(|settings: &PacketSettings| settings.redirects_back != 0)
}

#[inline(always)]
fn redirect(ifindex: u32) -> u32 {
    // SAFETY: it notes an interface, and may be called anywhere.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}

impl Hook for Xdp {
    const ASKS: bool = false;

    #[inline(always)]
    fn fib_lookup(&self, route: &mut Route) -> i64 {
        let params = ptr::from_mut(route).cast();
        // SAFETY: the context is valid, and `Route` is the struct that the helper wants.
        unsafe { bpf_fib_lookup(self.0.cast(), params, size_of::<Route>() as i32, 0) }
    }

    #[inline(always)]
    fn sends_to(&self, ifindex: u32) -> bool {
        takes_xdp(ifindex)
    }

    #[inline(always)]
    fn is_connected(&self, ends: &mut [u32; 9], size: u32, tcp: bool) -> bool {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { is_connected(self.0.cast(), ends, size, tcp) }
    }

    /// By the address of the interface, which the driver's frames do not tell.
    #[inline(always)]
    fn is_ours<P: Packet>(&self, packet: &P) -> bool {
        let Some(own) = interface(self.ingress()) else {
            return true;
        };
        let Some([a, b, c]) = destination(packet) else {
            return true;
        };
        let [d, e, f] = own.mac;
        own.flags & interface::HAS_MAC == 0 || (a ^ d) | (b ^ e) | (c ^ f) == 0
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        field!(self.0, xdp_md, ingress_ifindex) as u32
    }

    #[inline(always)]
    fn call(&self, stage: Stage) -> u64 {
        call(self.0, stage)
    }

    #[inline(always)]
    fn open(&self) -> u64 {
        lb_xdp_open(self.0)
    }

    #[inline(always)]
    fn six(&self) -> u64 {
        lb_xdp_six(self.0)
    }
}

#[inline(always)]
fn maps(ctx: *mut xdp_md) -> Maps<Xdp> {
    Maps { hook: Xdp(ctx) }
}

#[inline(always)]
fn run_stage(stage: Stage, ctx: *mut xdp_md) -> u64 {
    match context() {
        Some(context) => run(stage, &mut Raw(Xdp(ctx)), &mut maps(ctx), context).code(),
        None => 0,
    }
}

/// See `decide::open`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_xdp_open(ctx: *mut xdp_md) -> u64 {
    let ctx = crate::hints::kept(ctx);
    open(&mut Raw(Xdp(ctx)), &mut maps(ctx)).code()
}

/// See `decide::six`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lb_xdp_six(ctx: *mut xdp_md) -> u64 {
    let ctx = crate::hints::kept(ctx);
    six(&mut Raw(Xdp(ctx)), &mut maps(ctx)).code()
}

stages! { xdp_md
    lb_xdp_arrived: Ingress,
    lb_xdp_flow: Flow,
    lb_xdp_forget: Forget,
    lb_xdp_known: Known,
    lb_xdp_advance: Advance,
    lb_xdp_new_flow: NewFlow,
    lb_xdp_enter: Enter,
    lb_xdp_borrow: Borrow,
    lb_xdp_backend_gone: BackendGone,
    lb_xdp_dsr: Dsr,
    lb_xdp_icmp: Icmp,
    lb_xdp_icmp_related: IcmpRelated,
    lb_xdp_way_out: WayOut,
    lb_xdp_mend: Mend,
    lb_xdp_reset: Reset,
    lb_xdp_error: Error,
    lb_xdp_extensions: Extensions,
    lb_xdp_received: Received,
    lb_xdp_transitioning: Transitioning,
    lb_xdp_send: Send,
}
