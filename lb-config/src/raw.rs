//! The whole document, and `[[service]]`.

use std::net::SocketAddr;
use std::time::Duration;

use lb_common::clients::MAX_CAP;
use toml::de::DeTable;

use super::agent::CONNECTIONS;
use super::error::{Located, Place, Problems};
use super::health::Health;
use super::http::{self, BLOCK, Cidr, Limit, PROXY_VERSION, RawRoute, RawTls, Settings, limits};
use super::lists::{NAME, RawBackend, backends, former_names, listen};
use super::reader::Table;
use super::schema::fields::{Flat, OnlyIf, PLACE, Required};
use super::schema::kinds::{List, Maybe, Placed, Sub, Thousandths, Whole, one_of, sub, whole};
use super::schema::{Field, Key, Kind, Show, section};
use super::{Affinity, AgentConfig, Config, Mode, Service, ServicePaths, value};

const LISTEN: &str = "[\"0.0.0.0:80\", \"[::]:80\"]";
const MAX_LOAD: Thousandths = Thousandths {
    example: "1.25",
    range: 1.0..=100.0,
    remedy: "use 1.0 to 100, or leave it out",
    unit: "times the fair share",
};
const AFFINITY: Sub<Affinity> = sub("{ timeout = \"3h\" }");
const CLIENT_CONNECTIONS: Whole<u32> = whole(1..=MAX_CAP, "connections");
const ROUTES: List<Sub<RawRoute>> = List("[[service.route]]", sub("[[service.route]]"));

section! {
    Reload, "0.1";
    /// The whole file: `[agent]`, and a `[[service]]` for each service.
    pub(super) struct Raw {
        /// Settings of the agent itself.
        pub(super) agent: AgentConfig = AgentConfig::default(), sub("[agent]");
        /// The services. A file with `[agent]` and no service has the built-in one: `web` on port 80.
        pub(super) services as "service": Vec<RawService> = Vec::new(), Services;
    }
}

section! {
    Reload, "0.1";
    /// A service: addresses to listen on, and backends.
    pub(super) struct RawService {
        /// Where it is in the file.
        pub(super) place: Place = Place::FILE, PLACE;
        /// Its name, unique in the file. Commands and metrics take it.
        pub(super) name: Option<Located<String>> = None, Required("\"web\"", Maybe(Placed(NAME)));
        /// The name that it had before, or several, the latest first. A renamed service keeps its clients, counts,
        /// cookies and what was changed at run time.
        pub(super) was: Vec<Located<String>> = Vec::new(), former_names();
        /// What is balanced.
        pub(super) mode: Mode = Mode::Tcp, one_of();
        /// HTTPS, for `mode = "http"`. Without the table there is none.
        pub(super) tls: Option<RawTls> = None, for_http(Maybe(sub("[service.tls]")));
        /// Addresses to listen on. `"[::]:80"` takes IPv6 clients alone. The key may be left out with `[service.tls]`.
        pub(super) listen: Vec<Located<SocketAddr>> = Vec::new(), Listen;
        /// How clients are recognised and remembered.
        pub(super) affinity: Affinity = Affinity::default(), AFFINITY;
        /// Clients that may come in: addresses and prefixes. Without `deny` all others are refused. With it the longest
        /// prefix decides.
        pub(super) allow: Vec<Cidr> = Vec::new(), List("[\"10.0.0.0/8\"]", BLOCK);
        /// Clients that are refused at their first packet. See [the guide](guides/bans.md).
        pub(super) deny: Vec<Cidr> = Vec::new(), List("[\"203.0.113.0/24\"]", BLOCK);
        /// Most open TCP connections of one client, as `affinity` tells clients apart. More are refused at the SYN. See
        /// [the guide](guides/limits.md#connections).
        pub(super) client_connections: Option<u32> = None, for_connections(Maybe(CLIENT_CONNECTIONS));
        /// Load above which new clients pass by a backend, as a multiple of its fair share of open connections.
        /// Without it load does not count.
        pub(super) max_load_permille as "max_load": Option<u32> = None, Maybe(MAX_LOAD);
        /// Most client connections of the service that go through the agent. For UDP most flows.
        pub(super) max_connections: Option<u32> = None, Maybe(CONNECTIONS);
        /// How backends are checked. Without the table only failures of clients' connections count.
        pub(super) health: Option<Health> = None, Maybe(sub("{ type = \"tcp\" }"));
        /// Paths to its backends.
        pub(super) paths: ServicePaths = ServicePaths::default(), Flat;
        /// The backends, each an address or a table. `lb-agent add-backend` adds more at run time.
        pub(super) backends: Vec<RawBackend> = Vec::new(), backends();
        /// Version of the PROXY header that connections to backends begin with, for `mode = "tcp"`. Its connections
        /// then go through the agent.
        pub(super) send_proxy_protocol: Option<http::ProxyVersion> = None, for_tcp(Maybe(PROXY_VERSION));
        /// Settings for `mode = "http"`.
        pub(super) http: Settings = Settings::default(), for_http(sub("[service.http]"));
        /// Limits on the requests of each client, for `mode = "http"`.
        pub(super) request_limits as "limit": Vec<Located<Limit>> = Vec::new(), for_http(limits());
        /// Routes, for `mode = "http"`.
        pub(super) routes as "route": Vec<RawRoute> = Vec::new(), for_http(ROUTES);
    }
}

