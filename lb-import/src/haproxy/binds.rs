//! `bind`: addresses, certificates, clients' certificates.

use std::net::SocketAddr;

use toml::Value;

use super::tree::{Line, Section};
use super::{Import, values};
use crate::document::table;

/// What a frontend listens on.
#[derive(Default)]
pub(super) struct Binds {
    pub(super) plain: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
    pub(super) keys: Vec<(&'static str, Value)>,
    pub(super) certificates: Vec<Value>,
    pub(super) proxy_protocol: bool,
}

/// The addresses of `bind`, with what belongs to them.
pub(super) fn read(section: &Section, is_http: bool, import: &Import<'_>) -> Binds {
    let mut binds = Binds::default();
    for line in section.lines.iter().filter(|line| line.is("bind")) {
        line.take();
        let Some(addresses) = values::listens(line.word(1)) else {
            import.lost(line, "a service listens on addresses with one port each");
            continue;
        };
        let is_tls = line.words.iter().any(|word| word == "ssl");
        if is_tls && !is_http {
            import.lost(line, "TLS ends here for HTTP alone, or in the application");
            continue;
        }
        if is_tls && !certificates(line, &mut binds, import) {
            continue;
        }
        options(line, &mut binds, import);
        if is_tls {
            &mut binds.tls
        } else {
            &mut binds.plain
        }
        .extend(addresses);
    }
    binds
}

/// Takes over the certificates of `bind`, if it has files.
fn certificates(line: &Line, binds: &mut Binds, import: &Import<'_>) -> bool {
    let files = line
        .words
        .windows(2)
        .filter(|pair| pair[0] == "crt")
        .map(|pair| pair[1].as_str());
    let mut found = false;
    for file in files {
        if file.ends_with('/') || !file.starts_with('/') {
            import.lost(
                line,
                "a certificate is the path of a file; name each one of a directory",
            );
            continue;
        }
        let pair = table([("certificate", file.into()), ("key", file.into())]);
        if !binds.certificates.contains(&pair) {
            binds.certificates.push(pair);
        }
        found = true;
    }
    if !found {
        import.lost(line, "no certificate is known for it");
    }
    found
}

fn options(line: &Line, binds: &mut Binds, import: &Import<'_>) {
    let mut words = line.words.iter().skip(2).map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "ssl"
            | "v6only"
            | "transparent"
            | "tfo"
            | "defer-accept"
            | "strict-sni"
            | "no-sslv3"
            | "no-tlsv10"
            | "no-tlsv11"
            | "no-tls-tickets"
            | "prefer-client-ciphers" => {}
            "crt" | "ciphers" | "ciphersuites" | "curves" | "ecdhe" | "maxconn" | "backlog"
            | "name" | "interface" | "process" | "thread" | "user" | "group" | "mode" => {
                words.next();
            }
            "v4v6" => import.differs(
                line,
                "[::] takes clients of IPv6 alone; 0.0.0.0 is for those of IPv4",
            ),
            "alpn" => {
                if !words.next().unwrap_or_default().contains("h2") {
                    binds.keys.push(("http2", false.into()));
                }
            }
            "ssl-min-ver" => {
                if words.next() == Some("TLSv1.3") {
                    binds.keys.push(("min_version", "1.3".into()));
                }
            }
            "ca-file" => binds
                .keys
                .push(("client_ca", words.next().unwrap_or_default().into())),
            "crl-file" => binds
                .keys
                .push(("crl", words.next().unwrap_or_default().into())),
            "verify" => {
                let word = words.next().unwrap_or_default();
                if ["required", "optional"].contains(&word) {
                    let ours = if word == "required" { "require" } else { word };
                    binds.keys.push(("client_certificates", ours.into()));
                }
            }
            "accept-proxy" => {
                binds.proxy_protocol = true;
                import.lost(
                    line,
                    "name the proxies that send it in `trusted_proxies` of [service.http]",
                );
            }
            other => import.lost(line, &format!("the parameter {other} has no counterpart")),
        }
    }
}
