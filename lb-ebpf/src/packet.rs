//! Packets of XDP and TC programs as `lb_common` reads and changes them: every raw packet pointer.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_head, bpf_skb_change_tail,
    bpf_skb_vlan_pop, bpf_xdp_adjust_head, bpf_xdp_adjust_tail,
};
use core::ptr;
use lb_common::checksum::Delta;
use lb_common::headers::ETHERNET;
use lb_common::packet::{Outer, Packet, Window};

use crate::hints::opaque;

/// Offsets beyond this are not looked at: the verifier wants a bound, and no walk gets so far.
const FARTHEST: usize = 0x3fff;

/// Operations on a packet that differ between XDP and TC.
pub trait Context {
    /// Bytes of the Ethernet header that the packet lacks: its data begins behind them.
    const LACKS: u32 = 0;
    /// The Ethernet header that such a packet lacks would have this type: the EtherType, in memory order.
    #[inline(always)]
    fn kind(&self) -> u16 {
        0
    }
    /// Address of the first byte of data.
    fn start(&self) -> usize;
    /// Address behind the last byte of data.
    fn end(&self) -> usize;
    /// See [`Packet::len`].
    fn len(&self) -> u32;
    /// See [`Packet::segment_len`].
    fn segment_len(&self, ip_len: u32) -> u32;
    /// See [`Packet::fix_checksum`].
    fn fix_checksum(packet: &mut Raw<Self>, at: u32, delta: &Delta) -> Option<()>
    where
        Self: Sized;
    /// See [`Packet::grow`].
    fn grow(&self, by: u32, outer: Outer) -> Option<()>;
    /// See [`Packet::untag`].
    fn untag(&self, by: u32) -> Option<()>;
    /// See [`Packet::truncate`].
    fn truncate(&self, len: u32) -> Option<()>;
    /// See [`Packet::is_begun`].
    fn is_begun(&self, at: u32) -> bool;
}

/// The packet of a program's context.
pub struct Raw<C>(pub C);

impl<C: Context> Raw<C> {
    /// A pointer to `len` bytes at `at` that are inside.
    #[inline(always)]
    fn inside(&self, at: u32, len: usize) -> Option<*mut u8> {
        let at = opaque(at as usize).wrapping_sub(C::LACKS as usize);
        let place = self.0.start() + (at & FARTHEST);
        (place + len <= self.0.end()).then_some(place as *mut u8)
    }

