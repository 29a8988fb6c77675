//! Composes the desired state: the configuration with the changes made at run time laid over it.

use std::sync::Arc;

use lb_common::abi::{self, state};

use super::desired::{Backend, Desired, Drain, Service, Source};
use super::judge::judge;
use super::loops;
use super::overlay::{Ban, Overlay, Target};
use super::route::route;
use super::surroundings::Surroundings;
use super::vips;
use lb_common::table::HeadSettings;
use lb_config::health::Health;
use lb_config::{BackendAddress, Config, Mode};

impl Desired {
    /// The configuration with `overlay` laid over it, at the time `now_ms`.
    pub fn new(
        config: &Config,
        overlay: &Overlay,
        hash_key: [u64; 2],
        now_ms: u64,
        surroundings: &dyn Surroundings,
    ) -> Self {
        let compose = |service: &lb_config::Service| {
            let mut composed = Service::from_config(service, hash_key);
            if let Some(name) = overlay.hash_name(&service.name) {
                name.clone_into(&mut composed.hash_name);
            }
            composed.backends = backends(service, overlay, now_ms, surroundings);
            judge(&mut composed, service, surroundings);
            composed
        };
        let mut desired = Self {
            services: config.services.iter().map(compose).collect(),
            bans: bans(overlay, now_ms),
            own: Vec::new(),
        };
        loops::take_out(&mut desired, surroundings);
        // Without a packet path, addresses that come and go must not change the desired state.
        if vips::in_use(&desired) {
            desired.own = surroundings.own_addresses();
        }
        desired
    }
}

/// The bans that have not ended.
fn bans(overlay: &Overlay, now_ms: u64) -> Vec<Ban> {
    let bans = overlay.bans.iter();
    bans.filter(|ban| ban.lasts(now_ms)).cloned().collect()
}

impl Service {
    fn from_config(service: &lb_config::Service, hash_key: [u64; 2]) -> Self {
        let affinity = &service.affinity;
        Self {
            name: service.name.clone(),
            was: service.was.clone(),
            hash_name: service.was.last().unwrap_or(&service.name).clone(),
            listen: service.listen.clone(),
            mode: service.mode,
            protocol: match service.mode {
                Mode::Tcp | Mode::Http => abi::protocol::TCP,
                Mode::Udp => abi::protocol::UDP,
            },
            send_proxy_protocol: service.send_proxy_protocol,
            allow: service.allow.clone(),
            deny: service.deny.clone(),
            client_connections: service.client_connections,
            max_connections: service.max_connections,
            settings: HeadSettings {
                hash_key,
                affinity_ns: u64::try_from(affinity.timeout.as_nanos()).unwrap_or(u64::MAX),
                max_load_permille: service.max_load_permille.unwrap_or(0),
                ipv4_prefix: affinity.ipv4_prefix,
                ipv6_prefix: affinity.ipv6_prefix,
                http: service.mode == Mode::Http,
            },
            health: service
                .health
                .clone()
                .or_else(|| Health::passive(service.mode))
                .map(Arc::new),
            http: service.http.clone(),
            backends: Vec::new(),
        }
    }
}

