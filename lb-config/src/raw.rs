//! Which keys there are, their types and their defaults: services and backends.

use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeTable;

use super::agent::MAX_CONNECTIONS;
use super::error::{Located, Place, Problems};
use super::health::{self, Health};
use super::lists::{RawBackend, backends, former_names, listen};
use super::reader::{Table, Value};
use super::{Affinity, AgentConfig, Mode, ServicePaths, agent, http, packet, value};

const LISTEN: &str = "[\"0.0.0.0:80\", \"[::]:80\"]";

/// What was written, every value good by itself. Where one was not, a default stands in and the
/// problem is noted.
pub(super) struct Raw {
    pub(super) agent: AgentConfig,
    pub(super) services: Vec<RawService>,
}

/// A service as it was written.
pub(super) struct RawService {
    pub(super) place: Place,
    pub(super) name: Option<Located<String>>,
    pub(super) was: Vec<Located<String>>,
    pub(super) listen: Vec<Located<SocketAddr>>,
    pub(super) mode: Mode,
    pub(super) affinity: Affinity,
    pub(super) max_load_permille: Option<u32>,
    pub(super) max_connections: Option<u32>,
    pub(super) health: Option<Health>,
    pub(super) paths: ServicePaths,
    pub(super) backends: Vec<RawBackend>,
    pub(super) send_proxy_protocol: Option<http::ProxyVersion>,
    /// With `mode = "http"`.
    pub(super) http: Option<http::RawHttp>,
}

impl RawService {
    /// The backends of a route as a service: listening nowhere, and for the rest like this one, which it is
    /// inside of.
    pub(super) fn inside(&self, inner: http::Inner) -> Self {
        Self {
            was: self.former_names_of(&inner),
            name: Some(Located {
                value: inner.name,
                place: inner.place.clone(),
            }),
            place: inner.place,
            listen: Vec::new(),
            mode: self.mode,
            affinity: self.affinity.clone(),
            max_load_permille: self.max_load_permille,
            max_connections: None,
            health: self
                .health
                .clone()
                .map(|health| health.over(inner.protocol)),
            paths: ServicePaths::default(),
            backends: inner.backends,
            send_proxy_protocol: None,
            http: None,
        }
    }

    /// Former names: those of this service or of the route were other ones, or both.
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
    let mut root = Table::root(document);
    let agent = root
        .take("agent")
        .and_then(|value| value.table("[agent]", problems))
        .map(|table| agent::read(table, problems));
    let services = services(root.take("service"), problems);
    root.finish(problems);
    Raw {
        agent: agent.unwrap_or_default(),
        services,
    }
}

fn services(value: Option<Value<'_, '_>>, problems: &mut Problems) -> Vec<RawService> {
    let Some(value) = value else {
        let message = "there is no service (add [[service]] with a name and listen addresses)";
        problems.add(&Place::FILE, message);
        return Vec::new();
    };
    if value.is_table() {
        problems.add(
            &value.place,
            "expected a list (write [[service]], with two brackets on each side)",
        );
        return Vec::new();
    }
    let items = value.list("[[service]]", problems);
    if items.is_empty() {
        problems.add(&value.place, "there is no service (write [[service]])");
    }
    items
        .iter()
        .filter_map(|item| item.table("[[service]]", problems))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|table| service(table, problems))
        .collect()
}

fn service(mut table: Table<'_, '_>, problems: &mut Problems) -> RawService {
    let name = table
        .require("name", "\"web\"", problems)
        .and_then(|value| {
            let name = value.string("\"web\"", problems, value::service_name)?;
            Some(value.locate(name))
        });
    let was = table.take("was");
    let was = was.map(|value| former_names(&value, problems));
    let mode = table.take("mode").and_then(|value| mode(&value, problems));
    let tls = table.take("tls");
    // A service may take HTTPS alone.
    let plain = if tls.is_some() {
        table.take("listen")
    } else {
        table.require("listen", LISTEN, problems)
    };
    let listen = plain.map(|value| listen(&value, LISTEN, problems));
    let affinity = table
        .take("affinity")
        .and_then(|value| value.table("{ timeout = \"3h\" }", problems))
        .map(|table| affinity(table, problems));
    let max_load_permille = table
        .take("max_load")
        .and_then(|value| max_load(&value, problems));
    let max_connections = table
        .take("max_connections")
        .and_then(|value| value.integer_in(1..=MAX_CONNECTIONS, problems));
    let health = table
        .take("health")
        .and_then(|value| value.table("{ type = \"tcp\" }", problems))
        .map(|table| health::read(table, problems));
    let paths = packet::service(&mut table, problems);
    let backends = table
        .take("backends")
        .map(|value| backends(&value, paths.path, problems));
    let mode = mode.unwrap_or(Mode::Tcp);
    let send_proxy_protocol = table
        .take("send_proxy_protocol")
        .and_then(|value| send_proxy_protocol(&value, mode, problems));
    let settings = table.take("http");
    let routes = table.take("route");
    let http = http(mode, settings, tls, routes, problems);
    let place = table.place.clone();
    table.finish(problems);
    RawService {
        place,
        name,
        was: was.unwrap_or_default(),
        listen: listen.unwrap_or_default(),
        mode,
        affinity: affinity.unwrap_or_default(),
        max_load_permille,
        max_connections,
        health,
        paths,
        backends: backends.unwrap_or_default(),
        send_proxy_protocol,
        http,
    }
}

