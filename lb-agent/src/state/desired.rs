//! What should be: the configuration with the changes made at run time laid over it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;

use lb_common::abi::{self, state};

use super::observed::HeadSettings;
use super::overlay::{Overlay, Target};
use crate::config::health::{AllDown, Health};
use crate::config::http::{HttpService, ProxyVersion};
use crate::config::{BackendAddress, Config, Mode, Path};

/// All services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// In the order of the configuration.
    pub services: Vec<Service>,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// What it balances.
    pub mode: Mode,
    /// One of [`abi::protocol`].
    pub protocol: u8,
    /// The PROXY header that connections to its backends begin with.
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// Settings of its table.
    pub settings: HeadSettings,
    /// How its backends are checked.
    pub health: Option<Arc<Health>>,
    /// What the L7 path has to know, for a service that it serves.
    pub http: Option<Arc<HttpService>>,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where the application is.
    pub address: BackendAddress,
    /// Its weight.
    pub weight: u16,
    /// Its weight in the table, where a slow start makes it another one.
    pub table_weight: u16,
    /// One of [`abi::state`].
    pub state: u8,
    /// Whether its health lets it serve.
    pub fit: bool,
    /// How its connections get there.
    pub route: Route,
    /// Where it comes from.
    pub source: Source,
    /// When its drain ends, milliseconds since 1970 (UTC).
    pub drained_at_unix_ms: Option<u64>,
}

/// Where a backend comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configuration.
    File,
    /// `add-backend`.
    Runtime,
}

/// The path to a backend, and the reason for it in a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// One of [`abi::path`].
    pub path: u8,
    /// Why, for `status`.
    pub why: &'static str,
}

/// What the choice of a path depends on beside the configuration.
pub trait Surroundings {
    /// Whether connections can be handed to sockets at all.
    fn can_steer(&self) -> bool;
    /// Whether an address belongs to this host.
    fn is_local(&self, address: SocketAddr) -> bool;
    /// What its health says of a backend.
    fn verdict(&self, _: &Target) -> Verdict {
        Verdict::default()
    }
}

/// [`Verdict::ramp`] of a backend that has its whole weight.
pub const FULL_RAMP: u16 = 16;

/// What its health says of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It can serve.
    pub fit: bool,
    /// The part of its weight that it is to have, in parts of [`FULL_RAMP`].
    pub ramp: u16,
}

impl Default for Verdict {
    fn default() -> Self {
        Self {
            fit: true,
            ramp: FULL_RAMP,
        }
    }
}

impl Desired {
    /// The configuration with `overlay` laid over it, at the time `now_ms`.
    pub fn new(
        config: &Config,
        overlay: &Overlay,
        hash_key: [u64; 2],
        now_ms: u64,
        surroundings: &dyn Surroundings,
    ) -> Self {
        let compose = |service: &crate::config::Service| {
            let mut composed = Service::from_config(service, hash_key);
            composed.backends = backends(service, overlay, now_ms, surroundings);
            judge(&mut composed, service, surroundings);
            composed
        };
        Self {
            services: config.services.iter().map(compose).collect(),
        }
    }

    /// The unix sockets among the backends, by what stands for each in the tables.
    pub fn unix_sockets(&self) -> HashMap<SocketAddr, Arc<FilePath>> {
        let backends = self.services.iter().flat_map(|service| &service.backends);
        backends
            .filter_map(|backend| Some((backend.address.key(), backend.address.unix()?.clone())))
            .collect()
    }

    /// The service called `name`.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

impl Service {
    fn from_config(service: &crate::config::Service, hash_key: [u64; 2]) -> Self {
        let affinity = &service.affinity;
        Self {
            name: service.name.clone(),
            listen: service.listen.clone(),
            mode: service.mode,
            protocol: match service.mode {
                Mode::Tcp | Mode::Http => abi::protocol::TCP,
                Mode::Udp => abi::protocol::UDP,
            },
            send_proxy_protocol: service.send_proxy_protocol,
            settings: HeadSettings {
                hash_key,
                affinity_ns: u64::try_from(affinity.timeout.as_nanos()).unwrap_or(u64::MAX),
                max_load_permille: service.max_load_permille.unwrap_or(0),
                ipv4_prefix: affinity.ipv4_prefix,
                ipv6_prefix: affinity.ipv6_prefix,
                http: service.mode == Mode::Http,
            },
            health: service.health.clone().map(Arc::new),
            http: service.http.clone(),
            backends: Vec::new(),
        }
    }