fn backends(
    service: &lb_config::Service,
    overlay: &Overlay,
    now_ms: u64,
    surroundings: &dyn Surroundings,
) -> Vec<Backend> {
    let target = |address: &BackendAddress| Target {
        service: service.name.clone(),
        address: address.clone(),
    };
    let from_file = service
        .backends
        .iter()
        .filter(|backend| !overlay.removed.contains(&target(&backend.address)))
        .map(|backend| {
            let address = &backend.address;
            // A weight given at run time outranks that of the configuration file.
            let weight = overlay.added(&target(address)).unwrap_or(backend.weight);
            (address.clone(), weight, backend.path, Source::File)
        });
    let in_file = |address: &BackendAddress| {
        service
            .backends
            .iter()
            .any(|backend| backend.address == *address)
    };
    let at_run_time = overlay
        .added
        .iter()
        .filter(|added| added.target.service == service.name && !in_file(&added.target.address))
        .map(|added| {
            (
                added.target.address.clone(),
                added.weight,
                service.paths.path,
                Source::Runtime,
            )
        });
    from_file
        .chain(at_run_time)
        .map(|(address, weight, path, source)| {
            let drain = overlay
                .drained
                .iter()
                .find(|drained| drained.target == target(&address));
            let (route, packets) = route(service, &address, path, surroundings);
            let ip = address.ip();
            Backend {
                elsewhere: ip.is_some_and(|address| !surroundings.is_local(address)),
                address,
                weight,
                table_weight: weight,
                fit: true,
                state: match drain {
                    None => state::UP,
                    Some(drained) if drained.keeps_clients(now_ms) => state::DRAINING,
                    Some(_) => state::DOWN,
                },
                route,
                packets,
                source,
                comes_back: None,
                drain: drain.map(|drained| Drain {
                    until_unix_ms: drained.until_unix_ms,
                    over: drained.until_unix_ms <= now_ms,
                    at_end: drained.at_end,
                }),
            }
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// A host with the loopback addresses as its only own addresses.
    pub(crate) struct Loopback {
        pub(crate) can_steer: bool,
    }

    impl Surroundings for Loopback {
        fn can_steer(&self) -> bool {
            self.can_steer
        }

        fn is_local(&self, address: SocketAddr) -> bool {
            address.ip().is_loopback()
        }
    }

    pub(crate) fn config(text: &str) -> Config {
        lb_config::parse(text, std::path::Path::new("test.toml")).unwrap()
    }

    fn web(overlay: &Overlay, now_ms: u64) -> Service {
        let config = config(
            "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\n\
             backends = ['127.0.0.1:5000', { address = '127.0.0.1:5001', weight = 2 }, '192.0.2.1:80']",
        );
        let surroundings = Loopback { can_steer: true };
        let desired = Desired::new(&config, overlay, [1, 2], now_ms, &surroundings);
        desired.service("web").unwrap().clone()
    }

    fn target(address: &str) -> Target {
        Target {
            service: "web".to_owned(),
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn a_local_backend_is_steered_to_and_a_remote_one_proxied() {
        let web = web(&Overlay::default(), 0);
        let paths: Vec<u8> = web
            .backends
            .iter()
            .map(|backend| backend.route.path)
            .collect();
        assert_eq!(
            paths,
            [abi::path::SOCKET, abi::path::SOCKET, abi::path::PROXY]
        );
    }

    #[test]
    fn changes_made_at_run_time_lie_over_the_file() {
        let mut overlay = Overlay::default();
        overlay.add(target("127.0.0.1:5002"), 7);
        overlay.add(target("127.0.0.1:5001"), 9);
        overlay.removed.push(target("127.0.0.1:5000"));
        let web = web(&overlay, 0);
        let seen: Vec<(String, u16, Source)> = web
            .backends
            .iter()
            .map(|backend| (backend.address.to_string(), backend.weight, backend.source))
            .collect();
        let expected = [
            ("127.0.0.1:5001".to_owned(), 9, Source::File),
            ("192.0.2.1:80".to_owned(), 1, Source::File),
            ("127.0.0.1:5002".to_owned(), 7, Source::Runtime),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_drain_ends_at_its_time() {
        let mut overlay = Overlay::default();
        overlay.drain(target("127.0.0.1:5001"), 1000);
        let state_at = |now_ms| {
            let address = "127.0.0.1:5001".parse().unwrap();
            web(&overlay, now_ms).backend(&address).unwrap().state
        };
        assert_eq!(state_at(999), state::DRAINING);
        assert_eq!(state_at(1000), state::DOWN);
    }

    #[test]
    fn without_bpf_everything_is_proxied() {
        let config = config(
            "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nbackends = ['127.0.0.1:5000']",
        );
        let surroundings = Loopback { can_steer: false };
        let desired = Desired::new(&config, &Overlay::default(), [1, 2], 0, &surroundings);
        assert_eq!(desired.services[0].backends[0].route.path, abi::path::PROXY);
    }
}
