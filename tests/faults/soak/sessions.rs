//! WebSockets and connections of HTTP/2 that stay open, and one over TLS. They live through the whole
//! test unless an act concerns their backend.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use lb_tests::node::Clients;
use lb_tests::tls::{Authority, Kept};
use lb_tests::topology::hosts::Host;
use lb_tests::wait;

use crate::judge::Disruption;
use crate::ways::{TLS, Way};

/// Open WebSockets on one way, or connections of HTTP/2.
pub(crate) struct Sessions {
    way: Way,
    from: Vec<IpAddr>,
    clients: Clients,
    /// Which copy each is on.
    ports: BTreeMap<IpAddr, u16>,
    /// Requests that failed before the last look.
    failed: usize,
    /// Whether they might, when it was looked last.
    might_fail: bool,
}

impl Sessions {
    pub(crate) fn open(host: &Host, dir: &Path, way: Way, from: Vec<IpAddr>) -> Self {
        let mut sessions = Self {
            way,
            from,
            clients: Clients::new(host, dir, &format!("{way:?}")),
            ports: BTreeMap::new(),
            failed: 0,
            might_fail: false,
        };
        sessions.begin();
        sessions
    }

    fn begin(&mut self) {
        let kind = if self.way == Way::Http2 { "h2" } else { "ws" };
        self.clients.open(kind, self.way.address(), &self.from);
        self.ports = self.clients.ports();
    }

    /// Sessions that had to end have ended, and no other; ended sessions are opened anew.
    pub(crate) fn check(&mut self, disruption: &Disruption) {
        let must_end: BTreeSet<IpAddr> = self
            .ports
            .iter()
            .filter(|(_, port)| disruption.ends(self.way, **port))
            .map(|(client, _)| *client)
            .collect();
        let ended = wait::until("WebSockets to end", || {
            let ended: BTreeSet<IpAddr> = self.clients.disconnects().into_iter().collect();
            ended.is_superset(&must_end).then_some(ended)
        });
        let needless: Vec<_> = ended
            .difference(&must_end)
            .map(|client| (client, self.ports[client]))
            .collect();
        let what = &disruption.what;
        assert!(
            needless.is_empty() || disruption.may_end(self.way),
            "{what}: WebSockets ended by {:?}: {needless:?}",
            self.way
        );
        self.check_requests(disruption);
        if ended.is_empty() {
            self.clients.echo(1000);
        } else {
            self.clients.forget();
            self.begin();
        }
    }

    /// Requests fail only by acts that may lose them, perhaps a moment later.
    fn check_requests(&mut self, disruption: &Disruption) {
        let errors = self.clients.errors();
        let failed = errors.values().sum();
        let might_fail = disruption.loses(self.way);
        assert!(
            failed == self.failed || might_fail || self.might_fail,
            "{}: requests by {:?} failed: {errors:?}",
            disruption.what,
            self.way
        );
        (self.failed, self.might_fail) = (failed, might_fail);
    }
}

/// A connection over TLS, which lives as long as the agent.
pub(crate) struct Secure(Kept);

const NAME: &str = "soak.test";

impl Secure {
    pub(crate) fn open(host: &Host, authority: &Authority) -> Self {
        let mut kept = Kept::open(host, TLS, NAME, authority);
        kept.ask(NAME);
        Self(kept)
    }

    pub(crate) fn ask(&mut self) {
        self.0.ask(NAME);
    }
}
