//! What is measured, one proxy at a time.

use super::super::net::{Host, Net, SERVER};
use super::super::wrk;
use super::proxies::{Place, Proxies, Proxy, command, load_program};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// A measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Measure {
    /// Small answers on 64 connections that stay
    KeepAlive64,
    /// Small answers on 512 connections that stay
    KeepAlive512,
    /// A connection for each request
    PerRequest,
    /// Answers of 64 KiB
    Kib64,
    /// Answers of 10 MiB
    Mib10,
    /// TLS handshakes from nothing
    FullHandshakes,
    /// TLS handshakes that resume a session
    Resumptions,
    /// Small WebSocket messages there and back, on 200 sockets
    Messages,
    /// WebSockets that do nothing
    Idle,
}

/// What a figure is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    PerSecond,
    P50Ms,
    P99Ms,
    CpuUs,
    KibPerSocket,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "per second",
            Self::P50Ms => "p50, ms",
            Self::P99Ms => "p99, ms",
            Self::CpuUs => "CPU of the proxy, us",
            Self::KibPerSocket => "KiB for a socket",
        }
    }

    /// Whether more of it is better.
    pub(super) fn is_gain(self) -> bool {
        self == Self::PerSecond
    }
}

/// What came of one measurement.
pub(super) struct Reading {
    pub(super) figures: Vec<(Unit, f64)>,
    pub(super) errors: u64,
}

/// How much of it.
#[derive(Clone, Copy)]
pub(super) struct Amount {
    pub(super) seconds: u32,
    pub(super) idle_sockets: u32,
}

impl Measure {
    /// All of them, in their order: memory first, as it must be that of proxies which have not done
    /// anything else yet.
    pub(super) const ALL: [Self; 9] = [
        Self::Idle,
        Self::KeepAlive64,
        Self::KeepAlive512,
        Self::PerRequest,
        Self::Kib64,
        Self::Mib10,
        Self::FullHandshakes,
        Self::Resumptions,
        Self::Messages,
    ];

    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive64 => "keep-alive, 64 connections",
            Self::KeepAlive512 => "keep-alive, 512 connections",
            Self::PerRequest => "connection per request",
            Self::Kib64 => "answers of 64 KiB",
            Self::Mib10 => "answers of 10 MiB",
            Self::FullHandshakes => "full TLS handshakes",
            Self::Resumptions => "resumed TLS handshakes",
            Self::Messages => "WebSocket messages",
            Self::Idle => "idle WebSockets (10,000 where files allow)",
        }
    }

    /// Whether it can be measured again: memory that was once taken is not given back.
    pub(super) fn repeats(self) -> bool {
        self != Self::Idle
    }

    /// Measures one proxy.
    pub(super) fn take(
        self,
        net: &Net,
        proxies: &Proxies<'_>,
        proxy: Proxy,
        amount: Amount,
    ) -> Result<Reading> {
        let pid = proxies.pid(proxy)?;
        let ports = proxy.ports();
        let seconds = amount.seconds;
        let plain = |path: &str| format!("http://{SERVER}:{}{path}", ports.plain);
        let requests = |connections: u32, path: &str, close: bool| {
            let mut wrk = command(net, Host::Client, Place::Others, Path::new("wrk"));
            wrk.args(["-t1", "--latency", "--timeout", "10s"])
                .args([format!("-c{connections}"), format!("-d{seconds}s")]);
            if close {
                wrk.args(["-H", "Connection: close"]);
            }
            wrk.arg(plain(path));
            of_wrk(wrk, pid)
        };
        let load = |what: &str, port: u16| {
            let mut load = command(net, Host::Client, Place::Others, &load_program());
            load.arg(what).arg(format!("{SERVER}:{port}"));
            load
        };
        let timed = |what: &str, port: u16, more: &[&str]| {
            let mut load = load(what, port);
            load.args(["--seconds", &seconds.to_string()]).args(more);
            of_load(load, pid)
        };
        match self {
            Self::KeepAlive64 => requests(64, "/", false),
            Self::KeepAlive512 => requests(512, "/", false),
            Self::PerRequest => requests(64, "/", true),
            Self::Kib64 => requests(64, "/64k", false),
            Self::Mib10 => requests(8, "/10m", false),
            Self::FullHandshakes => timed("handshakes", ports.tls, &[]),
            Self::Resumptions => timed("handshakes", ports.tls, &["--resume"]),
            Self::Messages => timed("websockets", ports.websocket, &[]),
            Self::Idle => idle(load("idle", ports.websocket), pid, amount.idle_sockets),
        }
    }
}