    /// The backend at `address`.
    pub fn backend(&self, address: &BackendAddress) -> Option<&Backend> {
        self.backends
            .iter()
            .find(|backend| backend.address == *address)
    }
}

fn backends(
    service: &crate::config::Service,
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
            // A weight given at run time outranks that of the file.
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
                Path::Auto,
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
            let route = route(service, &address, path, surroundings);
            Backend {
                address,
                weight,
                table_weight: weight,
                fit: true,
                state: match drain {
                    None => state::UP,
                    Some(drained) if drained.until_unix_ms > now_ms => state::DRAINING,
                    Some(_) => state::DOWN,
                },
                route,
                source,
                drained_at_unix_ms: drain.map(|drained| drained.until_unix_ms),
            }
        })
        .collect()
}

/// Lays what is known of their health over the backends of a service.
fn judge(service: &mut Service, config: &crate::config::Service, surroundings: &dyn Surroundings) {
    let Some(health) = &config.health else {
        return;
    };
    let verdicts: Vec<Verdict> = service
        .backends
        .iter()
        .map(|backend| {
            surroundings.verdict(&Target {
                service: config.name.clone(),
                address: backend.address.clone(),
            })
        })
        .collect();
    for (backend, verdict) in service.backends.iter_mut().zip(&verdicts) {
        backend.fit = verdict.fit;
    }
    let in_service = |backend: &Backend| backend.state == state::UP;
    let none_fit = !service.backends.iter().any(|b| in_service(b) && b.fit);
    // A broken answer is worse than an honest 503 where the protocol has one.
    let usual = match config.mode {
        Mode::Tcp | Mode::Udp => AllDown::Serve,
        Mode::Http => AllDown::Refuse,
    };
    let all_down = health.all_down.unwrap_or(usual);
    // Where nobody is known to be fit, an answer of a backend that may be broken is better than
    // none. Who has been drained stays out.
    if !(none_fit && all_down == AllDown::Serve) {
        for backend in service.backends.iter_mut().filter(|backend| !backend.fit) {
            backend.state = state::DOWN;
        }
    }
    ramp_up(&mut service.backends, &verdicts);
}

/// Gives backends that are back a part of their weight. Weights are whole numbers, so those of the
/// others grow instead; where they are too large for that, those of the newcomers shrink.
fn ramp_up(backends: &mut [Backend], verdicts: &[Verdict]) {
    if verdicts.iter().all(|verdict| verdict.ramp == FULL_RAMP) {
        return;
    }
    let heaviest = backends.iter().map(|b| b.weight).max().unwrap_or(1);
    let scale = if heaviest <= u16::MAX / FULL_RAMP {
        FULL_RAMP
    } else {
        1
    };
    for (backend, verdict) in backends.iter_mut().zip(verdicts) {
        let part = u32::from(backend.weight) * u32::from(scale) * u32::from(verdict.ramp)
            / u32::from(FULL_RAMP);
        backend.table_weight = part.max(1) as u16;
    }
}