    #[inline(always)]
    fn load<T: Copy>(&self, at: u32) -> Option<T> {
        let place = self.inside(at, size_of::<T>())?;
        // SAFETY: the bytes are inside the packet, and integers have no invalid values. To this
        // target every place is aligned: the verifier refuses the program on machines on which it
        // matters. Told otherwise, the compiler would read byte by byte.
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

impl<C: Context> Packet for Raw<C> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn words<const W: usize>(&self, at: u32) -> Option<[u32; W]> {
        self.load(at)
    }

    #[inline(always)]
    fn half(&self, at: u32) -> Option<u16> {
        if C::LACKS != 0 && at == 12 {
            return Some(self.0.kind());
        }
        self.load(at)
    }

    #[inline(always)]
    fn set_words<const W: usize>(&mut self, at: u32, words: [u32; W]) -> Option<()> {
        self.store(at, words)
    }

    #[inline(always)]
    fn set_half(&mut self, at: u32, half: u16) -> Option<()> {
        self.store(at, half)
    }

    #[inline(always)]
    fn window<const N: usize>(&mut self) -> Option<impl Window<N>> {
        let start = self.0.start();
        let inside = C::LACKS == 0 && start + N <= self.0.end();
        inside.then_some(Start::<N>(start as *mut u8))
    }

    #[inline(always)]
    fn fix_checksum(&mut self, at: u32, delta: &Delta) -> Option<()> {
        C::fix_checksum(self, at, delta)
    }

    #[inline(always)]
    fn grow(&mut self, by: u32, outer: Outer) -> Option<()> {
        self.0.grow(by, outer)
    }

    #[inline(always)]
    fn untag(&mut self, by: u32) -> Option<()> {
        self.0.untag(by)
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Option<()> {
        self.0.truncate(len)
    }

    #[inline(always)]
    fn is_begun(&mut self, at: u32) -> bool {
        self.0.is_begun(at)
    }

    #[inline(always)]
    fn segment_len(&self, ip_len: u32) -> u32 {
        self.0.segment_len(ip_len)
    }
}

/// The first `N` bytes of a packet, which are inside. Invalid once the packet's head has moved.
struct Start<const N: usize>(*mut u8);

impl<const N: usize> Start<N> {
    #[inline(always)]
    fn place<T, const AT: usize>(&self) -> *mut T {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: one of the bytes that are inside.
        unsafe { self.0.add(AT) }.cast()
    }
}

impl<const N: usize> Window<N> for Start<N> {
    #[inline(always)]
    fn word<const AT: usize>(&self) -> u32 {
        // SAFETY: inside, and aligned as far as this target is concerned; see `Raw::load`.
        unsafe { ptr::read(self.place::<u32, AT>()) }
    }

    #[inline(always)]
    fn half<const AT: usize>(&self) -> u16 {
        // SAFETY: as above.
        unsafe { ptr::read(self.place::<u16, AT>()) }
    }

    #[inline(always)]
    fn set_word<const AT: usize>(&mut self, word: u32) {
        // SAFETY: as above.
        unsafe { ptr::write(self.place::<u32, AT>(), word) }
    }

    #[inline(always)]
    fn set_half<const AT: usize>(&mut self, half: u16) {
        // SAFETY: as above.
        unsafe { ptr::write(self.place::<u16, AT>(), half) }
    }
}

/// Reads one 32-bit field of a context. By hand: the compiler would join reads in two branches
/// into one through a changed pointer, which the verifier refuses.
macro_rules! field {
    ($ctx:expr, $context:ty, $field:ident) => {{
        #[cfg(target_arch = "bpf")]
        let value = {
            let value: u64;
            // SAFETY: the context is valid for as long as the program runs, and the field is one
            // of its words.
            unsafe {
                core::arch::asm!(
                    "{value} = *(u32 *)({ctx} + {at})",
                    value = lateout(reg) value,
                    ctx = in(reg) $ctx,
                    at = const core::mem::offset_of!($context, $field),
                    options(readonly, nostack),
                );
            }
            value
        };
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: as above.
        let value = u64::from(unsafe { (*$ctx).$field });
        value
    }};
}
pub(crate) use field;

/// The context of an XDP program.
#[derive(Clone, Copy)]
pub struct Xdp(pub *mut xdp_md);

impl Context for Xdp {
    #[inline(always)]
    fn start(&self) -> usize {
        field!(self.0, xdp_md, data) as usize
    }

    #[inline(always)]
    fn end(&self) -> usize {
        field!(self.0, xdp_md, data_end) as usize
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.end() - self.start()) as u32
    }

    #[inline(always)]
    fn segment_len(&self, ip_len: u32) -> u32 {
        ip_len
    }

    #[inline(always)]
    fn fix_checksum(packet: &mut Raw<Self>, at: u32, delta: &Delta) -> Option<()> {
        let old: u16 = packet.load(at)?;
        packet.store(at, delta.applied(old))
    }

    #[inline(always)]
    fn grow(&self, by: u32, _outer: Outer) -> Option<()> {
        // SAFETY: the context is valid; packet pointers are made anew at each access.
        (unsafe { bpf_xdp_adjust_head(self.0, -(by as i32)) } == 0).then_some(())
    }

    #[inline(always)]
    fn untag(&self, by: u32) -> Option<()> {
        if by == 0 {
            return Some(());
        }
        // SAFETY: as above.
        (unsafe { bpf_xdp_adjust_head(self.0, by as i32) } == 0).then_some(())
    }

    #[inline(always)]
    fn truncate(&self, len: u32) -> Option<()> {
        let now = self.len();
        if len > now {
            return None;
        }
        // SAFETY: as above.
        (unsafe { bpf_xdp_adjust_tail(self.0, len as i32 - now as i32) } == 0).then_some(())
    }

    /// The driver's frames are as they are on the wire.
    #[inline(always)]
    fn is_begun(&self, _at: u32) -> bool {
        false
    }
}

/// The context of a TC program. The first bytes of its packet, with all headers, are made linear
/// beforehand.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

/// The context of a TC program on an interface without Ethernet headers. A packet that the host
/// sends is read there as if it had one, and keeps its length.
#[derive(Clone, Copy)]
pub struct Bare(pub *mut __sk_buff);

impl Context for Bare {
    const LACKS: u32 = ETHERNET;

    #[inline(always)]
    fn kind(&self) -> u16 {
        field!(self.0, __sk_buff, protocol) as u16
    }

    #[inline(always)]
    fn start(&self) -> usize {
        Skb(self.0).start()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        Skb(self.0).end()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        Skb(self.0).len() + Self::LACKS
    }

    #[inline(always)]
    fn segment_len(&self, ip_len: u32) -> u32 {
        Skb(self.0).segment_len(ip_len)
    }

    #[inline(always)]
    fn fix_checksum(packet: &mut Raw<Self>, at: u32, delta: &Delta) -> Option<()> {
        Skb::fix_checksum(
            &mut Raw(Skb(packet.0.0)),
            at.wrapping_sub(Self::LACKS),
            delta,
        )
    }