fn of_wrk(wrk: Command, pid: u32) -> Result<Reading> {
    let before = cpu_us(pid)?;
    let text = wrk::run(wrk)?;
    let cpu = cpu_us(pid)? - before;
    let read = || {
        let reading = wrk::parse(&text)?;
        let requests = requests(&text)?;
        let figures = vec![
            (Unit::PerSecond, reading.requests_per_second),
            (Unit::P50Ms, percentile_ms(&text, "50%")?),
            (Unit::P99Ms, percentile_ms(&text, "99%")?),
            (Unit::CpuUs, cpu / requests),
        ];
        Some(Reading {
            figures,
            errors: reading.errors,
        })
    };
    read().with_context(|| format!("wrk said:\n{text}"))
}

fn of_load(load: Command, pid: u32) -> Result<Reading> {
    let before = cpu_us(pid)?;
    let text = wrk::run(load)?;
    let cpu = cpu_us(pid)? - before;
    let said: Value = serde_json::from_str(&text).context("read what the load says")?;
    let number = |name: &str| {
        said[name]
            .as_f64()
            .with_context(|| format!("no {name}: {said}"))
    };
    let figures = vec![
        (Unit::PerSecond, number("per_second")?),
        (Unit::CpuUs, cpu / number("count")?),
    ];
    Ok(Reading {
        figures,
        errors: said["errors"].as_u64().unwrap_or(0),
    })
}

/// Memory of the proxy with so many sockets open, less that without.
fn idle(mut load: Command, pid: u32, sockets: u32) -> Result<Reading> {
    let before = resident_kib(pid)?;
    let mut child = load
        .args(["--sockets", &sockets.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the load")?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    let read = output.read_line(&mut line);
    let after = resident_kib(pid);
    // The end of its input ends it.
    drop(child.stdin.take());
    let status = child.wait().context("wait for the load")?;
    drop(output);
    read.context("read what the load says")?;
    anyhow::ensure!(line.trim() == "open", "the load said {line:?} ({status})");
    let each = (after? - before) / f64::from(sockets);
    Ok(Reading {
        figures: vec![(Unit::KibPerSocket, each)],
        errors: 0,
    })
}

/// The number in "441371 requests in 3.00s".
fn requests(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The number in "    99%    1.20ms".
fn percentile_ms(text: &str, percent: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(percent))?;
    let line = line.trim();
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)] {
        if let Some(number) = line.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}

/// What all threads of a process have spent on a processor so far, in microseconds.
fn cpu_us(pid: u32) -> Result<f64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("read the threads of a proxy")?;
    let mut ns = 0.0;
    for task in tasks.flatten() {
        // A thread that has just ended has no figures any more.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let spent = text
            .split(' ')
            .next()
            .and_then(|first| first.parse::<f64>().ok());
        ns += spent.unwrap_or(0.0);
    }
    Ok(ns / 1000.0)
}

/// The memory of a process that is in RAM.
fn resident_kib(pid: u32) -> Result<f64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("read a proxy's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .context("no VmRSS in a proxy's status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read_in_every_unit() {
        let text = "  Latency Distribution\n     50%  418.00us\n     75%    1.20ms\n     \
                    90%    2.00s\n     99%    1.50m\n  441371 requests in 3.00s, 66.51MB read\n";
        assert_eq!(percentile_ms(text, "50%"), Some(0.418));
        assert_eq!(percentile_ms(text, "75%"), Some(1.2));
        assert_eq!(percentile_ms(text, "90%"), Some(2000.0));
        assert_eq!(percentile_ms(text, "99%"), Some(90_000.0));
        assert_eq!(requests(text), Some(441_371.0));
    }

    #[test]
    fn a_process_has_used_time_and_memory() {
        let me = std::process::id();
        assert!(cpu_us(me).unwrap() > 0.0);
        assert!(resident_kib(me).unwrap() > 0.0);
    }
}
