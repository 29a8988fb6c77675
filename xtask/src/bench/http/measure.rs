//! What is measured, one proxy at a time.

use super::answer::Answer;
use super::check::Check;
use super::figure::{Reading, Unit};
use super::load::Target;
use super::pages::ZEROS;
use super::ports::{Port, Proxy};
use super::script::script;
use super::shape::Shape;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// A measurement, in the order in which they are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Measure {
    /// WebSockets that do nothing
    Idle,
    /// Connections that do nothing after a request
    IdleKeepAlive,
    /// Small answers on 64 connections that stay
    KeepAlive64,
    /// The same below a limit of requests
    Limited,
    /// Requests above their limit, answered with 429
    Refused,
    /// Small answers on 512 connections that stay
    KeepAlive512,
    /// A connection for each request
    PerRequest,
    /// POST of 300 bytes
    Post300,
    /// POST of 64 KiB
    Post64k,
    /// Answers in chunks
    Chunked,
    /// JSON of 5.5 KiB, compressed by the proxy
    Gzip,
    /// A header set on each request, another on each answer
    Rules,
    /// A client that is a trusted proxy
    Trusted,
    /// Stickiness by a cookie
    Cookie,
    /// Stickiness by the session of Socket.IO
    Sid,
    /// Of ten requests seven small GETs, a POST, an answer in chunks, and one compressed
    Mixed,
    /// Answers of 64 KiB
    Kib64,
    /// Answers of 10 MiB
    Mib10,
    /// Files of 1 KiB
    File1k,
    /// Files of 64 KiB
    File64k,
    /// Files of 10 MiB
    File10m,
    /// Files that the client has already
    File304,
    /// The first KiB of files of 64 KiB
    FileRange,
    /// Stored answers of 1 KiB
    Cached1k,
    /// Stored answers of 64 KiB
    Cached64k,
    /// Small answers over TLS on 64 connections that stay
    Tls64,
    /// Small answers over HTTP/2, one request at once on each of 64 connections
    H2One,
    /// The same with 100 requests at once on each of 8 connections
    H2Hundred,
    /// TLS handshakes from nothing
    FullHandshakes,
    /// TLS handshakes that resume a session
    Resumptions,
    /// Small WebSocket messages there and back, on 200 sockets
    Messages,
}

/// How much of it.
#[derive(Clone, Copy)]
pub(super) struct Amount {
    pub(super) seconds: u32,
    pub(super) idle_sockets: u32,
}

/// A measurement that can be taken of a proxy: it has been seen to answer as it should.
pub(super) struct Prepared {
    measure: Measure,
    /// The port that wrk asks.
    port: Port,
    /// For wrk.
    script: PathBuf,
    dir: PathBuf,
    /// What the check has measured, the same in each round.
    fixed: Vec<(Unit, f64)>,
}

