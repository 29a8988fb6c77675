//! `lb_decap`: unwraps the packets that a balancer sends on the `dsr` path. An object of its own,
//! for backends that run nothing else of lb-agent. The decision about each packet is in
//! `lb_common::decap`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod hints;
mod object;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use core::ptr;
use lb_common::abi::decap::{DecapSettings, MAX_DECAP_FROM};
use lb_common::abi::local::MAX_LOCAL_ADDRESSES;
use lb_common::addr::Addr;
use lb_common::decap::{Admission, Frame, Outcome, Wrapped, unwrap};

use crate::hints::opaque;

/// The settings from the command.
#[btf_map]
static DECAP_SETTINGS: Array<DecapSettings, 1> = Array::new();

/// Addresses of this host; the values are unused.
#[btf_map]
static DECAP_ADDRESSES: HashMap<Addr, Addr, MAX_LOCAL_ADDRESSES> = HashMap::new();

/// Sources that may wrap, IPv4 prefixes mapped into IPv6 ones; the values are unused.
#[btf_map]
static DECAP_FROM: LpmTrie<Addr, u8, MAX_DECAP_FROM> = LpmTrie::new();

/// Packets, by [`Outcome`].
#[btf_map]
static DECAP_STATS: PerCpuArray<u64, { Outcome::COUNT }> = PerCpuArray::new();

/// Unwraps packets for this host, and passes all others.
#[xdp]
pub fn lb_decap(ctx: XdpContext) -> u32 {
    let mut frame = Raw(ctx.ctx);
    let outcome = match DECAP_SETTINGS.get(0) {
        Some(settings) => unwrap(&mut frame, settings.gue_port_be, |wrapped| {
            admit(settings, wrapped)
        }),
        None => Outcome::NotWrapped,
    };
    if let Some(count) = DECAP_STATS.get_ptr_mut(outcome as u32) {
        // SAFETY: this CPU's own element; the program is not preempted by another on this CPU.
        unsafe { *count += 1 };
    }
    if outcome.passes() { XDP_PASS } else { XDP_DROP }
}

#[inline(always)]
fn admit(settings: &DecapSettings, wrapped: &Wrapped) -> Admission {
    // SAFETY: the value is not looked at.
    if unsafe { DECAP_ADDRESSES.get(wrapped.destination) }.is_none() {
        return Admission::OtherHost;
    }
    let source = Key::new(128, wrapped.source);
    if settings.only_from != 0 && DECAP_FROM.get(&source).is_none() {
        return Admission::Refused;
    }
    Admission::Admitted
}

/// Offsets beyond this are not looked at: the verifier wants a bound, and no walk gets so far.
const FARTHEST: usize = 0xff;

/// The packet of the program's context.
struct Raw(*mut xdp_md);

impl Raw {
    /// A pointer to `len` bytes at `at` that are inside.
    #[inline(always)]
    fn inside(&self, at: u32, len: usize) -> Option<*mut u8> {
        let (start, end) = self.bounds();
        let place = start + (opaque(at as usize) & FARTHEST);
        (place + len <= end).then_some(place as *mut u8)
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the context is valid for as long as the program runs.
        let start = unsafe { &raw const (*self.0).data };
        // SAFETY: as above; the field is aligned.
        let start = unsafe { ptr::read_volatile(start) };
        // SAFETY: as above.
        let end = unsafe { &raw const (*self.0).data_end };
        // SAFETY: as above.
        let end = unsafe { ptr::read_volatile(end) };
        (start as usize, end as usize)
    }

    #[inline(always)]
    fn load<T: Copy>(&self, at: u32) -> Option<T> {
        let place = self.inside(at, size_of::<T>())?;
        // SAFETY: the bytes are inside the packet, and integers have no invalid values. To this
        // target every place is aligned: the verifier refuses the program on machines on which it
        // matters.
        Some(unsafe { ptr::read(place.cast::<T>()) })
    }

    #[inline(always)]
    fn store<T: Copy>(&mut self, at: u32, value: T) -> Option<()> {
        let place = self.inside(at, size_of::<T>())?;
        // SAFETY: as above.
        unsafe { ptr::write(place.cast::<T>(), value) };
        Some(())
    }
}

impl Frame for Raw {
    #[inline(always)]
    fn length(&self) -> u32 {
        let (start, end) = self.bounds();
        (end - start) as u32
    }

    #[inline(always)]
    fn half(&self, at: u32) -> Option<u16> {
        self.load(at)
    }

    #[inline(always)]
    fn word(&self, at: u32) -> Option<u32> {
        self.load(at)
    }

    #[inline(always)]
    fn set_half(&mut self, at: u32, half: u16) -> Option<()> {
        self.store(at, half)
    }

    #[inline(always)]
    fn set_word(&mut self, at: u32, word: u32) -> Option<()> {
        self.store(at, word)
    }

    #[inline(always)]
    fn shrink(&mut self, by: u32) -> Option<()> {
        // SAFETY: the context is valid; pointers into the packet are made anew at each access.
        (unsafe { bpf_xdp_adjust_head(self.0, by as i32) } == 0).then_some(())
    }
}

/// The crate compiles for the host too, so that the linters can read it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