    #[inline(always)]
    fn grow(&self, _by: u32, _outer: Outer) -> Option<()> {
        None
    }

    #[inline(always)]
    fn untag(&self, _by: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn truncate(&self, _len: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn is_begun(&self, _at: u32) -> bool {
        false
    }
}

/// Puts an Ethernet header in front of a packet that came without one; zeros but for the EtherType `kind`.
/// (The kernel takes it off again, in front of the stack.)
#[inline(always)]
pub fn add_header(skb: *mut __sk_buff, kind: u16) -> Option<()> {
    // SAFETY: the context is valid; packet pointers are made anew at each access.
    if unsafe { bpf_skb_change_head(skb, ETHERNET, 0) } != 0 {
        return None;
    }
    Raw(Skb(skb)).store(12, kind)
}

/// `bpf_l4_csum_replace`: the change is one of the pseudo header.
const BPF_F_PSEUDO_HDR: u64 = 0x10;
/// The same: a checksum of 0 means that there is none.
const BPF_F_MARK_MANGLED_0: u64 = 0x20;
/// `bpf_skb_adjust_room`: behind the MAC header.
const BPF_ADJ_ROOM_MAC: u32 = 1;
/// Tags of a frame: two are read in it, and one may be beside it.
const MOST_TAGS: u32 = 3;
/// `bpf_skb_adjust_room`: an outer IPv4 header, an outer IPv6 header, an outer UDP header.
const ENCAP_L3_IPV4: u64 = 1 << 1;
const ENCAP_L3_IPV6: u64 = 1 << 2;
const ENCAP_L4_UDP: u64 = 1 << 4;

impl Context for Skb {
    #[inline(always)]
    fn start(&self) -> usize {
        field!(self.0, __sk_buff, data) as usize
    }

    #[inline(always)]
    fn end(&self) -> usize {
        field!(self.0, __sk_buff, data_end) as usize
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        field!(self.0, __sk_buff, len) as u32
    }

    #[inline(always)]
    fn segment_len(&self, ip_len: u32) -> u32 {
        match field!(self.0, __sk_buff, gso_size) {
            0 => ip_len,
            // The kernel cuts it up into packets of the size in which they came.
            _ => 0,
        }
    }

    /// By the helper, which knows whether the checksum is complete, or only begun for the network
    /// card to end.
    #[inline(always)]
    fn fix_checksum(packet: &mut Raw<Self>, at: u32, delta: &Delta) -> Option<()> {
        let ctx = packet.0.0;
        let zero = if delta.zero_is_none {
            BPF_F_MARK_MANGLED_0
        } else {
            0
        };
        let pseudo = u64::from(delta.pseudo.folded());
        let segment = u64::from(delta.segment.folded());
        let flags = BPF_F_PSEUDO_HDR | zero;
        // SAFETY: the context is valid; packet pointers are made anew at each access.
        let first = unsafe { bpf_l4_csum_replace(ctx, at, 0, pseudo, flags) };
        // SAFETY: as above.
        let second = unsafe { bpf_l4_csum_replace(ctx, at, 0, segment, zero) };
        (first | second == 0).then_some(())
    }

    #[inline(always)]
    fn grow(&self, by: u32, outer: Outer) -> Option<()> {
        let flags = match outer {
            Outer::Ipv4 => ENCAP_L3_IPV4,
            Outer::Ipv6 => ENCAP_L3_IPV6,
            Outer::Ipv4Udp => ENCAP_L3_IPV4 | ENCAP_L4_UDP,
            Outer::Ipv6Udp => ENCAP_L3_IPV6 | ENCAP_L4_UDP,
            Outer::Answer => 0,
        };
        // SAFETY: as above.
        let done = unsafe { bpf_skb_adjust_room(self.0, by as i32, BPF_ADJ_ROOM_MAC, flags) };
        (done == 0).then_some(())
    }

    /// The kernel has put the outer tag of a frame beside it, and takes them off from there on.
    #[inline(always)]
    fn untag(&self, by: u32) -> Option<()> {
        let beside = field!(self.0, __sk_buff, vlan_present) as u32;
        let tags = by / 4 + u32::from(beside != 0);
        let mut gone = 0;
        while gone < MOST_TAGS && gone < tags {
            // SAFETY: as above.
            if unsafe { bpf_skb_vlan_pop(self.0) } != 0 {
                return None;
            }
            gone += 1;
        }
        Some(())
    }

    #[inline(always)]
    fn truncate(&self, len: u32) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_skb_change_tail(self.0, len, 0) } == 0).then_some(())
    }

    /// The kernel does not say, but it cuts nothing off that is needed to end a checksum.
    #[inline(always)]
    fn is_begun(&self, at: u32) -> bool {
        self.len() >= at + 2 && self.truncate(at + 1).is_none()
    }
}
