//! The configuration of every program on the server host.
//!
//! The balancers are set up alike: one process, one thread, the same two backends, chosen by the
//! client's address.

use super::net::{BACKENDS, SERVER};
use super::ways::Way;
use std::path::Path;

/// Where Debian has the stream module. Elsewhere it is part of nginx.
pub(super) const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A backend on these addresses: one process, and the shortest of answers, so that the path to it
/// weighs most.
pub(super) fn backend(port: u16, addresses: &[&str]) -> String {
    let listen = |address: &&str| format!("listen {address}:{port} backlog=8192; ");
    let listen: String = addresses.iter().map(listen).collect();
    format!(
        "{}http {{ access_log off; keepalive_requests 1000000000; server {{ \
         {listen}location / {{ return 200 ok; }} }} }}\n",
        nginx(&format!("backend-{port}"))
    )
}

/// nginx as a balancer.
pub(super) fn stream() -> String {
    let module = if Path::new(STREAM_MODULE).exists() {
        format!("load_module {STREAM_MODULE};\n")
    } else {
        String::new()
    };
    let [first, second] = BACKENDS;
    format!(
        "{module}{}\
         stream {{\n  \
           upstream web {{\n    \
             hash $remote_addr consistent;\n    \
             server 127.0.0.1:{first};\n    \
             server 127.0.0.1:{second};\n  \
           }}\n  \
           server {{ listen {SERVER}:{port} backlog=8192; proxy_pass web; }}\n\
         }}\n",
        nginx("stream"),
        port = Way::Nginx.port()
    )
}

/// What every nginx here has in common.
pub(super) fn nginx(name: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {name}.pid;\n\
         error_log stderr warn;\nevents {{ worker_connections 8192; }}\n"
    )
}

/// HAProxy as a balancer.
pub(super) fn haproxy() -> String {
    let [first, second] = BACKENDS;
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen web\n  bind {SERVER}:{port} backlog 8192\n  balance source\n  \
         hash-type consistent\n  \
         server first 127.0.0.1:{first}\n  server second 127.0.0.1:{second}\n",
        port = Way::Haproxy.port()
    )
}

/// lb-agent, attached to a cgroup.
pub(super) fn agent(dir: &Path, pin_dir: &Path, cgroup: &Path, listen: &str) -> String {
    let [first, second] = BACKENDS;
    format!(
        "{settings}cgroup = {cgroup:?}\n\
         [[service]]\nname = \"web\"\nlisten = [\"{listen}:{port}\"]\n\
         backends = [\"127.0.0.1:{first}\", \"127.0.0.1:{second}\"]\n",
        settings = super::agent::settings(dir, pin_dir),
        port = Way::Steered.port()
    )
}
