//! A guard against unforeseen loops: connections and datagrams that agents of this host pass on to
//! agents of this host.
//!
//! A socket towards an address of this host begins its packets with a hop limit that no system
//! starts with, one less for each agent that has passed the connection on. No router lowers it
//! within this host, so the agent that gets the connection reads the number of agents there, and
//! refuses one too many. That needs no memory and finds other agents, too. (Another proxy in
//! between, or another host, hides it; `max_connections` is the bound then.)

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::dataplane::is_local;
use lb_net::sockopt::saved_syn;

/// Most agents of this host that a connection may pass.
const MOST: u8 = 8;
/// The hop limit of a connection that has passed no agent; theirs are less.
const UNMARKED: u8 = 255;
/// For how long the owner of an address is remembered.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// Addresses whose owner is remembered.
const MOST_ADDRESSES: usize = 8192;

/// How many agents of this host have passed a connection on before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hops(u8);

impl Hops {
    /// From the hop limit of a packet that `peer` has sent. Of other hosts nothing is known.
    pub(super) fn of(hop_limit: u8, peer: IpAddr) -> Self {
        let hops = UNMARKED - hop_limit;
        if (1..=MOST).contains(&hops) && is_here(peer) {
            Self(hops)
        } else {
            Self::default()
        }
    }

    /// From the SYN that an accepted connection from `peer` began with, if its listener was told to
    /// keep it. A SYN that was answered by a cookie is not kept.
    pub(super) fn of_connection(stream: &impl AsFd, peer: IpAddr) -> Self {
        let header = saved_syn(stream).unwrap_or_default();
        hop_limit(&header).map_or_else(Self::default, |limit| Self::of(limit, peer))
    }

    /// Whether it must not be passed on any more.
    pub(super) fn is_loop(self) -> bool {
        self.0 >= MOST
    }

    /// Has a socket that is going to connect to `to` say that one agent more has passed it on.
    pub(super) fn mark(self, socket: &impl AsFd, to: SocketAddr) -> io::Result<()> {
        if !is_here(to.ip()) {
            return Ok(());
        }
        let limit = u32::from(UNMARKED - (self.0 + 1).min(MOST));
        let socket = SockRef::from(socket);
        match to {
            SocketAddr::V4(_) => socket.set_ttl_v4(limit),
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(limit),
        }
    }
}

/// The hop limit in the header of an IP packet (RFC 791 section 3.1, RFC 8200 section 3).
fn hop_limit(header: &[u8]) -> Option<u8> {
    match header.first()? >> 4 {
        4 => header.get(8).copied(),
        6 => header.get(7).copied(),
        _ => None,
    }
}

/// Whether an address belongs to this host: asked of the kernel at most once a second.
fn is_here(ip: IpAddr) -> bool {
    type Known = HashMap<IpAddr, (bool, Instant)>;
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let ip = ip.to_canonical();
    if ip.is_loopback() {
        return true;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    let now = Instant::now();
    if let Some((here, at)) = known.get(&ip)
        && now.duration_since(*at) < GOOD_FOR
    {
        return *here;
    }
    if known.len() >= MOST_ADDRESSES {
        known.clear();
    }
    let here = is_local(ip);
    known.insert(ip, (here, now));
    here
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_net::sockopt::save_syn;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    fn accepted(address: &str, mark: impl Fn(&Socket, SocketAddr)) -> Hops {
        let listener = TcpListener::bind(address).unwrap();
        save_syn(&listener).unwrap();
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        mark(&socket, to);
        socket.connect(&to.into()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        Hops::of_connection(&stream, peer.ip())
    }

    #[test]
    fn each_agent_on_the_way_is_counted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            assert_eq!(accepted(address, |_, _| {}), Hops(0), "{address}");
            for before in 0..MOST {
                let hops = accepted(address, |socket, to| Hops(before).mark(socket, to).unwrap());
                assert_eq!(hops, Hops(before + 1), "{address}");
                assert_eq!(hops.is_loop(), before + 1 == MOST);
            }
        }
    }

    #[test]
    fn hop_limits_of_other_hosts_say_nothing() {
        let elsewhere = "192.0.2.1".parse().unwrap();
        assert_eq!(Hops::of(UNMARKED - 3, elsewhere), Hops(0));
        let here = "127.0.0.1".parse().unwrap();
        assert_eq!(Hops::of(UNMARKED - 3, here), Hops(3));
        for usual in [1, 32, 64, 128, UNMARKED] {
            assert_eq!(Hops::of(usual, here), Hops(0));
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let usual = socket.ttl_v4().unwrap();
        Hops(2)
            .mark(&socket, SocketAddr::new(elsewhere, 80))
            .unwrap();
        assert_eq!(socket.ttl_v4().unwrap(), usual);
    }

    #[test]
    fn headers_that_are_cut_off_have_no_hop_limit() {
        assert_eq!(hop_limit(&[]), None);
        assert_eq!(hop_limit(&[0x45; 8]), None);
        assert_eq!(hop_limit(&[0x60; 7]), None);
        assert_eq!(hop_limit(&[0x00; 20]), None);
    }
}
