//! Programs that make load, and what they say.

use super::super::net::{Net, SERVER};
use super::super::wrk;
use super::figure::{Reading, Unit};
use super::place::{client, load_program};
use super::ports::{Port, Proxy};
use super::process::{cpu_us, resident_kib};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// A proxy under load, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) net: &'a Net,
    pub(super) proxy: Proxy,
    pub(super) pid: u32,
    pub(super) seconds: u32,
}

impl Target<'_> {
    /// Where one of the proxy's ports is.
    pub(super) fn address(&self, port: Port) -> String {
        format!("{SERVER}:{}", self.proxy.port(port))
    }

    fn url(&self, port: Port) -> String {
        let scheme = match port {
            Port::Tls => "https",
            _ => "http",
        };
        format!("{scheme}://{}/", self.address(port))
    }

    /// Requests of a script over HTTP/1.1.
    pub(super) fn wrk(
        &self,
        port: Port,
        script: &Path,
        connections: u32,
        close: bool,
    ) -> Result<Reading> {
        let mut wrk = client(self.net, "wrk");
        wrk.args(["-t1", "--latency", "--timeout", "10s"])
            .args([format!("-c{connections}"), format!("-d{}s", self.seconds)]);
        if close {
            wrk.args(["-H", "Connection: close"]);
        }
        wrk.arg("-s").arg(script).arg(self.url(port));
        let (text, cpu) = self.with_cpu(&mut wrk)?;
        of_wrk(&text, cpu).with_context(|| format!("wrk said:\n{text}"))
    }

    /// Small answers over HTTP/2, so many requests at once on each connection.
    pub(super) fn h2load(&self, connections: u32, streams: u32, dir: &Path) -> Result<Reading> {
        let log = dir.join("h2load.log");
        // It appends.
        let _ = fs::remove_file(&log);
        let mut h2load = client(self.net, "h2load");
        h2load
            .args([format!("-c{connections}"), format!("-m{streams}")])
            .args(["-D", &self.seconds.to_string()])
            .arg(format!("--log-file={}", log.display()))
            .arg(self.url(Port::Tls));
        let (text, cpu) = self.with_cpu(&mut h2load)?;
        let log = fs::read_to_string(&log).context("read the times of h2load")?;
        of_h2load(&text, &log, cpu).with_context(|| format!("h2load said:\n{text}"))
    }

    /// One of the loads of our own.
    pub(super) fn own(&self, what: &str, port: Port, more: &[&str]) -> Result<Reading> {
        let mut load = client(self.net, load_program());
        load.args([what, &self.address(port)])
            .args(["--seconds", &self.seconds.to_string()])
            .args(more);
        let (text, cpu) = self.with_cpu(&mut load)?;
        of_own(&text, cpu)
    }

    /// What it says, and the microseconds that the proxy spent on it.
    fn with_cpu(&self, load: &mut Command) -> Result<(String, f64)> {
        let before = cpu_us(self.pid)?;
        let text = wrk::run(load)?;
        Ok((text, cpu_us(self.pid)? - before))
    }

    /// Memory of the proxy with so many idle connections, less that without.
    pub(super) fn idle(&self, port: Port, kind: &str, sockets: u32) -> Result<Reading> {
        let before = resident_kib(self.pid)?;
        let mut child = client(self.net, load_program())
            .args(["idle", &self.address(port), "--kind", kind])
            .args(["--sockets", &sockets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the load")?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        let read = output.read_line(&mut line);
        let after = resident_kib(self.pid);
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
}

fn of_wrk(text: &str, cpu: f64) -> Option<Reading> {
    let reading = wrk::parse(text)?;
    let figures = vec![
        (Unit::PerSecond, reading.requests_per_second),
        (Unit::P50Ms, percentile_ms(text, "50%")?),
        (Unit::P99Ms, percentile_ms(text, "99%")?),
        (Unit::CpuUs, cpu / requests(text)?),
    ];
    Some(Reading {
        figures,
        errors: reading.errors,
    })
}

fn of_own(text: &str, cpu: f64) -> Result<Reading> {
    let said: Value = serde_json::from_str(text).context("read what the load says")?;
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

fn of_h2load(text: &str, log: &str, cpu: f64) -> Option<Reading> {
    if !text.contains("Application protocol: h2\n") {
        return None;
    }
    let counts = text.lines().find(|line| line.starts_with("requests: "))?;
    let count = |name: &str| {
        let before = counts.split(name).next()?;
        before
            .split([' ', ','])
            .rfind(|word| !word.is_empty())?
            .parse::<u64>()
            .ok()
    };
    let (done, succeeded) = (count(" done")?, count(" succeeded")?);
    let finished = text.lines().find(|line| line.starts_with("finished in "))?;
    let per_second = finished.split(", ").nth(1)?.strip_suffix(" req/s")?;
    let third = |line: &str| line.split('\t').nth(2)?.parse::<f64>().ok();
    let mut times: Vec<f64> = log.lines().filter_map(third).collect();
    times.sort_by(f64::total_cmp);
    let ms = |part: usize| Some(times.get(times.len() * part / 100)? / 1000.0);
    let figures = vec![
        (Unit::PerSecond, per_second.parse().ok()?),
        (Unit::P50Ms, ms(50)?),
        (Unit::P99Ms, ms(99)?),
        (Unit::CpuUs, cpu / done as f64),
    ];
    Some(Reading {
        figures,
        errors: done - succeeded,
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
    fn h2load_is_read_and_another_protocol_is_not() {
        let text = "Application protocol: h2\nfinished in 1.00s, 1500.50 req/s, 20.00KB/s\n\
                    requests: 1600 total, 1550 started, 1501 done, 1500 succeeded, 1 failed, 1 errored\n";
        let log = "1\t200\t1000\n2\t200\t3000\n";
        let reading = of_h2load(text, log, 15_010.0).unwrap();
        let wanted = [
            (Unit::PerSecond, 1500.5),
            (Unit::P50Ms, 3.0),
            (Unit::P99Ms, 3.0),
            (Unit::CpuUs, 10.0),
        ];
        assert_eq!((reading.figures, reading.errors), (wanted.to_vec(), 1));
        assert!(of_h2load(&text.replace("h2\n", "http/1.1\n"), log, 1.0).is_none());
    }
}
