//! The configuration of every program of `bench http`.
//!
//! The proxies are set up alike: one worker, the same backends chosen by the client's address and
//! kept connected, the same headers set, a line in the access log for each request, the same
//! certificate.

use super::super::config::nginx;
use super::super::net::SERVER;
use super::proxies::{BACKENDS, ECHO, Proxy, open_files};
use std::path::Path;

/// A backend: pages of the sizes that are asked for.
pub(super) fn backend(dir: &Path, port: u16) -> String {
    format!(
        "{}http {{\n  access_log off;\n  sendfile on;\n  keepalive_requests 1000000000;\n  \
         server {{\n    listen 127.0.0.1:{port} backlog=8192;\n    root {};\n    \
         location = / {{ return 200 ok; }}\n  }}\n}}\n",
        nginx(&format!("backend-{port}")),
        dir.join("pages").display()
    )
}

/// nginx as a reverse proxy.
pub(super) fn reverse_nginx(dir: &Path) -> String {
    let ports = Proxy::Nginx.ports();
    let [first, second] = BACKENDS;
    let dir = dir.display();
    let common = nginx("nginx").replace("worker_connections 8192", "worker_connections 30000");
    format!(
        "{common}http {{\n\
         log_format full '$remote_addr - $remote_user [$time_local] \"$request\" $status \
         $body_bytes_sent \"$http_referer\" \"$http_user_agent\" backend=$upstream_addr \
         connect=$upstream_connect_time first_byte=$upstream_header_time total=$request_time \
         id=$request_id tls=$ssl_protocol';\n\
         access_log {dir}/nginx-access.log full buffer=32k flush=1s;\n\
         keepalive_requests 1000000000;\n\
         upstream app {{ hash $remote_addr consistent; server 127.0.0.1:{first}; \
         server 127.0.0.1:{second}; keepalive 512; keepalive_requests 1000000000; }}\n\
         ssl_certificate {dir}/bench.pem;\nssl_certificate_key {dir}/bench.key;\n\
         ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:bench:10m;\n\
         proxy_http_version 1.1;\n\
         server {{\n  listen {SERVER}:{plain} backlog=8192;\n  \
         listen {SERVER}:{tls} ssl http2 backlog=8192;\n  \
         location / {{\n    proxy_pass http://app;\n    {headers}    \
         proxy_set_header Connection \"\";\n  }}\n}}\n\
         server {{\n  listen {SERVER}:{websocket} backlog=8192;\n  location / {{\n    \
         proxy_pass http://127.0.0.1:{ECHO};\n    proxy_set_header Upgrade $http_upgrade;\n    \
         proxy_set_header Connection upgrade;\n    proxy_read_timeout 1h;\n    {headers}  }}\n}}\n\
         }}\n",
        headers = NGINX_HEADERS,
        plain = ports.plain,
        tls = ports.tls,
        websocket = ports.websocket,
    )
}

const NGINX_HEADERS: &str = "proxy_set_header Host $host;\n    \
    proxy_set_header X-Forwarded-For $remote_addr;\n    \
    proxy_set_header X-Real-IP $remote_addr;\n    \
    proxy_set_header X-Forwarded-Proto $scheme;\n    \
    proxy_set_header X-Forwarded-Host $host;\n    \
    proxy_set_header X-Forwarded-Port $server_port;\n    \
    proxy_set_header X-Request-Id $request_id;\n    \
    proxy_set_header Via \"1.1 nginx\";\n    ";

/// HAProxy as a reverse proxy. What it logs goes to its standard output, which is a file.
pub(super) fn haproxy(dir: &Path) -> String {
    let ports = Proxy::Haproxy.ports();
    let [first, second] = BACKENDS;
    let headers = "  http-request set-header X-Forwarded-For %[src]\n  \
                   http-request set-header X-Real-IP %[src]\n  \
                   http-request set-header X-Forwarded-Proto http if !{ ssl_fc }\n  \
                   http-request set-header X-Forwarded-Proto https if { ssl_fc }\n  \
                   http-request set-header X-Forwarded-Host %[req.hdr(Host)]\n  \
                   http-request set-header X-Forwarded-Port %[dst_port]\n  \
                   http-request set-header Via \"1.1 haproxy\"\n  \
                   unique-id-format %[uuid()]\n  unique-id-header X-Request-Id\n";
    format!(
        "global\n  nbthread 1\n  maxconn {most}\n  log stdout format raw local0\n\
         defaults\n  mode http\n  log global\n  http-reuse always\n  \
         timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n  \
         log-format '%ci - - [%t] %{{+Q}}r %ST %B %hr %hs backend=%s connect=%Tc first_byte=%Tr \
         total=%Ta id=%ID tls=%sslv'\n\
         frontend web\n  bind {SERVER}:{plain} backlog 8192\n  \
         bind {SERVER}:{tls} backlog 8192 ssl crt {both} alpn h2,http/1.1\n\
         {headers}  default_backend app\n\
         backend app\n  balance source\n  hash-type consistent\n  \
         server first 127.0.0.1:{first}\n  server second 127.0.0.1:{second}\n\
         frontend websockets\n  bind {SERVER}:{websocket} backlog 8192\n\
         {headers}  default_backend echo\n\
         backend echo\n  server echo 127.0.0.1:{ECHO}\n",
        // It wants two files for each, and some more.
        most = open_files() / 2 - 50,
        both = dir.join("both.pem").display(),
        plain = ports.plain,
        tls = ports.tls,
        websocket = ports.websocket,
    )
}

/// lb-agent, with everything it keeps in places of this benchmark.
pub(super) fn agent(dir: &Path, pin_dir: &Path) -> String {
    let ports = Proxy::Agent.ports();
    let [first, second] = BACKENDS;
    let log = format!(
        "[service.http.access_log]\nfile = {:?}\n",
        dir.join("agent-access.log")
    );
    format!(
        "[agent]\nstate_dir = {state:?}\ncontrol = {control:?}\npin_dir = {pin_dir:?}\n\
         data_plane = \"bpf\"\nl7_workers = 1\n\
         [[service]]\nname = \"web\"\nmode = \"http\"\nlisten = [\"{SERVER}:{plain}\"]\n\
         backends = [\"127.0.0.1:{first}\", \"127.0.0.1:{second}\"]\n\
         [service.tls]\nlisten = [\"{SERVER}:{tls}\"]\n\
         certificates = [{{ certificate = {certificate:?}, key = {key:?} }}]\n{log}\
         [[service]]\nname = \"websockets\"\nmode = \"http\"\n\
         listen = [\"{SERVER}:{websocket}\"]\nbackends = [\"127.0.0.1:{ECHO}\"]\n{log}",
        state = dir.join("state"),
        control = dir.join("control.sock"),
        certificate = dir.join("bench.pem"),
        key = dir.join("bench.key"),
        plain = ports.plain,
        tls = ports.tls,
        websocket = ports.websocket,
    )
}
