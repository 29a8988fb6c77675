//! WebSockets that stay open on each way, and one connection over TLS: those on a backend that
//! nothing happens to live through everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use lb_tests::hosts::Host;
use lb_tests::node::Clients;
use lb_tests::tls::{Authority, Kept};
use lb_tests::wait;

use crate::judge::Disruption;
use crate::world::{TLS, Way};

/// Open WebSockets on one way.
pub(crate) struct Sessions {
    way: Way,
    from: Vec<IpAddr>,
    clients: Clients,
    /// Which copy each is on.
    ports: BTreeMap<IpAddr, u16>,
}

impl Sessions {
    pub(crate) fn open(host: &Host, dir: &Path, way: Way, from: Vec<IpAddr>) -> Self {
        let mut sessions = Self {
            way,
            from,
            clients: Clients::new(host, dir, &format!("{way:?}")),
            ports: BTreeMap::new(),
        };
        sessions.begin();
        sessions
    }

    fn begin(&mut self) {
        self.clients.open("ws", self.way.address(), &self.from);
        self.ports = self.clients.ports();
    }

    /// Those that had to end have ended, and no other; what has ended is opened anew.
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
            needless.is_empty(),
            "{what}: WebSockets ended by {:?}: {needless:?}",
            self.way
        );
        if ended.is_empty() {
            self.clients.echo(1000);
        } else {
            self.clients.forget();
            self.begin();
        }
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