/// Chooses the path to a backend.
fn route(
    service: &crate::config::Service,
    address: &BackendAddress,
    wanted: Path,
    surroundings: &dyn Surroundings,
) -> Route {
    let socket = |why| Route {
        path: abi::path::SOCKET,
        why,
    };
    let proxy = |why| Route {
        path: abi::path::PROXY,
        why,
    };
    if service.mode == Mode::Http {
        return proxy("HTTP");
    }
    if !surroundings.can_steer() {
        return proxy("no BPF here");
    }
    if service.send_proxy_protocol.is_some() {
        return proxy("PROXY protocol");
    }
    let Some(address) = address.ip() else {
        return proxy("a unix socket");
    };
    match wanted {
        Path::Socket => socket("configured"),
        Path::Proxy => proxy("configured"),
        Path::Auto if !surroundings.is_local(address) => proxy("on another host"),
        // A UDP application answers from the port that it is bound to: handed over, it would
        // answer from another port than the one that was asked.
        Path::Auto
            if service.mode == Mode::Udp
                && service
                    .listen
                    .iter()
                    .any(|listen| listen.port() != address.port()) =>
        {
            proxy("UDP on another port")
        }
        Path::Auto => socket("on this host"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host whose own addresses are the loopback ones.
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
        crate::config::parse(text, std::path::Path::new("test.toml")).unwrap()
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
        assert_eq!(overlay.next_drain_end(999), Some(1000));
        assert_eq!(overlay.next_drain_end(1000), None);
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

    /// As the surroundings, with these backends (by port) not fit or in a slow start.
    struct Judged(Vec<(u16, Verdict)>);

    impl Surroundings for Judged {
        fn can_steer(&self) -> bool {
            true
        }

        fn is_local(&self, _: SocketAddr) -> bool {
            true
        }

        fn verdict(&self, target: &Target) -> Verdict {
            let found = self
                .0
                .iter()
                .find(|(port, _)| *port == target.address.key().port());
            found.map_or_else(Verdict::default, |(_, verdict)| *verdict)
        }
    }

    const UNFIT: Verdict = Verdict {
        fit: false,
        ramp: FULL_RAMP,
    };

    /// States and table weights of two backends, the second of weight 2.
    fn judged(all_down: &str, overlay: &Overlay, verdicts: Vec<(u16, Verdict)>) -> Vec<(u8, u16)> {
        let config = config(&format!(
            "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nhealth = {{ {all_down} }}\n\
             backends = ['127.0.0.1:5000', {{ address = '127.0.0.1:5001', weight = 2 }}]"
        ));
        let desired = Desired::new(&config, overlay, [1, 2], 0, &Judged(verdicts));
        let backends = desired.services[0].backends.iter();
        backends.map(|b| (b.state, b.table_weight)).collect()
    }

    #[test]
    fn a_backend_that_is_not_fit_is_down() {
        let states = judged("", &Overlay::default(), vec![(5001, UNFIT)]);
        assert_eq!(states, [(state::UP, 1), (state::DOWN, 2)]);
        // Not its clients alone leave one that is being drained.
        let mut overlay = Overlay::default();
        overlay.drain(target("127.0.0.1:5001"), 1000);
        let states = judged("", &overlay, vec![(5001, UNFIT)]);
        assert_eq!(states, [(state::UP, 1), (state::DOWN, 2)]);
    }

    #[test]
    fn when_all_are_down_they_serve_or_refuse_as_configured() {
        let both = || vec![(5000, UNFIT), (5001, UNFIT)];
        let (up, down) = (
            [(state::UP, 1), (state::UP, 2)],
            [(state::DOWN, 1), (state::DOWN, 2)],
        );
        let none = Overlay::default();
        assert_eq!(judged("", &none, both()), up);
        assert_eq!(judged("all_down = 'serve'", &none, both()), up);
        assert_eq!(judged("all_down = 'refuse'", &none, both()), down);
        // One that was drained is not called back for that, nor one that still drains.
        let mut overlay = Overlay::default();
        overlay.drain(target("127.0.0.1:5001"), 0);
        let expected = [(state::UP, 1), (state::DOWN, 2)];
        assert_eq!(judged("", &overlay, vec![(5000, UNFIT)]), expected);
        overlay.drain(target("127.0.0.1:5001"), 1000);
        let expected = [(state::UP, 1), (state::DRAINING, 2)];
        assert_eq!(judged("", &overlay, vec![(5000, UNFIT)]), expected);
    }

    #[test]
    fn a_slow_start_gives_a_part_of_the_weight() {
        let ramp = |ramp| Verdict { fit: true, ramp };
        let none = Overlay::default();
        let weights = |verdicts| -> Vec<u16> {
            judged("", &none, verdicts)
                .iter()
                .map(|(_, weight)| *weight)
                .collect()
        };
        assert_eq!(weights(vec![(5001, ramp(1))]), [16, 2]);
        assert_eq!(weights(vec![(5001, ramp(8))]), [16, 16]);
        assert_eq!(weights(vec![(5001, ramp(FULL_RAMP))]), [1, 2]);
    }
}
