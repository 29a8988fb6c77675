//! SYN cookies at the driver: the answer to the SYN of a flood, in the name of a listening socket of this host.
//!
//! The listener decides. The kernel makes a cookie only when it would send one itself: its queue of half-open
//! connections is full, or `net.ipv4.tcp_syncookies` is 2 (`bpf_tcp_gen_syncookie`, Linux 5.3, kernel commit
//! 70d66244317e). It notes the overflow at the listener, which then takes the ACK with the cookie. A cookie of the raw
//! helpers (Linux 6.0) is made without a listener, and refused by it.

use core::ptr;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, tcphdr, xdp_md,
};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail,
};
use aya_ebpf::macros::btf_map;
use lb_common::abi::packet::Ip;
use lb_common::checksum::Sum;
use lb_common::headers::{ETHERNET, ether, tcp};
use lb_common::packet::Packet;

use crate::ask::{HERE, LISTENS, fill};
use crate::hints::kept;
use crate::packet::{Raw, Xdp};
use crate::packet_maps::scratch;
use crate::world::Hook as _;

/// Words of an IPv4 header without options, and of an IPv6 header.
const V4: usize = 5;
const V6: usize = 10;
/// Words of a TCP header without options, and with as many as fit.
const TCP: usize = 5;
const TCP_MOST: usize = 15;
/// Words of the answer's TCP header: it has the option MSS alone.
const ANSWER: usize = TCP + 1;
/// The receive window of the answer, bytes: ten segments. The first ACK of the socket tells its own.
const WINDOW: u32 = 14_600;
/// TTL and hop limit of the answer.
const TTL: u32 = 64;
/// Number of TCP (IANA "Protocol Numbers").
const PROTOCOL: u32 = 6;
/// Results of a route look-up: the destination is this host, or nothing is forwarded for others.
const NOT_FORWARDED: i64 = BPF_FIB_LKUP_RET_NOT_FWDED as i64;
const FORWARDING_OFF: i64 = BPF_FIB_LKUP_RET_FWD_DISABLED as i64;

/// Headers for the kernel's helpers, which take no packet of unknown length.
#[btf_map]
static SYN: PerCpuArray<Syn, 1> = PerCpuArray::new();

#[repr(C)]
#[derive(Clone, Copy)]
struct Syn {
    /// The ends, as `struct bpf_sock_tuple`.
    ends: [u32; 9],
    ip: [u32; V6],
    tcp: [u32; TCP_MOST],
}

/// Makes a SYN that its listener would answer by a cookie into that answer. Everything else stays as it is: `None`.
#[inline(always)]
pub fn answer(ctx: *mut xdp_md) -> Option<()> {
    let packet = Raw(Xdp(ctx));
    match packet.half(12)? {
        ether::IPV4 => answer_by::<V4>(ctx),
        ether::IPV6 => answer_by::<V6>(ctx),
        _ => None,
    }
}

#[inline(always)]
fn answer_by<const N: usize>(ctx: *mut xdp_md) -> Option<()> {
    let packet = Raw(Xdp(ctx));
    let ip = packet.words::<N>(ETHERNET)?;
    let payload = tcp_length(&ip)?;
    let segment = packet.words::<TCP>(tcp_at::<N>())?;
    let [offset, flags, ..] = segment[3].to_ne_bytes();
    let words = u32::from(offset >> 4);
    let opens = flags & (tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST) == tcp::SYN;
    if !opens || words < TCP as u32 || payload < 4 * words || !comes_from_a_wire(&ip) {
        return None;
    }
    if !Xdp(ctx).is_ours(&packet) {
        return None;
    }
    let syn = kept(SYN.get_ptr_mut(0)?);
    // SAFETY: this CPU's own element, which the kernel has returned.
    let syn = unsafe { &mut *syn };
    copy(&packet, syn, &ip, words)?;
    let cookie = cookie::<N>(ctx, syn, words)?;
    if !is_listened_to::<N>(ctx, syn, segment[0]) || !is_local(ctx, &ip)? {
        return None;
    }
    write(ctx, &ip, &segment, cookie)
}

/// Offset of the TCP header, bytes.
const fn tcp_at<const N: usize>() -> u32 {
    ETHERNET + 4 * N as u32
}

