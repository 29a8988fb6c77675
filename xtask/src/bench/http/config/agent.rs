//! lb-agent as a reverse proxy.

use super::super::super::agent::settings;
use super::super::super::net::{BACKENDS, SERVER};
use super::super::ports::{ECHO, Port, Proxy};
use super::CLIENTS;
use std::fmt::Write as _;
use std::path::Path;

/// Its configuration.
pub(in super::super) fn agent(dir: &Path, pin_dir: &Path) -> String {
    let [first, second] = BACKENDS;
    let two = format!("\"127.0.0.1:{first}\", \"127.0.0.1:{second}\"");
    let echo = format!("\"127.0.0.1:{ECHO}\"");
    let tls = format!(
        "[service.tls]\nlisten = [\"{SERVER}:{}\"]\n\
         certificates = [{{ certificate = {:?}, key = {:?} }}]\n",
        Proxy::Agent.port(Port::Tls),
        dir.join("bench.pem"),
        dir.join("bench.key"),
    );
    let rules = "request_headers = [{ set = \"X-Bench\", value = \"in\" }]\n\
                 response_headers = [{ set = \"X-Bench-Out\", value = \"out\" }]\n";
    let files = format!(
        "[[service.route]]\npath = \"/\"\nfiles = {:?}\n",
        dir.join("pages")
    );
    let limit = |rate: &str| format!("[[service.limit]]\nrate = \"{rate}\"\n");
    let mut text = settings(dir, pin_dir) + "l7_workers = 1\n";
    for (name, port, backends, http, more) in [
        ("web", Port::Plain, &two, "", tls.as_str()),
        ("rules", Port::Rules, &two, rules, ""),
        (
            "trusted",
            Port::Trusted,
            &two,
            &format!("trusted_proxies = [\"{CLIENTS}\"]\n"),
            "",
        ),
        (
            "cookie",
            Port::Cookie,
            &two,
            "stickiness = { cookie = \"lb\" }\n",
            "",
        ),
        (
            "socketio",
            Port::SocketIo,
            &two,
            "stickiness = \"socketio\"\n",
            "",
        ),
        ("websockets", Port::WebSocket, &echo, "", ""),
        ("files", Port::Files, &String::new(), "", &files),
        ("cached", Port::Cached, &two, "", "[service.http.cache]\n"),
        ("limited", Port::Limited, &two, "", &limit("1000000/1s")),
        ("refused", Port::Refused, &two, "", &limit("1/1h")),
    ] {
        let _ = write!(
            text,
            "[[service]]\nname = \"{name}\"\nmode = \"http\"\nlisten = [\"{SERVER}:{port}\"]\n\
             backends = [{backends}]\n[service.http]\n{http}{more}\
             [service.http.compression]\nalgorithms = [\"gzip\"]\n\
             [service.http.access_log]\nfile = {log:?}\n",
            port = Proxy::Agent.port(port),
            log = dir.join("agent-access.log"),
        );
    }
    text
}