impl Measure {
    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive64 => "keep-alive, 64 connections",
            Self::Limited => "below a limit, 64 connections",
            Self::Refused => "above a limit, 64 connections",
            Self::KeepAlive512 => "keep-alive, 512 connections",
            Self::PerRequest => "connection per request",
            Self::Post300 => "POST of 300 bytes",
            Self::Post64k => "POST of 64 KiB",
            Self::Chunked => "chunked answers",
            Self::Gzip => "JSON of 5.5 KiB by gzip",
            Self::Rules => "header rules each way",
            Self::Trusted => "from a trusted proxy",
            Self::Cookie => "sticky by cookie",
            Self::Sid => "sticky by Socket.IO sid",
            Self::Mixed => "mixed: 7 GET, POST, chunked, gzip",
            Self::Kib64 => "answers of 64 KiB",
            Self::Mib10 => "answers of 10 MiB",
            Self::File1k => "files of 1 KiB",
            Self::File64k => "files of 64 KiB",
            Self::File10m => "files of 10 MiB",
            Self::File304 => "files that are not modified",
            Self::FileRange => "ranges of files",
            Self::Cached1k => "stored answers of 1 KiB",
            Self::Cached64k => "stored answers of 64 KiB",
            Self::Tls64 => "TLS keep-alive, 64 connections",
            Self::H2One => "HTTP/2, 1 stream",
            Self::H2Hundred => "HTTP/2, 100 streams",
            Self::FullHandshakes => "full TLS handshakes",
            Self::Resumptions => "resumed TLS handshakes",
            Self::Messages => "WebSocket messages",
            Self::Idle => "idle WebSockets (10,000 where files allow)",
            Self::IdleKeepAlive => "idle keep-alive connections (the same)",
        }
    }

    /// Whether it is of memory: what was once taken is not given back, so that it is measured once, of
    /// a proxy that has not done anything else yet.
    pub(super) fn is_of_memory(self) -> bool {
        matches!(self, Self::Idle | Self::IdleKeepAlive)
    }

    /// Whether it is of requests that are refused, whose answers are no errors then.
    const fn is_of_refusals(self) -> bool {
        matches!(self, Self::Refused)
    }

    /// Whether `proxy` can do it: HAProxy and Varnish have no files, h2o and Caddy no cache.
    /// The others are reverse proxies that are set up for all else.
    pub(super) fn is_done_by(self, proxy: Proxy) -> bool {
        match self {
            Self::File1k | Self::File64k | Self::File10m | Self::File304 | Self::FileRange => {
                !matches!(proxy, Proxy::Haproxy | Proxy::Varnish)
            }
            Self::Cached1k | Self::Cached64k => !matches!(proxy, Proxy::H2o | Proxy::Caddy),
            _ => matches!(proxy, Proxy::Nginx | Proxy::Haproxy | Proxy::Agent),
        }
    }

    /// Asks a proxy for each kind of request that is to be measured.
    pub(super) fn prepare(self, check: &Check<'_>) -> Result<Prepared> {
        let shapes = match self {
            Self::Cookie => vec![check.cookie()?],
            Self::Sid => vec![check.session()?],
            Self::File304 => vec![check.known(ZEROS[0])?],
            _ => self.shapes(),
        };
        if self.is_of_refusals() {
            // The first one may pass.
            shapes.iter().try_for_each(|shape| check.exhaust(shape))?;
        }
        let answers = shapes.iter().map(|shape| check.ask(shape));
        let answers = answers.collect::<Result<Vec<Answer>>>()?;
        let fixed = match (self, &answers[..]) {
            (Self::Gzip, [answer]) => vec![(Unit::Compressed, answer.body.len() as f64)],
            _ => Vec::new(),
        };
        let file = check.dir.join(format!("{}.lua", check.proxy.name()));
        if !shapes.is_empty() {
            fs::write(&file, script(&shapes)).context("write a script")?;
        }
        Ok(Prepared {
            measure: self,
            port: shapes.first().map_or(Port::Plain, |shape| shape.port),
            script: file,
            dir: check.dir.to_owned(),
            fixed,
        })
    }

    /// The requests that wrk sends; handshakes, HTTP/2 and WebSockets are checked by their own loads.
    fn shapes(self) -> Vec<Shape> {
        let [kib1, kib64, mib10] = ZEROS;
        vec![match self {
            Self::KeepAlive64 | Self::KeepAlive512 | Self::PerRequest | Self::IdleKeepAlive => {
                Shape::small(Port::Plain)
            }
            Self::Limited => Shape::small(Port::Limited),
            Self::Refused => Shape::refused(),
            Self::Post300 => Shape::post(300),
            Self::Post64k => Shape::post(64 << 10),
            Self::Chunked => Shape::chunked(),
            Self::Gzip => Shape::compressed(),
            Self::Rules => Shape::rules(),
            Self::Trusted => Shape::trusted(),
            Self::Kib64 => Shape::zeros(kib64),
            Self::Mib10 => Shape::zeros(mib10),
            Self::File1k => Shape::file(kib1),
            Self::File64k => Shape::file(kib64),
            Self::File10m => Shape::file(mib10),
            Self::FileRange => Shape::part(kib64, 1 << 10),
            Self::Cached1k => Shape::cached(kib1),
            Self::Cached64k => Shape::cached(kib64),
            Self::Tls64 | Self::H2One | Self::H2Hundred => Shape::small(Port::Tls),
            Self::Mixed => return Shape::mixed(),
            Self::Cookie | Self::Sid | Self::File304 => return Vec::new(),
            Self::FullHandshakes | Self::Resumptions | Self::Messages | Self::Idle => {
                return Vec::new();
            }
        }]
    }

    fn connections(self) -> u32 {
        match self {
            Self::KeepAlive512 => 512,
            Self::Mib10 | Self::File10m => 8,
            _ => 64,
        }
    }
}

impl Prepared {
    /// Measures the proxy.
    pub(super) fn take(&self, target: &Target<'_>, idle_sockets: u32) -> Result<Reading> {
        let measure = self.measure;
        let mut reading = match measure {
            Measure::FullHandshakes => target.own("handshakes", Port::Tls, &[]),
            Measure::Resumptions => target.own("handshakes", Port::Tls, &["--resume"]),
            Measure::Messages => target.own("websockets", Port::WebSocket, &[]),
            Measure::Idle => target.idle(Port::WebSocket, "websocket", idle_sockets),
            Measure::IdleKeepAlive => target.idle(Port::Plain, "keep-alive", idle_sockets),
            Measure::H2One => target.h2load(64, 1, &self.dir),
            Measure::H2Hundred => target.h2load(8, 100, &self.dir),
            _ => target.wrk(
                self.port,
                &self.script,
                measure.connections(),
                measure == Measure::PerRequest,
            ),
        }?;
        reading.figures.extend_from_slice(&self.fixed);
        if measure.is_of_refusals() {
            reading.errors = 0;
        }
        Ok(reading)
    }
}
