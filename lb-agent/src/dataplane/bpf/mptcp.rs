//! Tracks the addresses of this network namespace with MPTCP listeners.
//!
//! The kernel accepts no MPTCP socket in a sockhash (EOPNOTSUPP), so `lb_steer` cannot assign one. Neither
//! `mptcp_prot` nor its subflows have `psock_update_sk_prot` (Linux `net/mptcp/`). MPTCP listeners accept
//! ordinary TCP connections, which the agent opens to them on the proxy path.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_common::abi::protocol;
use lb_common::addr::{self, Addr};

use super::inet_diag::{self, Listener};

/// Time for which an address without a listener keeps its kind. A restart of an application therefore does
/// not change its path.
const RESTART: Duration = Duration::from_secs(60);

/// A bound address and port.
pub(super) type Bound = (Addr, u16);

/// The listening TCP sockets of this network namespace, plain and MPTCP.
#[derive(Clone, Default)]
pub(super) struct MptcpListeners {
    /// Addresses with MPTCP listeners only.
    now: HashSet<Bound>,
    /// Addresses with a plain TCP listener, to which the kernel can hand connections.
    plain: HashSet<Bound>,
    /// Inodes of listeners on all addresses that take IPv6 alone.
    only_v6: HashSet<u32>,
    /// Addresses with MPTCP listeners now or within `RESTART`, each with the time of the last sighting.
    seen: HashMap<Bound, Instant>,
}

impl MptcpListeners {
    /// Lists the kernel's sockets. Returns whether the path of a backend or the sockets of the map may have
    /// to change.
    ///
    /// # Errors
    /// The kernel does not list its sockets.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        let listeners = inet_diag::listeners(protocol::TCP)?;
        Ok(self.update(&listeners, Instant::now()))
    }

    fn update(&mut self, listeners: &[Listener], now: Instant) -> bool {
        let of = |mptcp: bool| -> HashSet<Bound> {
            let kind = listeners.iter().filter(|l| l.mptcp == mptcp);
            kind.map(Listener::key).collect()
        };
        let before = (self.decisive(), self.only_v6.clone());
        let only_v6 = listeners.iter().filter(|l| l.is_any_v6_only());
        self.only_v6 = only_v6.map(|l| l.inode).collect();
        self.plain = of(false);
        self.now = &of(true) - &self.plain;
        self.seen.extend(self.now.iter().map(|key| (*key, now)));
        let plain = &self.plain;
        self.seen.retain(|key, last| {
            !plain.contains(key) && now.saturating_duration_since(*last) <= RESTART
        });
        before != (self.decisive(), self.only_v6.clone())
    }

    /// The inputs of [`MptcpListeners::is_at`]: MPTCP addresses, and plain ones of the same ports.
    fn decisive(&self) -> (HashSet<Bound>, HashSet<Bound>) {
        let ports: HashSet<u16> = self.seen.keys().map(|(_, port)| *port).collect();
        let plain = self.plain.iter().filter(|(_, port)| ports.contains(port));
        (
            self.seen.keys().copied().collect(),
            plain.copied().collect(),
        )
    }

    /// Whether connections to an application at `address` would go to an MPTCP listener.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        let own = addr::from_ip(address.ip());
        let candidates = [own, addr::wildcard_of(&own), addr::ANY_V6];
        let mut keys = candidates.map(|addr| (addr, address.port())).into_iter();
        let known = keys.find(|key| self.plain.contains(key) || self.seen.contains_key(key));
        known.is_some_and(|key| self.seen.contains_key(&key))
    }

    /// Addresses with MPTCP listeners only.
    pub(super) fn listening(&self) -> &HashSet<Bound> {
        &self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(bound: &str, mptcp: bool) -> Listener {
        Listener {
            bound: bound.parse().unwrap(),
            protocol: protocol::TCP,
            inode: 1,
            mptcp,
            interface: 0,
            only_v6: false,
        }
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn listener_decides_from_the_most_specific_address_on() {
        let mut known = MptcpListeners::default();
        let now = Instant::now();
        assert!(known.update(&[listener("0.0.0.0:5000", true)], now));
        assert!(known.is_at(at("127.0.0.1:5000")) && !known.is_at(at("127.0.0.1:5001")));
        assert!(!known.update(&[listener("0.0.0.0:5000", true)], now));
        let both = [
            listener("0.0.0.0:5000", true),
            listener("127.0.0.1:5000", false),
        ];
        assert!(known.update(&both, now));
        assert!(!known.is_at(at("127.0.0.1:5000")) && known.is_at(at("127.0.0.2:5000")));
        let plain = [
            listener("127.0.0.1:5000", false),
            listener("127.0.0.1:80", false),
        ];
        assert!(
            !known.update(&plain, now),
            "the other one may be restarting"
        );
        let dual = [listener("[::]:5000", true)];
        known.update(&dual, now);
        assert!(known.is_at(at("127.0.0.1:5000")) && known.is_at(at("[::1]:5000")));
    }

    #[test]
    fn application_that_restarts_stays_mptcp_until_it_listens_otherwise_or_a_minute_is_over() {
        let mut known = MptcpListeners::default();
        let start = Instant::now();
        let (mptcp, plain) = (
            [listener("127.0.0.1:5000", true)],
            [listener("127.0.0.1:5000", false)],
        );
        known.update(&mptcp, start);
        assert!(!known.update(&[], start + RESTART));
        assert!(known.is_at(at("127.0.0.1:5000")) && known.listening().is_empty());
        assert!(known.update(&plain, start + RESTART));
        assert!(!known.is_at(at("127.0.0.1:5000")));
        known.update(&mptcp, start);
        assert!(known.update(&[], start + RESTART * 2));
        assert!(!known.is_at(at("127.0.0.1:5000")));
    }

    #[test]
    fn listener_for_ipv6_alone_that_is_opened_again_is_a_change() {
        let only_v6 = |inode| Listener {
            only_v6: true,
            inode,
            ..listener("[::]:5000", false)
        };
        let mut known = MptcpListeners::default();
        let now = Instant::now();
        assert!(known.update(&[only_v6(1)], now) && !known.update(&[only_v6(1)], now));
        assert!(known.update(&[only_v6(2)], now));
        assert!(known.update(&[listener("[::]:5000", false)], now));
    }

    #[test]
    fn group_with_a_plain_member_is_handed_over() {
        let mut known = MptcpListeners::default();
        let group = [
            listener("127.0.0.1:5000", true),
            listener("127.0.0.1:5000", false),
        ];
        known.update(&group, Instant::now());
        assert!(!known.is_at(at("127.0.0.1:5000")) && known.listening().is_empty());
    }
}
