//! The headers of plain packets: looked at once, written once.

use super::super::data_path::Host;
use super::super::send::{fix_transport, lowered, lowered_v6, readdressed};
use crate::abi::packet::{Hop, Ip};
use crate::abi::protocol;
use crate::checksum::Delta;
use crate::headers::{ether, tcp};
use crate::packet::{Packet, Window, ports};

/// The fields of a plain packet; `N` words as in [`crate::abi::packet::FlowKey::words`].
pub(super) struct Plain<const N: usize> {
    /// Addresses and ports, as flows are looked for by them.
    pub(super) words: [u32; N],
    /// Length of the IP packet.
    pub(super) len: u32,
    /// Type of service. (It is asked for over IPv4 alone.)
    pub(super) tos: u8,
    /// The word with the TTL or the hop limit, in memory order.
    pub(super) hops: u32,
    /// TCP or UDP.
    pub(super) protocol: u8,
    /// TCP: the word with flags and length of the header, as a number. UDP: 0.
    fourth: u32,
}

impl<const N: usize> Plain<N> {
    /// Words of an address.
    const ADDRESS: usize = N / 2;

    /// Source.
    #[inline(always)]
    pub(super) const fn src(&self) -> Ip {
        self.address(0)
    }

    /// Destination.
    #[inline(always)]
    pub(super) const fn dst(&self) -> Ip {
        self.address(Self::ADDRESS)
    }

    #[inline(always)]
    const fn address(&self, at: usize) -> Ip {
        const { assert!(N == 3 || N == 9) };
        if N == 3 {
            return Ip::v4(self.words[at]);
        }
        let mut ip = [0; 4];
        let mut i = 0;
        while i < Self::ADDRESS {
            ip[i] = self.words[at + i];
            i += 1;
        }
        Ip(ip)
    }

    /// The word of the ports, in memory order.
    #[inline(always)]
    pub(super) const fn ports(&self) -> u32 {
        self.words[N - 1]
    }

    /// Source and destination port, in network byte order.
    #[inline(always)]
    pub(super) const fn both_ports(&self) -> [u16; 2] {
        ports(self.ports())
    }

    #[inline(always)]
    pub(super) const fn is_tcp(&self) -> bool {
        self.fourth != 0
    }

    /// TCP: flags. UDP: none.
    #[inline(always)]
    pub(super) const fn flags(&self) -> u8 {
        (self.fourth >> 16) as u8
    }

    /// TCP: whether the packet begins or ends a connection.
    #[inline(always)]
    pub(super) const fn is_turn(&self) -> bool {
        self.flags() & (tcp::SYN | tcp::FIN | tcp::RST) != 0
    }

    /// TCP: whether it begins one, and nothing else.
    #[inline(always)]
    pub(super) const fn opens(&self) -> bool {
        self.flags() & (tcp::SYN | tcp::FIN | tcp::RST | tcp::ACK) == tcp::SYN
    }

    /// TCP: whether there are no options.
    #[inline(always)]
    pub(super) const fn is_bare(&self) -> bool {
        self.fourth >> 28 == 5
    }
}

/// The headers of one family.
pub(super) trait Headers<const N: usize>: Sized {
    /// Offset of the transport header, bytes.
    const TRANSPORT: u32;

    /// Reads them; `None` if the packet is not plain.
    fn read<P: Packet>(packet: &mut P) -> Option<Self>;

    /// Writes a header of the frame, and takes a hop off.
    fn lower<P: Packet>(&self, packet: &mut P, hop: &Hop) -> Option<()>;

    /// The same with other addresses and ports; `back` is the key of the return direction.
    fn write<P: Packet>(
        &self,
        packet: &mut P,
        hop: &Hop,
        back: &[u32; N],
        delta: &Delta,
    ) -> Option<()>;
}

/// The word of TCP's flags, if all is well with what follows `before` bytes of IP header; 0 for
/// UDP, of which `words` are the second of the header and the fourth.
#[inline(always)]
fn fourth(protocol: u8, len: u32, before: u32, [second, fourth]: [u32; 2]) -> Option<u32> {
    if protocol == protocol::TCP {
        let fourth = u32::from_be(fourth);
        let header = (fourth >> 28) * 4;
        return (header >= 20 && before + header <= len).then_some(fourth);
    }
    let datagram = u32::from_be(second) >> 16;
    let fits = protocol == protocol::UDP && datagram >= 8 && before + datagram <= len;
    fits.then_some(0)
}

/// Bytes that are looked at: an Ethernet, an IPv4 and a TCP header without options.
pub(super) const HEAD: usize = 54;

impl Headers<3> for Plain<3> {
    const TRANSPORT: u32 = 34;

    #[inline(always)]
    fn read<P: Packet>(packet: &mut P) -> Option<Self> {
        let frame = packet.len();
        let head = packet.window::<HEAD>()?;
        let first = u32::from_be(head.word::<14>());
        let third = head.word::<22>();
        let len = first & 0xffff;
        let fragment = head.word::<18>() & 0x3fffu32.to_be();
        let other = (head.half::<12>() ^ ether::IPV4) as u32 | (first >> 24 ^ 0x45) | fragment;
        if other != 0 || 14 + len > frame || u32::from_be(third) >> 24 <= 1 {
            return None;
        }
        let protocol = (u32::from_be(third) >> 16) as u8;
        let fourth = fourth(protocol, len, 20, [head.word::<38>(), head.word::<46>()])?;
        Some(Self {
            words: [head.word::<26>(), head.word::<30>(), head.word::<34>()],
            len,
            tos: (first >> 16) as u8,
            hops: third,
            protocol,
            fourth,
        })
    }