/// The header for backends of a service with `mode = "tcp"`; for HTTP it is under `[service.http]`.
fn send_proxy_protocol(
    value: &Value<'_, '_>,
    mode: Mode,
    problems: &mut Problems,
) -> Option<http::ProxyVersion> {
    let elsewhere = match mode {
        Mode::Tcp => None,
        Mode::Udp => Some("UDP has no connection to begin with it (leave it out)"),
        Mode::Http => Some("is under [service.http] here (write it there)"),
    };
    if let Some(message) = elsewhere {
        problems.add(&value.place, message);
        return None;
    }
    value.string("\"v2\"", problems, http::proxy_version)
}

/// What is for `mode = "http"` alone.
fn http(
    mode: Mode,
    settings: Option<Value<'_, '_>>,
    tls: Option<Value<'_, '_>>,
    routes: Option<Value<'_, '_>>,
    problems: &mut Problems,
) -> Option<http::RawHttp> {
    if mode != Mode::Http {
        for value in [&settings, &tls, &routes].into_iter().flatten() {
            problems.add(&value.place, "is for HTTP (write mode = \"http\")");
        }
        return None;
    }
    let settings = settings
        .and_then(|value| value.table("[service.http]", problems))
        .map(|table| http::http(table, problems));
    let tls = tls
        .and_then(|value| value.table("[service.tls]", problems))
        .map(|table| http::tls(table, problems));
    Some(http::RawHttp {
        settings: settings.unwrap_or_default(),
        tls,
        routes: routes
            .map(|value| http::routes(&value, problems))
            .unwrap_or_default(),
    })
}

fn mode(value: &Value<'_, '_>, problems: &mut Problems) -> Option<Mode> {
    let choices = [("tcp", Mode::Tcp), ("udp", Mode::Udp), ("http", Mode::Http)];
    value.choice(&choices, &[], problems)
}

fn affinity(mut table: Table<'_, '_>, problems: &mut Problems) -> Affinity {
    let usual = Affinity::default();
    let timeout = table
        .take("timeout")
        .and_then(|value| value.string("\"3h\"", problems, affinity_timeout));
    let mut prefix = |key, most: u8| {
        table
            .take(key)
            .and_then(|value| value.integer_in(0..=most, problems))
    };
    let ipv4_prefix = prefix("ipv4_prefix", 32);
    let ipv6_prefix = prefix("ipv6_prefix", 128);
    table.finish(problems);
    Affinity {
        timeout: timeout.unwrap_or(usual.timeout),
        ipv4_prefix: ipv4_prefix.unwrap_or(usual.ipv4_prefix),
        ipv6_prefix: ipv6_prefix.unwrap_or(usual.ipv6_prefix),
    }
}

fn affinity_timeout(text: &str) -> Result<Duration, String> {
    let timeout = value::duration(text).map_err(|error| error.to_string())?;
    if !timeout.is_zero() && timeout < Duration::from_secs(1) {
        return Err(format!(
            "{} is under a second (use \"0s\" to switch affinity off, or \"1s\" and more)",
            value::quoted(text)
        ));
    }
    Ok(timeout)
}

/// The bound on load, in thousandths.
fn max_load(value: &Value<'_, '_>, problems: &mut Problems) -> Option<u32> {
    let number = value.number("1.25", problems)?;
    if !(1.0..=100.0).contains(&number) {
        let message = format!("{number} is out of range (use 1.0 to 100, or leave it out)");
        problems.add(&value.place, message);
        return None;
    }
    Some((number * 1000.0).round() as u32)
}
