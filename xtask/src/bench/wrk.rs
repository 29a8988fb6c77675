//! Load: wrk, and what it says.

use anyhow::{Context, Result, bail, ensure};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Connections that wrk keeps busy.
pub(super) const CONNECTIONS: u32 = 64;

/// Set by Ctrl-C, looked at while waiting.
pub(super) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a connection is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    KeepAlive,
    PerRequest,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::KeepAlive, Self::PerRequest];

    /// Its name in tables and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::PerRequest => "connection per request",
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Reading {
    pub(super) requests_per_second: f64,
    /// Connections that failed, and answers other than 2xx and 3xx.
    pub(super) errors: u64,
}

/// Runs `wrk`, a command without arguments, for some seconds.
pub(super) fn measure(mut wrk: Command, kind: Kind, seconds: u32, url: &str) -> Result<Reading> {
    wrk.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")]);
    if kind == Kind::PerRequest {
        wrk.args(["-H", "Connection: close"]);
    }
    let text = run(wrk.arg(url))?;
    parse(&text).with_context(|| format!("wrk to {url} said:\n{text}"))
}

/// Runs a program that makes load, and returns what it says.
pub(super) fn run(load: &mut Command) -> Result<String> {
    let mut child = load
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {load:?}"))?;
    let finished = wait(&mut child);
    if finished.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    finished?;
    let mut text = String::new();
    let mut output = child.stdout.take().context("no output")?;
    output
        .read_to_string(&mut text)
        .context("read what the load says")?;
    Ok(text)
}

/// Waits for the load, or for Ctrl-C.
fn wait(child: &mut Child) -> Result<()> {
    loop {
        if let Some(status) = child.try_wait().context("wait for the load")? {
            ensure!(status.success(), "the load failed ({status})");
            return Ok(());
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        sleep(Duration::from_millis(20));
    }
}

/// Reads the last lines of wrk's report.
pub(super) fn parse(text: &str) -> Option<Reading> {
    let after = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name));
    let requests_per_second = after("Requests/sec:")?.trim().parse().ok()?;
    let socket_errors: u64 = after("Socket errors:").map_or(0, |line| {
        line.split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse::<u64>().ok())
            .sum()
    });
    let refusals = after("Non-2xx or 3xx responses:").map_or(Some(0), |n| n.trim().parse().ok())?;
    Some(Reading {
        requests_per_second,
        errors: socket_errors + refusals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 3s test @ http://10.213.0.1:5000/\n  1 threads and 64 connections\n\
        \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   418.05us\n\
        \x20 441371 requests in 3.00s, 66.51MB read\n";

    #[test]
    fn requests_per_second_are_read() {
        let text = format!("{REPORT}Requests/sec: 147102.45\nTransfer/sec:     22.17MB\n");
        let reading = Reading {
            requests_per_second: 147_102.45,
            errors: 0,
        };
        assert_eq!(parse(&text), Some(reading));
        assert_eq!(parse(REPORT), None);
    }

    #[test]
    fn socket_errors_and_refusals_are_added_up() {
        let text = format!(
            "{REPORT}  Socket errors: connect 1, read 20, write 0, timeout 300\n  \
             Non-2xx or 3xx responses: 4000\nRequests/sec:     12.00\n"
        );
        assert_eq!(parse(&text).map(|reading| reading.errors), Some(4321));
    }
}
