//! One HTTP exchange by hand, to the byte.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::http;
use crate::topology::hosts::Host;

/// A parsed HTTP response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its header lines; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

/// Sends `bytes` from a host's address, and reads until the connection ends.
#[track_caller]
pub fn raw(host: &Host, from: IpAddr, to: SocketAddr, bytes: &[u8]) -> String {
    host.run(|| {
        let mut stream = http::connect(from, to).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is not of interest here.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
}

/// `METHOD TARGET` with these header lines, on a connection of its own.
#[track_caller]
pub fn ask(host: &Host, from: IpAddr, to: SocketAddr, what: &str, lines: &[&str]) -> Reply {
    let mut request = format!("{what} HTTP/1.1\r\nConnection: close\r\n");
    if !lines.iter().any(|line| line.starts_with("Host:")) {
        request.push_str("Host: test\r\n");
    }
    for line in lines {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    Reply::parse(&raw(host, from, to, request.as_bytes()))
}

impl Reply {
    /// Parses a response into status, headers and body.
    #[track_caller]
    pub fn parse(answer: &str) -> Self {
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap_or_default().split(' ').nth(1);
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Self {
            status: status.and_then(|status| status.parse().ok()).unwrap_or(0),
            headers: lines.filter_map(header).collect(),
            body: body.to_owned(),
        }
    }

    /// The value of a header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The body as JSON, which an application sent.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The port of the copy that answered `/id`.
    #[track_caller]
    pub fn port(&self) -> u64 {
        self.json()["port"].as_u64().unwrap()
    }
}
