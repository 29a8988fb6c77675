//! HAProxy as a reverse proxy. What it logs goes to its standard output, which is a file.

use super::super::super::net::{BACKENDS, SERVER};
use super::super::place::open_files;
use super::super::ports::{ECHO, Port, Proxy};
use super::CLIENTS;
use std::fmt::Write as _;
use std::path::Path;

/// Its configuration.
pub(in super::super) fn haproxy(dir: &Path) -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {most}\n  log stdout format raw local0\n{DEFAULTS}\
         frontend web\n  bind {SERVER}:{plain} backlog 8192\n  \
         bind {SERVER}:{tls} backlog 8192 ssl crt {both} alpn h2,http/1.1\n{headers}  \
         default_backend app\n",
        // Two files for each connection, and some more.
        most = open_files() / 2 - 50,
        both = dir.join("both.pem").display(),
        plain = Proxy::Haproxy.port(Port::Plain),
        tls = Proxy::Haproxy.port(Port::Tls),
        headers = headers("%[src]"),
    );
    let rules =
        "  http-request set-header X-Bench in\n  http-response set-header X-Bench-Out out\n";
    let trusted =
        format!("  http-request set-src req.hdr_ip(x-forwarded-for,-1) if {{ src {CLIENTS} }}\n");
    let (limited, refused) = (limit(1_000_000_000), limit(0));
    for (port, settings, forwarded_for, backend) in [
        (Port::Rules, rules, "%[src]", "app"),
        (
            Port::Trusted,
            &trusted,
            "\"%[req.hdr(X-Forwarded-For)], %[src]\"",
            "app",
        ),
        (Port::Cookie, "", "%[src]", "cookie"),
        (Port::SocketIo, "", "%[src]", "socketio"),
        (Port::WebSocket, "", "%[src]", "echo"),
        (Port::Cached, CACHED, "%[src]", "app"),
        (Port::Limited, &limited, "%[src]", "app"),
        (Port::Refused, &refused, "%[src]", "app"),
    ] {
        let number = Proxy::Haproxy.port(port);
        let _ = write!(
            text,
            "frontend at-{number}\n  bind {SERVER}:{number} backlog 8192\n{settings}{}  \
             default_backend {backend}\n",
            headers(forwarded_for)
        );
    }
    text += &backends();
    text += "cache stored\n  total-max-size 64\n  max-object-size 1000000\n  max-age 3600\n";
    text
}

/// Most requests of a client in a second.
fn limit(most: u32) -> String {
    format!(
        "  stick-table type ip size 100k expire 10s store http_req_rate(1s)\n  \
         http-request track-sc0 src\n  \
         http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {most} }}\n"
    )
}

fn backends() -> String {
    let mut text = format!("backend echo\n  server echo 127.0.0.1:{ECHO}\n");
    for (name, settings) in [
        ("app", "  balance source\n"),
        (
            "cookie",
            "  balance source\n  cookie lb insert indirect nocache\n",
        ),
        ("socketio", "  balance url_param sid\n"),
    ] {
        let cookie = |value: &str| match name {
            "cookie" => format!(" cookie {value}"),
            _ => String::new(),
        };
        let [first, second] = BACKENDS;
        let _ = write!(
            text,
            "backend {name}\n{settings}  hash-type consistent\n  \
             server first 127.0.0.1:{first}{}\n  server second 127.0.0.1:{second}{}\n",
            cookie("first"),
            cookie("second"),
        );
    }
    text
}

const CACHED: &str = "  filter cache stored\n  filter compression\n  \
    http-request cache-use stored\n  http-response cache-store stored\n";

const DEFAULTS: &str = "defaults\n  mode http\n  log global\n  http-reuse always\n  \
    timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n  \
    compression algo gzip\n  compression type application/json\n  \
    log-format '%ci - - [%t] %{+Q}r %ST %B %hr %hs backend=%s connect=%Tc first_byte=%Tr \
    total=%Ta id=%ID tls=%sslv'\n";

fn headers(forwarded_for: &str) -> String {
    format!(
        "  http-request set-header X-Forwarded-For {forwarded_for}\n  \
         http-request set-header X-Real-IP %[src]\n  \
         http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}\n  \
         http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n  \
         http-request set-header X-Forwarded-Host %[req.hdr(Host)]\n  \
         http-request set-header X-Forwarded-Port %[dst_port]\n  \
         http-request set-header Via \"1.1 haproxy\"\n  \
         unique-id-format %[uuid()]\n  unique-id-header X-Request-Id\n"
    )
}
