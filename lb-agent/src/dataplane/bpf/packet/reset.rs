//! Resets both ends of a TCP flow that is over.
//!
//! Each end gets an RST with the sequence number that the flow's entry holds (RFC 9293, section 3.10.7.4).
//! The entry is updated once a second, so the number may be too low, and the end then ignores the RST. Each
//! end therefore also gets an empty segment from before its window. It answers with the number that it
//! expects (RFC 9293, section 3.10.7.4, first check). The program finds the backend gone or the flow
//! unknown, and replies to that answer with an exact RST.

use std::io;
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::packet::FlowKey;
use lb_common::addr;
use socket2::{Domain, Protocol, Socket, Type};

/// TCP flags.
const RST: u8 = 4;
const ACK: u8 = 16;
/// IPPROTO_RAW: each packet brings its own IP header.
const OWN_HEADER: i32 = 255;
const HOPS: u8 = 64;
const TCP: u8 = 6;

/// Raw sockets for the segments.
pub(super) struct Resets {
    v4: Socket,
    v6: Option<Socket>,
}

impl Resets {
    /// Opens the sockets, which takes CAP_NET_RAW.
    pub(super) fn open() -> io::Result<Self> {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(OWN_HEADER)));
        let v4 = raw(Domain::IPV4)?;
        let v6 = raw(Domain::IPV6).ok();
        for socket in [Some(&v4), v6.as_ref()].into_iter().flatten() {
            // The sender does not wait for a full queue: the next packet of the flow is answered, too.
            socket.set_nonblocking(true)?;
        }
        Ok(Self { v4, v6 })
    }

    /// Resets the end that receives the packets `out`. `next_seq` is the sequence number that this end
    /// probably expects, `ack` the number up to which it has sent.
    pub(super) fn tell(&self, out: &FlowKey, next_seq: u32, ack: u32) -> io::Result<()> {
        self.send(out, next_seq, 0, RST)?;
        self.send(out, next_seq.wrapping_sub(1), ack, ACK)
    }

    fn send(&self, out: &FlowKey, seq: u32, ack: u32, flags: u8) -> io::Result<()> {
        let (src, dst) = (
            addr::to_ip(&out.src.to_addr()),
            addr::to_ip(&out.dst.to_addr()),
        );
        let packet = segment(src, dst, out, seq, ack, flags);
        let socket = match dst {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        // Raw sockets ignore the port.
        socket
            .send_to(&packet, &SocketAddr::new(dst, 0).into())
            .map(drop)
    }
}

/// A TCP segment without data, with its IP header.
fn segment(src: IpAddr, dst: IpAddr, out: &FlowKey, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(out.sport_be.to_ne_bytes());
    tcp.extend(out.dport_be.to_ne_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let addresses = [octets(src), octets(dst)].concat();
    let pseudo = [0, TCP, 0, tcp.len() as u8];
    let sum = checksum(&[&addresses, &pseudo, &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = header(src, dst, tcp.len() as u8);
    packet.extend(tcp);
    packet
}

fn header(src: IpAddr, dst: IpAddr, payload: u8) -> Vec<u8> {
    let addresses = [octets(src), octets(dst)].concat();
    if src.is_ipv6() {
        let mut header = vec![0x60, 0, 0, 0, 0, payload, TCP, HOPS];
        header.extend(addresses);
        return header;
    }
    // "Don't fragment", so that the identification means nothing (RFC 6864).
    let mut header = vec![0x45, 0, 0, 20 + payload, 0, 0, 0x40, 0, HOPS, TCP, 0, 0];
    header.extend(addresses);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) of parts of even lengths.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::packet::Ip;

    fn key(src: &str, dst: &str) -> FlowKey {
        let ip = |text: &str| Ip::from_addr(&addr::from_ip(text.parse().unwrap()));
        FlowKey {
            src: ip(src),
            dst: ip(dst),
            sport_be: 80u16.to_be(),
            dport_be: 1234u16.to_be(),
            protocol: TCP.into(),
        }
    }

    #[test]
    fn the_checksums_are_right_and_the_fields_in_their_places() {
        for (src, dst, at) in [
            ("192.0.2.1", "198.51.100.7", 20),
            ("2001:db8::1", "2001:db8::2", 40),
        ] {
            let out = key(src, dst);
            let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            let packet = segment(src, dst, &out, 0x0102_0304, 7, RST);
            let (ip, tcp) = packet.split_at(at);
            if at == 20 {
                assert_eq!(checksum(&[ip]), 0, "the sum of a right header is all ones");
            }
            let addresses = [octets(src), octets(dst)].concat();
            assert_eq!(checksum(&[&addresses, &[0, TCP, 0, 20], tcp]), 0);
            assert_eq!(tcp[..4], [0, 80, 4, 210]);
            assert_eq!(tcp[4..8], [1, 2, 3, 4]);
            assert_eq!(tcp[13], RST);
        }
    }
}
