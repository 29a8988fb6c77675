//! Takes backends out of service if their connections would come back to the agent (a forwarding
//! loop). The check of the configuration cannot see every loop, and the host may have got another
//! address since.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{path, protocol, state};

use super::desired::{Backend, Desired, Service, Source};
use super::surroundings::Surroundings;
use lb_config::loops::{Carrier, Hop, find};

/// Takes backends that lead back to the agent out of service.
pub(super) fn take_out(desired: &mut Desired, surroundings: &dyn Surroundings) {
    let is_local = |ip: IpAddr| surroundings.is_local(SocketAddr::new(ip, 0));
    let services = &desired.services;
    let hops: Vec<Hop<'_>> = services.iter().map(|s| hop(services, s)).collect();
    for found in find(&hops, &is_local) {
        let backend = &mut desired.services[found.hop].backends[found.backend];
        backend.state = state::DOWN;
        backend.comes_back = Some(found.value);
    }
}

fn hop<'a>(services: &'a [Service], service: &'a Service) -> Hop<'a> {
    let outer = service.name.split_once('/').map(|(outer, _)| outer);
    let outer = outer.and_then(|outer| services.iter().find(|known| known.name == outer));
    let carried = |backend: &Backend| {
        let carrier = match backend.route.path {
            path::SOCKET => Carrier::Socket,
            path::NAT | path::DSR => Carrier::Packets,
            _ => Carrier::Agent,
        };
        (backend.address.clone(), carrier)
    };
    Hop {
        name: &service.name,
        udp: service.protocol == protocol::UDP,
        listen: &outer.unwrap_or(service).listen,
        backends: service.backends.iter().map(carried).collect(),
    }
}

impl Desired {
    /// The backends that are out of service because of a loop, a line each.
    pub fn loops(&self) -> Vec<String> {
        self.lines(|_, _| true)
    }

    /// The loops through backends of the configuration file, a line each.
    pub fn configured_loops(&self) -> Vec<String> {
        self.lines(|_, backend| backend.source == Source::File)
    }

    /// The loops that `before` does not have, a line each.
    pub fn new_loops(&self, before: &Self) -> Vec<String> {
        self.lines(|service, backend| {
            let known = before.service(&service.name);
            let known = known.and_then(|service| service.backend(&backend.address));
            known.is_none_or(|known| known.comes_back.is_none())
        })
    }

    fn lines(&self, which: impl Fn(&Service, &Backend) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        for service in &self.services {
            let backends = service.backends.iter();
            for backend in backends.filter(|backend| which(service, backend)) {
                let line = |why| format!("{}: {why}", service.name);
                lines.extend(backend.comes_back.as_ref().map(line));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::compose::tests::{Loopback, config};
    use crate::state::overlay::{Overlay, Target};

    const WEB: &str = "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nhealth = {}\n\
                       backends = ['127.0.0.1:80', '127.0.0.1:81', '192.0.2.1:80']";

    fn desired(can_steer: bool, overlay: &Overlay) -> Desired {
        let surroundings = Loopback { can_steer };
        Desired::new(&config(WEB), overlay, [1, 2], 0, &surroundings)
    }

    #[test]
    fn a_backend_that_is_the_agent_gets_nobody_without_bpf() {
        let none = Overlay::default();
        let states = |desired: &Desired| -> Vec<u8> {
            desired.services[0]
                .backends
                .iter()
                .map(|b| b.state)
                .collect()
        };
        let with_bpf = desired(true, &none);
        assert_eq!(states(&with_bpf), [state::UP; 3]);
        assert!(with_bpf.loops().is_empty());
        let without = desired(false, &none);
        assert_eq!(states(&without), [state::DOWN, state::UP, state::UP]);
        assert_eq!(without.loops().len(), 1);
        assert_eq!(without.configured_loops(), without.loops());
        assert!(without.new_loops(&without).is_empty());
    }

    #[test]
    fn one_that_is_added_is_news() {
        let mut overlay = Overlay::default();
        let target = |address: &str| Target {
            service: "web".to_owned(),
            address: address.parse().unwrap(),
        };
        overlay.removed.push(target("127.0.0.1:80"));
        let before = desired(false, &overlay);
        assert!(before.loops().is_empty());
        overlay.add(target("127.0.0.2:80"), 1);
        let after = desired(false, &overlay);
        assert_eq!(after.new_loops(&before), after.loops());
        assert_eq!(after.loops().len(), 1);
        assert!(after.configured_loops().is_empty());
    }
}
