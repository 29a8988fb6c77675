//! The addresses of this host for the connect hooks. The agent reads them at the start and follows their
//! changes.
//!
//! A service on all addresses listens on every address of this host. A client without a bound address has
//! the source address that the kernel would choose. A program cannot query either at connect(2), so the
//! agent looks them up in advance.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use lb_common::addr::{self, Addr};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::ifaddrs::getifaddrs;

use super::maps::LocalAddresses;
use crate::privilege::keep_or_warn;

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (`linux/rtnetlink.h`): changes of addresses.
const ADDRESSES_OF_BOTH_FAMILIES: u32 = 0x10 | 0x100;

/// Fills `map`, and keeps it current by a thread of its own until the agent ends. Returns the reason of a
/// failure; local clients are then served like remote ones.
pub(super) fn keep(mut map: LocalAddresses) -> Option<String> {
    // The subscription precedes the first reading, so that no change is missed between them.
    let started = subscribe().and_then(|news| {
        refresh(&mut map)?;
        std::thread::Builder::new()
            .name("addresses".into())
            .spawn(move || {
                keep_or_warn(&[]);
                follow(&news, &mut map);
            })
    });
    let error = started.err()?;
    Some(format!(
        "the addresses of this host are not followed: {error}"
    ))
}

fn subscribe() -> io::Result<Socket> {
    let mut news = Socket::new(NETLINK_ROUTE)?;
    news.bind(&NetlinkAddr::new(0, ADDRESSES_OF_BOTH_FAMILIES))?;
    Ok(news)
}

fn follow(news: &Socket, map: &mut LocalAddresses) {
    // The messages are not parsed: the list of addresses is short, and messages may have been lost.
    let mut message = Vec::with_capacity(16 * 1024);
    loop {
        message.clear();
        match news.recv(&mut message, 0) {
            Ok(_) => {}
            Err(error)
                if error.raw_os_error() == Some(libc::ENOBUFS)
                    || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, "the addresses of this host are not followed any more");
                return;
            }
        }
        if let Err(error) = refresh(map) {
            tracing::warn!(%error, "the addresses of this host are not known");
        }
    }
}

/// Updates the map from the host's current addresses.
fn refresh(map: &mut LocalAddresses) -> io::Result<()> {
    let wanted = own_addresses()?;
    let known: HashMap<Addr, Addr> = map
        .iter()
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    for addr in known.keys().filter(|addr| !wanted.contains_key(*addr)) {
        map.remove(addr).map_err(io::Error::other)?;
    }
    for (addr, source) in &wanted {
        if known.get(addr) != Some(source) {
            map.insert(addr, source, 0).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// The addresses of all interfaces, each with the source address of a connection to it.
fn own_addresses() -> io::Result<HashMap<Addr, Addr>> {
    let source = |ip| (addr::from_ip(ip), addr::from_ip(source_towards(ip)));
    Ok(of_interfaces()?.into_iter().map(source).collect())
}

/// The addresses of all interfaces.
///
/// # Errors
/// The kernel does not list them.
pub fn of_interfaces() -> io::Result<Vec<IpAddr>> {
    let interfaces = getifaddrs()?;
    let own = interfaces.filter_map(|interface| ip_of(&interface.address?));
    Ok(own.collect())
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// The source address that the kernel chooses for a connection to `own`. For a second address of an
/// interface it is the first one.
fn source_towards(own: IpAddr) -> IpAddr {
    let any: IpAddr = if own.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // No packet is sent. The port is arbitrary, since no service has port 0.
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((own, 0))?;
        socket.local_addr()
    });
    // An address that is still tentative (RFC 4862, section 5.4) will be its own source later.
    asked.map_or(own, |source| source.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_addresses_are_among_them_and_their_own_sources() {
        let own = own_addresses().unwrap();
        assert_eq!(own.get(&addr::LOOPBACK_V4), Some(&addr::LOOPBACK_V4));
        assert!(!own.contains_key(&addr::ANY_V4));
        assert!(!own.contains_key(&addr::from_v4([192, 0, 2, 1])));
    }

    #[test]
    fn any_other_address_of_the_loopback_network_has_the_first_one_as_source() {
        let source = source_towards([127, 9, 9, 9].into());
        assert_eq!(source, IpAddr::from([127, 0, 0, 1]));
    }
}
