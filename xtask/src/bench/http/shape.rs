//! Requests of each shape, and what the answer to each has to be.

use super::answer::Answer;
use super::pages;
use super::ports::Port;
use anyhow::{Result, ensure};
use std::path::Path;

/// The client that requests claim to be from, for proxies that trust them.
const CLAIMED: &str = "192.0.2.7";

/// A request: GET, or POST where it has a body.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) port: Port,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Bytes of the body; 0 for a GET.
    pub(super) body: usize,
    expected: Expected,
}

#[derive(Clone, Debug)]
enum Expected {
    /// This text, with its length.
    Text(String),
    /// So many bytes.
    Size(usize),
    /// The page of the backend that has no length.
    Chunked,
    /// The JSON, compressed.
    Compressed,
    /// A header was set on the request and another on the answer.
    Rules,
    /// The backend was told the client that the trusted proxy named.
    Client,
    /// 304, and so no body.
    NotModified,
    /// 429.
    Refused,
    /// A part of so many bytes.
    Part(usize),
    /// Something from a backend. That it is always the same one is looked at by itself.
    Backend,
}

impl Shape {
    fn new(port: Port, path: &str, expected: Expected) -> Self {
        Self {
            port,
            path: path.to_owned(),
            headers: Vec::new(),
            body: 0,
            expected,
        }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// GET with an answer of two bytes.
    pub(super) fn small(port: Port) -> Self {
        Self::new(port, "/", Expected::Text("ok".to_owned()))
    }

    /// GET of one of the pages of zeros.
    pub(super) fn zeros((name, bytes): (&str, usize)) -> Self {
        Self::new(Port::Plain, &format!("/{name}"), Expected::Size(bytes))
    }

    /// GET of one of the same as a file.
    pub(super) fn file((name, bytes): (&str, usize)) -> Self {
        Self::new(Port::Files, &format!("/{name}"), Expected::Size(bytes))
    }

    /// GET of an answer that the proxy has stored.
    pub(super) fn cached((name, bytes): (&str, usize)) -> Self {
        Self::new(Port::Cached, &format!("/{name}"), Expected::Size(bytes))
    }

    /// GET of a file that the client has already.
    pub(super) fn not_modified((name, _): (&str, usize), tag: &str) -> Self {
        Self::new(Port::Files, &format!("/{name}"), Expected::NotModified)
            .with("If-None-Match", tag)
    }

    /// GET of the first bytes of a file.
    pub(super) fn part((name, _): (&str, usize), bytes: usize) -> Self {
        Self::new(Port::Files, &format!("/{name}"), Expected::Part(bytes))
            .with("Range", &format!("bytes=0-{}", bytes - 1))
    }

    /// GET that is above its limit.
    pub(super) fn refused() -> Self {
        Self::new(Port::Refused, "/", Expected::Refused)
    }

    /// POST of so many bytes.
    pub(super) fn post(bytes: usize) -> Self {
        let mut shape = Self::new(Port::Plain, "/post", Expected::Text(bytes.to_string()));
        shape.body = bytes;
        shape.with("Content-Type", "application/json")
    }

    /// GET of an answer in chunks.
    pub(super) fn chunked() -> Self {
        Self::new(Port::Plain, "/chunked", Expected::Chunked)
    }

    /// GET of an answer that is to be compressed.
    pub(super) fn compressed() -> Self {
        Self::new(Port::Plain, "/items.json", Expected::Compressed).with("Accept-Encoding", "gzip")
    }

    /// GET under header rules.
    pub(super) fn rules() -> Self {
        Self::new(Port::Rules, "/seen", Expected::Rules)
    }

    /// GET from a proxy that is trusted.
    pub(super) fn trusted() -> Self {
        Self::new(Port::Trusted, "/seen", Expected::Client).with("X-Forwarded-For", CLAIMED)
    }

    /// GET of a browser that has no cookie yet.
    pub(super) fn newcomer() -> Self {
        Self::new(Port::Cookie, "/seen", Expected::Backend)
    }

    /// GET with a cookie.
    pub(super) fn cookie(pair: &str) -> Self {
        Self::newcomer().with("Cookie", pair)
    }

    /// The beginning of a Socket.IO session.
    pub(super) fn handshake() -> Self {
        let path = "/socket.io/?EIO=4&transport=polling";
        Self::new(Port::SocketIo, path, Expected::Backend)
    }

    /// A poll of that session.
    pub(super) fn poll(sid: &str) -> Self {
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        Self::new(Port::SocketIo, &path, Expected::Backend)
    }

    /// Ten requests as an application gets them.
    pub(super) fn mixed() -> Vec<Self> {
        let mut mix = vec![Self::small(Port::Plain); 7];
        mix.insert(2, Self::post(300));
        mix.insert(5, Self::chunked());
        mix.insert(8, Self::compressed());
        mix
    }

    pub(super) fn method(&self) -> &'static str {
        if self.body == 0 { "GET" } else { "POST" }
    }

    /// Its bytes, after which the server is to close the connection.
    pub(super) fn bytes(&self, host: &str) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n",
            self.method(),
            self.path
        );
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if self.body > 0 {
            text += &format!("Content-Length: {}\r\n", self.body);
        }
        text += "\r\n";
        text += &"x".repeat(self.body);
        text.into_bytes()
    }

    /// Fails unless the proxy has done all that it is measured for. `dir` takes a temporary file.
    pub(super) fn check(&self, answer: &Answer, dir: &Path) -> Result<()> {
        let status = match self.expected {
            Expected::NotModified => 304,
            Expected::Part(_) => 206,
            Expected::Refused => 429,
            _ => 200,
        };
        ensure!(answer.status == status, "status {}", answer.status);
        let text = String::from_utf8_lossy(&answer.body);
        let is_as_expected = match &self.expected {
            Expected::Text(wanted) => text == *wanted && answer.has_length(),
            Expected::NotModified => text.is_empty(),
            Expected::Refused => answer.has_length(),
            Expected::Size(bytes) | Expected::Part(bytes) => {
                answer.body.len() == *bytes && answer.has_length()
            }
            Expected::Chunked => text == pages::chunked() && answer.is_chunked(),
            Expected::Compressed => {
                answer.header("content-encoding") == Some("gzip")
                    && answer.unzip(dir)? == pages::json()
            }
            Expected::Rules => {
                text.starts_with("rule=in ") && answer.header("x-bench-out") == Some("out")
            }
            Expected::Client => text.contains(&format!(" client={CLAIMED} for={CLAIMED}, ")),
            Expected::Backend => answer.backend().is_some() || text.starts_with("0{"),
        };
        ensure!(
            is_as_expected,
            "not the answer that was expected ({:?}): {answer:?}",
            self.expected
        );
        Ok(())
    }
}