/// Bytes of TCP in an unfragmented IP packet without options or extension headers.
#[inline(always)]
fn tcp_length<const N: usize>(ip: &[u32; N]) -> Option<u32> {
    let word = |at: usize| u32::from_be(ip[at]);
    if N == V4 {
        let is_plain = word(0) >> 24 == 0x45 && word(1) & 0x3fff == 0;
        let is_tcp = word(2) >> 16 & 0xff == PROTOCOL;
        (is_plain && is_tcp).then(|| (word(0) & 0xffff).saturating_sub(4 * V4 as u32))
    } else {
        let is_tcp = word(0) >> 28 == 6 && word(1) >> 8 & 0xff == PROTOCOL;
        is_tcp.then(|| word(1) >> 16)
    }
}

/// Whether a packet with this source may come from a wire. The stack drops all others.
#[inline(always)]
fn comes_from_a_wire<const N: usize>(ip: &[u32; N]) -> bool {
    if N == V4 {
        let first = u32::from_be(ip[3]) >> 24;
        first != 0 && first != 127 && first < 224
    } else {
        u32::from_be(ip[2]) >> 24 != 0xff && ip[2] | ip[3] != 0
    }
}

#[inline(always)]
fn copy<const N: usize>(packet: &Raw<Xdp>, syn: &mut Syn, ip: &[u32; N], words: u32) -> Option<()> {
    let mut i = 0;
    while i < N {
        syn.ip[i] = ip[i];
        i += 1;
    }
    // The addresses are the last words of the IP header. The source port stays 0, for now.
    let addresses = if N == V4 { 3 } else { 2 };
    let mut i = addresses;
    while i < N {
        syn.ends[i - addresses] = ip[i];
        i += 1;
    }
    let mut i = 0;
    while i < TCP_MOST {
        if i as u32 >= words {
            break;
        }
        let [word] = packet.words::<1>(tcp_at::<N>() + 4 * i as u32)?;
        syn.tcp[i] = word;
        i += 1;
    }
    let [_, _, high, low] = syn.tcp[0].to_ne_bytes();
    syn.ends[N - addresses] = u32::from_ne_bytes([0, 0, high, low]);
    Some(())
}

/// Length of `struct bpf_sock_tuple`.
const fn ends_length<const N: usize>() -> u32 {
    if N == V4 { 12 } else { 36 }
}

/// The kernel's cookie (low half) and the client's MSS (above it), if the listener would send one. The look-up has
/// port 0 as its source: `lb_steer` does not count it.
#[inline(always)]
fn cookie<const N: usize>(ctx: *mut xdp_md, syn: &mut Syn, words: u32) -> Option<u64> {
    let ends = ptr::from_mut(&mut syn.ends).cast();
    // SAFETY: the context is valid, and `ends` has that many bytes.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.cast(), ends, ends_length::<N>(), HERE, 0) };
    if socket.is_null() {
        return None;
    }
    let ip = ptr::from_mut(&mut syn.ip).cast();
    let tcp: *mut tcphdr = ptr::from_mut(&mut syn.tcp).cast();
    // SAFETY: the socket is held, and both headers have as many bytes as told.
    let made = unsafe { bpf_tcp_gen_syncookie(socket.cast(), ip, 4 * N as u32, tcp, 4 * words) };
    // SAFETY: nothing is read of it afterwards.
    unsafe { bpf_sk_release(socket.cast()) };
    (made >= 0).then_some(made as u64)
}

/// Whether the SYN itself would reach a listener: its client is not refused, and no earlier connection has its ports.
#[inline(always)]
fn is_listened_to<const N: usize>(ctx: *mut xdp_md, syn: &mut Syn, ports: u32) -> bool {
    syn.ends[N - if N == V4 { 3 } else { 2 }] = ports;
    let ends = ptr::from_mut(&mut syn.ends).cast();
    // SAFETY: as in `cookie`.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.cast(), ends, ends_length::<N>(), HERE, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the kernel returned a socket, which it keeps until it is released.
    let state = unsafe { (*socket).state };
    // SAFETY: as above, and nothing is read of it afterwards.
    unsafe { bpf_sk_release(socket.cast()) };
    state == LISTENS
}

/// Whether the stack would keep the packet, as its destination is this host. A service on a wildcard is not on the
/// addresses of other hosts.
#[inline(always)]
fn is_local<const N: usize>(ctx: *mut xdp_md, ip: &[u32; N]) -> Option<bool> {
    let (src, dst) = addresses(ip);
    // SAFETY: this CPU's own element.
    let route = unsafe { &mut (*scratch()?).route };
    fill(route, &src, &dst, Xdp(ctx).ingress());
    let found = Xdp(ctx).fib_lookup(route);
    Some(found == NOT_FORWARDED || found == FORWARDING_OFF)
}

