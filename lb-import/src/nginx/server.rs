//! `server`: its names, and the addresses it listens on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use toml::Value;

use super::Import;
use super::scope::Scope;
use super::tree::Directive;
use crate::document::table;

/// A `server` block.
#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    /// Names as routes take them; none for a server that takes every name.
    pub(super) names: Vec<String>,
    pub(super) listens: Vec<Listen>,
}

/// An address of a server.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listen {
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
    pub(super) is_default: bool,
    pub(super) proxy_protocol: bool,
}

impl Server<'_> {
    /// The value of `$server_name`.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// The server of `directive`, which stands in `http`.
pub(super) fn read<'a>(
    directive: &'a Directive,
    http: &Scope<'a>,
    import: &Import<'_>,
) -> Server<'a> {
    directive.take();
    let scope = http.inside(directive.inside());
    let listens = listens(&scope, import);
    Server {
        directive,
        names: names(&scope, import),
        listens,
        scope,
    }
}

fn names(scope: &Scope<'_>, import: &Import<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for directive in scope.all("server_name") {
        for name in &directive.args {
            match name.as_str() {
                "_" | "" => {}
                name if name.starts_with('~') || name.ends_with(".*") => {
                    import.lost(
                        directive,
                        &format!("{name} is a pattern; write its names, or \"*.\" and a domain"),
                    );
                }
                name if !is_name(name.strip_prefix('.').unwrap_or(name)) => {
                    import.lost(directive, &format!("{name} is no name of a server"));
                }
                name if name.starts_with('.') => {
                    names.push(name[1..].to_owned());
                    names.push(format!("*{name}"));
                }
                name => names.push(name.to_ascii_lowercase()),
            }
        }
    }
    let mut unique = Vec::new();
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    unique
}

/// Whether a route takes this name.
pub(super) fn is_name(name: &str) -> bool {
    crate::is_of_a_route("host", name)
}

/// Parameters of `listen` that need no key, or have one.
const PARAMETERS: [&str; 15] = [
    "backlog",
    "bind",
    "default",
    "default_server",
    "deferred",
    "fastopen",
    "http2",
    "ipv6only",
    "proxy_protocol",
    "rcvbuf",
    "reuseport",
    "sndbuf",
    "so_keepalive",
    "spdy",
    "ssl",
];

fn listens(scope: &Scope<'_>, import: &Import<'_>) -> Vec<Listen> {
    let all_tls = scope.flag("ssl", false);
    let mut listens: Vec<Listen> = Vec::new();
    let own = scope.own().iter();
    for directive in own.filter(|one| one.name == "listen") {
        directive.take();
        if directive.args.iter().any(|arg| arg == "quic") {
            import.lost(directive, "there is no HTTP/3");
            continue;
        }
        let Some(address) = address(directive.arg(0)) else {
            import.lost(directive, "a service listens on addresses and ports");
            continue;
        };
        let has = |word: &str| directive.args.iter().any(|arg| arg == word);
        for parameter in directive.args.iter().skip(1) {
            let name = parameter.split('=').next().unwrap_or_default();
            if !PARAMETERS.contains(&name) {
                import.lost(directive, &format!("the parameter {name} is not known"));
            }
        }
        let listen = Listen {
            address,
            tls: all_tls || has("ssl"),
            is_default: has("default_server") || has("default"),
            proxy_protocol: has("proxy_protocol"),
        };
        if !listens.iter().any(|known| known.address == address) {
            listens.push(listen);
        }
        if has("ipv6only=off") && address.ip() == std::net::Ipv6Addr::UNSPECIFIED {
            let both = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            if !listens.iter().any(|known| known.address == both) {
                let second = Listen {
                    address: both,
                    ..listens.last().cloned().unwrap_or(Listen {
                        address: both,
                        tls: all_tls,
                        is_default: false,
                        proxy_protocol: false,
                    })
                };
                listens.push(second);
            }
        }
    }
    if !scope.own().iter().any(|one| one.name == "listen") {
        listens.push(Listen {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80),
            tls: all_tls,
            is_default: false,
            proxy_protocol: false,
        });
    }
    listens
}

/// The certificates of `servers`, each once.
pub(super) fn certificates(servers: &[&Server<'_>], import: &Import<'_>) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for server in servers {
        let certificates = server.scope.all("ssl_certificate");
        let keys = server.scope.all("ssl_certificate_key");
        for (certificate, key) in certificates.iter().zip(&keys) {
            let (file, key) = (certificate.arg(0), key.arg(0));
            if file.contains('$') || file.starts_with("data:") {
                import.lost(certificate, "a certificate is a file without variables");
                continue;
            }
            let (file, key) = (import.file(file), import.file(key));
            let pair = table([("certificate", file.into()), ("key", key.into())]);
            if !found.contains(&pair) {
                found.push(pair);
            }
        }
    }
    found
}

/// The address of `listen`: `80`, `*:80`, `10.0.0.1`, `[::]:80`, `localhost:80`.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if let Ok(port) = text.parse::<u16>() {
        return (port != 0).then_some(SocketAddr::new(any, port));
    }
    if let Some(port) = text.strip_prefix("*:") {
        return Some(SocketAddr::new(any, port.parse().ok()?));
    }
    super::values::address(text, 80)?.parse().ok()
}
