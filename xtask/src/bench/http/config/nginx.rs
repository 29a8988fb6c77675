//! nginx as a reverse proxy.

use super::super::super::config::nginx;
use super::super::super::net::{BACKENDS, SERVER};
use super::super::ports::{ECHO, Port, Proxy};
use super::CLIENTS;
use std::fmt::Write as _;
use std::path::Path;

/// Its configuration. `http2` on a line of its own came with 1.25.1, which warns of the old way.
pub(in super::super) fn reverse(dir: &Path, has_http2_line: bool) -> String {
    let common = nginx("nginx").replace("worker_connections 8192", "worker_connections 30000");
    let dir = dir.display();
    let mut text = format!(
        "{common}http {{\n{LOG}access_log {dir}/nginx-access.log full buffer=32k flush=1s;\n\
         ssl_certificate {dir}/bench.pem;\nssl_certificate_key {dir}/bench.key;\n{SETTINGS}"
    );
    for (name, key) in [
        ("app", "$remote_addr"),
        ("cookie", "$cookie_lb"),
        ("socketio", "$arg_sid"),
    ] {
        let [first, second] = BACKENDS;
        let _ = writeln!(
            text,
            "upstream {name} {{ hash {key} consistent; server 127.0.0.1:{first}; \
             server 127.0.0.1:{second}; keepalive 512; keepalive_requests 1000000000; }}"
        );
    }
    let _ = writeln!(
        text,
        "proxy_cache_path {dir}/nginx-cache keys_zone=stored:10m inactive=1h use_temp_path=off;\n\
         limit_req_zone $binary_remote_addr zone=limited:1m rate=1000000r/s;\n\
         limit_req_zone $binary_remote_addr zone=refused:1m rate=1r/m;\nlimit_req_status 429;"
    );
    text += &servers(has_http2_line, &format!("{dir}/pages"));
    text += "}\n";
    text
}

fn servers(has_http2_line: bool, pages: &str) -> String {
    let (on_listen, line) = match has_http2_line {
        true => ("", "http2 on; "),
        false => (" http2", ""),
    };
    let port = |port: Port| Proxy::Nginx.port(port);
    let app = |name: &str| format!("proxy_pass http://{name}; proxy_set_header Connection \"\";");
    let rules = "proxy_set_header X-Bench in; add_header X-Bench-Out out;";
    let trusted = format!(
        "set_real_ip_from {CLIENTS}; real_ip_header X-Forwarded-For; real_ip_recursive on;"
    );
    let websocket = format!(
        "proxy_pass http://127.0.0.1:{ECHO}; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection upgrade; proxy_read_timeout 1h;"
    );
    let mut text = format!(
        "server {{\n  {line}listen {SERVER}:{} backlog=8192;\n  \
         listen {SERVER}:{} ssl{on_listen} backlog=8192;\n  location / {{ {} {} }}\n}}\n",
        port(Port::Plain),
        port(Port::Tls),
        app("app"),
        headers("$remote_addr"),
    );
    let _ = write!(
        text,
        "server {{\n  listen {SERVER}:{} backlog=8192;\n  root {pages};\n  {FILES}\n}}\n",
        port(Port::Files)
    );
    for (at, settings, forwarded_for) in [
        (Port::Rules, app("app") + rules, "$remote_addr"),
        (
            Port::Trusted,
            app("app") + &trusted,
            "$proxy_add_x_forwarded_for",
        ),
        (Port::Cookie, app("cookie"), "$remote_addr"),
        (Port::SocketIo, app("socketio"), "$remote_addr"),
        (Port::WebSocket, websocket, "$remote_addr"),
        (
            Port::Cached,
            format!(
                "{} proxy_cache stored; proxy_cache_lock on; {FILES}",
                app("app")
            ),
            "$remote_addr",
        ),
        (
            Port::Limited,
            app("app") + "limit_req zone=limited burst=100000 nodelay;",
            "$remote_addr",
        ),
        (
            Port::Refused,
            app("app") + "limit_req zone=refused;",
            "$remote_addr",
        ),
    ] {
        let _ = write!(
            text,
            "server {{\n  listen {SERVER}:{} backlog=8192;\n  location / {{ {settings} {} }}\n}}\n",
            port(at),
            headers(forwarded_for),
        );
    }
    text
}

/// Bodies of 64 KiB stay in memory, as in the other proxies.
const SETTINGS: &str = "keepalive_requests 1000000000;\nclient_body_buffer_size 128k;\n\
    ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:bench:10m;\nproxy_http_version 1.1;\n\
    gzip on;\ngzip_comp_level 1;\ngzip_types application/json;\ngzip_proxied any;\n\
    gzip_min_length 1024;\n";

/// As fast as it can be.
const FILES: &str = "sendfile on; tcp_nopush on; open_file_cache max=1000 inactive=20s; \
    open_file_cache_valid 1s; open_file_cache_min_uses 1; open_file_cache_errors on;";

const LOG: &str = "log_format full '$remote_addr - $remote_user [$time_local] \"$request\" $status \
    $body_bytes_sent \"$http_referer\" \"$http_user_agent\" backend=$upstream_addr \
    connect=$upstream_connect_time first_byte=$upstream_header_time total=$request_time \
    id=$request_id tls=$ssl_protocol';\n";

fn headers(forwarded_for: &str) -> String {
    format!(
        "proxy_set_header Host $host; proxy_set_header X-Forwarded-For {forwarded_for}; \
         proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; \
         proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port; \
         proxy_set_header X-Request-Id $request_id; proxy_set_header Via \"1.1 nginx\";"
    )
}