#[inline(always)]
fn addresses<const N: usize>(ip: &[u32; N]) -> (Ip, Ip) {
    if N == V4 {
        (Ip::v4(ip[3]), Ip::v4(ip[4]))
    } else {
        (
            Ip([ip[2], ip[3], ip[4], ip[5]]),
            Ip([ip[6], ip[7], ip[8], ip[9]]),
        )
    }
}

/// Turns the packet round. (Cut or grown by the kernel first: the frame is untouched if that fails.)
#[inline(always)]
fn write<const N: usize>(
    ctx: *mut xdp_md,
    ip: &[u32; N],
    segment: &[u32; TCP],
    cookie: u64,
) -> Option<()> {
    let mut packet = Raw(Xdp(ctx));
    let macs = packet.words::<3>(0)?;
    let length = tcp_at::<N>() + 4 * ANSWER as u32;
    let by = length as i32 - packet.len() as i32;
    // SAFETY: the context is valid; packet pointers are made anew at each access.
    if by != 0 && unsafe { bpf_xdp_adjust_tail(ctx, by) } != 0 {
        return None;
    }
    packet.set_words(0, turned(macs))?;
    packet.set_words(ETHERNET, header(ip))?;
    packet.set_words(tcp_at::<N>(), syn_ack(ip, segment, cookie))
}

/// Both MAC addresses in each other's place.
#[inline(always)]
fn turned(macs: [u32; 3]) -> [u32; 3] {
    let [a, b, c] = [macs[0].to_le(), macs[1].to_le(), macs[2].to_le()];
    let turned = [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16];
    [
        u32::from_le(turned[0]),
        u32::from_le(turned[1]),
        u32::from_le(turned[2]),
    ]
}

/// The IP header of the answer.
#[inline(always)]
fn header<const N: usize>(ip: &[u32; N]) -> [u32; N] {
    let mut header = [0; N];
    let tcp = 4 * ANSWER as u32;
    if N == V4 {
        const DO_NOT_FRAGMENT: u32 = 0x4000;
        header[0] = (0x4500_0000 | (4 * V4 as u32 + tcp)).to_be();
        header[1] = DO_NOT_FRAGMENT.to_be();
        header[2] = (TTL << 24 | PROTOCOL << 16).to_be();
        header[3] = ip[4];
        header[4] = ip[3];
        let [first, second] = Sum::ZERO.words(&header).checksum().to_ne_bytes();
        header[2] |= u32::from_ne_bytes([0, 0, first, second]);
    } else {
        header[0] = (6u32 << 28).to_be();
        header[1] = (tcp << 16 | PROTOCOL << 8 | TTL).to_be();
        let mut i = 0;
        while i < 4 {
            header[2 + i] = ip[6 + i];
            header[6 + i] = ip[2 + i];
            i += 1;
        }
    }
    header
}

/// The answer to the SYN `segment`. Its MSS is the client's own, as the cookie has it, up to that of Ethernet.
#[inline(always)]
fn syn_ack<const N: usize>(ip: &[u32; N], segment: &[u32; TCP], cookie: u64) -> [u32; ANSWER] {
    let most = if N == V4 { 1460 } else { 1440 };
    let mss = ((cookie >> 32) as u32 & 0xffff).min(most);
    let flags = u32::from(tcp::SYN | tcp::ACK);
    let mut answer = [
        segment[0].rotate_left(16),
        (cookie as u32).to_be(),
        u32::from_be(segment[1]).wrapping_add(1).to_be(),
        ((ANSWER as u32) << 28 | flags << 16 | WINDOW).to_be(),
        0,
        // The option MSS (RFC 9293, section 3.7.1).
        (2 << 24 | 4 << 16 | mss).to_be(),
    ];
    let mut sum = Sum::ZERO
        .half((PROTOCOL as u16).to_be())
        .half((4 * ANSWER as u16).to_be())
        .words(&answer);
    let mut i = if N == V4 { 3 } else { 2 };
    while i < N {
        sum = sum.word(ip[i]);
        i += 1;
    }
    let [first, second] = sum.checksum().to_ne_bytes();
    answer[4] = u32::from_ne_bytes([first, second, 0, 0]);
    answer
}