/// A key of services with `mode = "http"`.
fn for_http<K>(key: K) -> OnlyIf<K> {
    OnlyIf {
        key,
        why_not: |table| (!is_http(table)).then_some("is for HTTP (write mode = \"http\")"),
        written: |table| mode_of(table) == Some("http"),
    }
}

/// A key of services with `mode = "tcp"`: for HTTP it is under `[service.http]`.
fn for_tcp<K>(key: K) -> OnlyIf<K> {
    OnlyIf {
        key,
        why_not: |table| {
            if is_http(table) {
                Some("is under [service.http] here (write it there)")
            } else {
                let is_udp = table.says("mode", "udp");
                is_udp.then_some("UDP has no connection to begin with it (leave it out)")
            }
        },
        written: |table| mode_of(table).is_none_or(|mode| mode == "tcp"),
    }
}

/// A key that is not for UDP.
fn for_connections<K>(key: K) -> OnlyIf<K> {
    OnlyIf {
        key,
        why_not: |table| {
            let is_udp = table.says("mode", "udp");
            is_udp.then_some("counts connections, and UDP has none (leave it out)")
        },
        written: |table| mode_of(table) != Some("udp"),
    }
}

fn is_http(table: &Table<'_, '_>) -> bool {
    table.says("mode", "http")
}

fn mode_of(table: &toml::Table) -> Option<&str> {
    table.get("mode")?.as_str()
}

/// The listen addresses of a service, which may be empty if it takes HTTPS.
struct Listen;

impl Field<Vec<Located<SocketAddr>>> for Listen {
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<Vec<Located<SocketAddr>>> {
        if table.has("tls") {
            Field::take(&listen(LISTEN), key, table, problems)
        } else {
            Required(LISTEN, listen(LISTEN)).take(key, table, problems)
        }
    }

    fn put(
        &self,
        key: &'static str,
        value: &Vec<Located<SocketAddr>>,
        usual: &Vec<Located<SocketAddr>>,
        show: Show,
        table: &mut toml::Table,
    ) {
        Field::put(&listen(LISTEN), key, value, usual, show, table);
    }

    fn describe(&self, key: Key, _: &Vec<Located<SocketAddr>>, keys: &mut Vec<Key>) {
        keys.push(Key {
            shape: listen(LISTEN).shape(),
            default_in_words: Some("required without `[service.tls]`"),
            ..key
        });
    }
}

/// The array of tables `[[service]]`.
struct Services;

const SERVICE: Sub<RawService> = sub("[[service]]");