    #[inline(always)]
    fn lower<P: Packet>(&self, packet: &mut P, hop: &Hop) -> Option<()> {
        let mut head = packet.window::<HEAD>()?;
        set_frame(&mut head, hop, ether::IPV4);
        head.set_word::<22>(lowered(self.hops));
        Some(())
    }

    #[inline(always)]
    fn write<P: Packet>(
        &self,
        packet: &mut P,
        hop: &Hop,
        [dst, src, ports]: &[u32; 3],
        delta: &Delta,
    ) -> Option<()> {
        let third = readdressed(self.hops, delta, 1);
        let mut head = packet.window::<HEAD>()?;
        set_frame(&mut head, hop, ether::IPV4);
        head.set_word::<22>(third);
        head.set_word::<26>(*src);
        head.set_word::<30>(*dst);
        head.set_word::<34>(ports.rotate_left(16));
        Some(())
    }
}

/// The same with an IPv6 header.
pub(super) const HEAD6: usize = 74;

impl Headers<9> for Plain<9> {
    const TRANSPORT: u32 = 54;

    #[inline(always)]
    fn read<P: Packet>(packet: &mut P) -> Option<Self> {
        let frame = packet.len();
        let head = packet.window::<HEAD6>()?;
        let second = u32::from_be(head.word::<18>());
        let len = 40 + (second >> 16);
        let version = u32::from_be(head.word::<14>()) >> 28;
        let other = (head.half::<12>() ^ ether::IPV6) as u32 | (version ^ 6);
        if other != 0 || 14 + len > frame || second & 0xff <= 1 {
            return None;
        }
        let protocol = (second >> 8) as u8;
        let fourth = fourth(protocol, len, 40, [head.word::<58>(), head.word::<66>()])?;
        let words = [
            head.word::<22>(),
            head.word::<26>(),
            head.word::<30>(),
            head.word::<34>(),
            head.word::<38>(),
            head.word::<42>(),
            head.word::<46>(),
            head.word::<50>(),
            head.word::<54>(),
        ];
        let plain = Self {
            words,
            len,
            tos: 0,
            hops: head.word::<18>(),
            protocol,
            fourth,
        };
        // A mapped address on the wire would be taken for IPv4.
        (!plain.src().is_v4() && !plain.dst().is_v4()).then_some(plain)
    }

    #[inline(always)]
    fn lower<P: Packet>(&self, packet: &mut P, hop: &Hop) -> Option<()> {
        let mut head = packet.window::<HEAD6>()?;
        set_frame(&mut head, hop, ether::IPV6);
        head.set_word::<18>(lowered_v6(self.hops, 1));
        Some(())
    }

    #[inline(always)]
    fn write<P: Packet>(
        &self,
        packet: &mut P,
        hop: &Hop,
        [d0, d1, d2, d3, s0, s1, s2, s3, ports]: &[u32; 9],
        _delta: &Delta,
    ) -> Option<()> {
        let second = lowered_v6(self.hops, 1);
        let mut head = packet.window::<HEAD6>()?;
        set_frame(&mut head, hop, ether::IPV6);
        head.set_word::<18>(second);
        head.set_word::<22>(*s0);
        head.set_word::<26>(*s1);
        head.set_word::<30>(*s2);
        head.set_word::<34>(*s3);
        head.set_word::<38>(*d0);
        head.set_word::<42>(*d1);
        head.set_word::<46>(*d2);
        head.set_word::<50>(*d3);
        head.set_word::<54>(ports.rotate_left(16));
        Some(())
    }
}

/// The sequence number behind a packet without SYN and FIN; `old` if it does not tell.
#[inline(always)]
pub(super) fn next_seq<const N: usize, P: Packet>(packet: &P, plain: &Plain<N>, old: u32) -> u32
where
    Plain<N>: Headers<N>,
{
    let at = Plain::<N>::TRANSPORT;
    match packet.words::<1>(at + 4) {
        Some([seq]) if plain.is_tcp() => {
            let headers = at - 14 + (plain.fourth >> 28) * 4;
            u32::from_be(seq).wrapping_add(plain.len - headers)
        }
        _ => old,
    }
}

/// Changes addresses, ports and the header of the frame. `back` is the key of the return direction.
#[inline(always)]
pub(super) fn rewrite<const N: usize, P: Packet, W: Host>(
    packet: &mut P,
    world: &W,
    plain: &Plain<N>,
    back: &[u32; N],
    hop: &Hop,
) -> Option<()>
where
    Plain<N>: Headers<N>,
{
    untag(packet, world, hop)?;
    let mut delta = Delta {
        zero_is_none: !plain.is_tcp(),
        ..Delta::default()
    };
    let half = Plain::<N>::ADDRESS;
    let mut i = 0;
    while i < half {
        delta.address(plain.words[i], back[half + i]);
        delta.address(plain.words[half + i], back[i]);
        i += 1;
    }
    delta.word(plain.ports(), back[N - 1].rotate_left(16));
    let at = Plain::<N>::TRANSPORT;
    fix_transport(packet, at, plain.is_tcp(), N != 3, &delta)?;
    plain.write(packet, hop, back, &delta)
}

/// Takes off a tag beside the frame, unless that goes back by its ingress interface.
#[inline(always)]
pub(super) fn untag<P: Packet, W: Host>(packet: &mut P, world: &W, hop: &Hop) -> Option<()> {
    if hop.ifindex == world.ingress() {
        return Some(());
    }
    packet.untag(0)
}

/// Writes the Ethernet header.
#[inline(always)]
pub(super) fn set_frame<const H: usize>(head: &mut impl Window<H>, hop: &Hop, kind: u16) {
    head.set_word::<0>(hop.macs[0]);
    head.set_word::<4>(hop.macs[1]);
    head.set_word::<8>(hop.macs[2]);
    head.set_half::<12>(kind);
}
