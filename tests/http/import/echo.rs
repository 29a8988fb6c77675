//! Backends that answer with the request as they saw it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use lb_tests::topology::hosts::Host;

/// The ports of the corpus.
const PORTS: [u16; 19] = [
    1337, 2368, 3000, 3001, 3002, 3009, 3010, 4000, 4180, 5000, 5001, 5002, 5003, 5004, 7001, 7002,
    8000, 8001, 8002,
];
/// The beginning of each answer.
const MARK: &str = "echo\n";
/// Headers that each proxy sends in its own way, and two whose values have no counterpart.
const OWN: [&str; 5] = [
    "connection",
    "content-length",
    "host",
    "x-email",
    "x-request-start",
];

/// Starts a backend on each port of `host`. They end with the process.
pub(crate) fn start(host: &Host) {
    for port in PORTS {
        let listener = host.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, port));
            }
        });
    }
}

/// The lines of an answer by [`start`]'s backends: port, request line, headers.
pub(crate) fn seen(body: &str) -> Option<Vec<String>> {
    let rest = body.strip_prefix(MARK)?;
    Some(rest.lines().map(str::to_owned).collect())
}

/// Answers one request. Those without the cookie `in=1` are refused on the port of a login.
fn serve(stream: TcpStream, port: u16) {
    let mut reader = BufReader::new(&stream);
    let mut lines = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            length = value.parse().unwrap_or(0);
        }
        if lines.is_empty() {
            let target = line.rsplit_once(' ').map_or(line, |(target, _)| target);
            lines.push(target.to_owned());
        } else if !OWN.contains(&name.as_str()) {
            lines.push(format!("{name}: {value}"));
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let is_refused = port == 4180
        && lines.first().is_some_and(|line| line.ends_with("/auth"))
        && !lines.iter().any(|line| line == "cookie: in=1");
    let status = if is_refused {
        "401 Unauthorized"
    } else {
        "200 OK"
    };
    // Both are backends of one upstream, and each proxy has its own choice among these.
    let port = if port == 8002 { 8001 } else { port };
    let text = format!("{MARK}port {port}\n{}\n", lines.join("\n"));
    let _ = write!(
        &stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nX-Powered-By: echo\r\nX-Auth-Request-User: ann\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
}