impl Field<Vec<RawService>> for Services {
    fn take(
        &self,
        key: &'static str,
        table: &mut Table<'_, '_>,
        problems: &mut Problems,
    ) -> Option<Vec<RawService>> {
        let Some(value) = table.take(key) else {
            if table.has("agent") {
                return Some(RawService::built_in());
            }
            // An empty file is more likely a truncated one, which must not replace services by a reload.
            let message = "there is no service (add [[service]] with a name and listen addresses, or [agent] \
                           alone for the built-in service on port 80)";
            problems.add(&Place::FILE, message);
            return None;
        };
        if value.is_table() {
            problems.add(
                &value.place,
                "expected a list (write [[service]], with two brackets on each side)",
            );
            return None;
        }
        let items = value.list("[[service]]", problems);
        if items.is_empty() {
            problems.add(&value.place, "there is no service (write [[service]])");
        }
        let services = items.iter().filter_map(|item| SERVICE.read(item, problems));
        Some(services.collect())
    }

    fn put(
        &self,
        key: &'static str,
        value: &Vec<RawService>,
        usual: &Vec<RawService>,
        show: Show,
        table: &mut toml::Table,
    ) {
        Field::put(
            &List("[[service]]", SERVICE),
            key,
            value,
            usual,
            show,
            table,
        );
    }

    fn describe(&self, key: Key, _: &Vec<RawService>, keys: &mut Vec<Key>) {
        keys.push(Key {
            shape: List("[[service]]", SERVICE).shape(),
            ..key
        });
    }
}

impl RawService {
    /// The services of [`Config::default`].
    fn built_in() -> Vec<Self> {
        let place = Place::FILE;
        let services = Config::default().services.into_iter();
        let built_in = |service: Service| Self {
            listen: service
                .listen
                .into_iter()
                .map(|value| Located {
                    value,
                    place: place.clone(),
                })
                .collect(),
            name: Some(Located {
                value: service.name,
                place: place.clone(),
            }),
            ..Self::default()
        };
        services.map(built_in).collect()
    }

    /// Whether it is a built-in service, which has no place in the file.
    pub(super) fn is_built_in(&self) -> bool {
        self.place.path.is_empty()
    }

    /// The backends of a route as a service: without listen addresses, and otherwise like the
    /// service that it is inside of.
    pub(super) fn inside(&self, inner: http::Inner) -> Self {
        Self {
            was: self.former_names_of(&inner),
            name: Some(Located {
                value: inner.name,
                place: inner.place.clone(),
            }),
            place: inner.place,
            mode: self.mode,
            affinity: self.affinity.clone(),
            max_load_permille: self.max_load_permille,
            health: self
                .health
                .clone()
                .map(|health| health.over(inner.protocol)),
            backends: inner.backends,
            ..Self::default()
        }
    }

    /// Former names of an inner service. The service, the route or both may have had another name.
    fn former_names_of(&self, inner: &http::Inner) -> Vec<Located<String>> {
        let (_, name) = inner.name.split_once('/').unwrap_or_default();
        let now = self.name.as_ref().map(|name| name.value.as_str());
        let outer = now
            .into_iter()
            .chain(self.was.iter().map(|was| was.value.as_str()));
        let routes: Vec<&str> = std::iter::once(name)
            .chain(inner.was.iter().map(|was| was.value.as_str()))
            .collect();
        let all =
            outer.flat_map(|outer| routes.iter().map(move |route| format!("{outer}/{route}")));
        let former = all.filter(|former| *former != inner.name);
        former
            .map(|value| Located {
                value,
                place: inner.place.clone(),
            })
            .collect()
    }
}

pub(super) fn read(document: &DeTable<'_>, problems: &mut Problems) -> Raw {
    super::schema::read(Table::root(document), problems)
}

/// A time of at least a second, or none.
pub(super) fn affinity_timeout(text: &str) -> Result<Duration, String> {
    let timeout = value::duration(text).map_err(|error| error.to_string())?;
    if !timeout.is_zero() && timeout < Duration::from_secs(1) {
        return Err(format!(
            "{} is under a second (use \"0s\" to switch affinity off, or \"1s\" and more)",
            value::quoted(text)
        ));
    }
    Ok(timeout)
}
