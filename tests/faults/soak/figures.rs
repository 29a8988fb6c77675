//! The agent's counters, which never go backwards, and its size.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use lb_tests::prog_run;
use serde_json::Value;

use crate::judge::Disruption;

/// All counters as they were last.
#[derive(Default)]
pub(crate) struct Counters {
    /// Counters that only the kernel keeps outlive the agent.
    kernel: BTreeMap<String, u64>,
    /// The others, and by which agent.
    own: BTreeMap<String, u64>,
    pid: u32,
}

impl Counters {
    /// None is smaller than the last time.
    pub(crate) fn check(&mut self, stats: &Value, pid: u32, disruption: &Disruption) {
        let (kernel, mut own) = of_services(stats);
        grows(&self.kernel, &kernel, disruption);
        own.extend(of_backends(stats, disruption));
        if self.pid == pid {
            grows(&self.own, &own, disruption);
        }
        (self.kernel, self.own, self.pid) = (kernel, own, pid);
    }
}

fn grows(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>, disruption: &Disruption) {
    for (name, value) in now {
        let before = before.get(name).copied().unwrap_or(0);
        let what = &disruption.what;
        assert!(
            *value >= before,
            "{what}: {name} went from {before} to {value}"
        );
    }
}

fn rows<'a>(stats: &'a Value, part: &str) -> impl Iterator<Item = &'a Value> {
    stats[part].as_array().into_iter().flatten()
}

/// Counters of services and packets, in the kernel and by the agent.
fn of_services(stats: &Value) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (mut kernel, mut own) = (BTreeMap::new(), BTreeMap::new());
    let mut add = |service: &Value, name: &str, value: &Value| {
        // If the agent chooses backends, it counts too, for as long as it lives.
        let by_agent = service == "app" || service == "six";
        let all = if by_agent { &mut own } else { &mut kernel };
        if let Some(value) = value.as_u64() {
            all.insert(format!("{service} {name}"), value);
        }
    };
    for service in rows(&stats["status"], "services") {
        for (name, value) in service["counters"].as_object().into_iter().flatten() {
            add(&service["name"], name, value);
        }
    }
    for row in rows(stats, "clients") {
        for name in ["new", "moved"] {
            add(&row["service"], name, &row[name]);
        }
    }
    let packets = &stats["status"]["agent"]["packets"]["figures"]["packets"];
    for count in packets.as_array().into_iter().flatten() {
        add(&Value::Null, &count[0].to_string(), &count[1]);
    }
    (kernel, own)
}

fn of_backends(stats: &Value, disruption: &Disruption) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for row in rows(stats, "traffic") {
        let backend = row["backend"].as_str().unwrap_or_default();
        let port = backend
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok());
        // One that was removed and added begins anew.
        if !backend.contains(":50") || port.is_none_or(|port| disruption.renews(port)) {
            continue;
        }
        for (name, value) in row.as_object().into_iter().flatten() {
            if name != "active"
                && let Some(value) = value.as_u64()
            {
                all.insert(format!("{backend} {} {name}", row["path"]), value);
            }
        }
    }
    for family in rows(stats, "families").filter(|family| family["kind"] == "counter") {
        for sample in rows(family, "samples") {
            let value = sample["value"].as_f64().unwrap_or(0.0) as u64;
            all.insert(format!("{} {}", family["name"], sample["labels"]), value);
        }
    }
    all
}

/// How large an agent is.
pub(crate) struct Size {
    fds: u64,
    bytes: u64,
    threads: u64,
    pinned: usize,
}

impl Size {
    pub(crate) fn of(stats: &Value, pins: &Path) -> Self {
        let number = |name: &str| stats["process"][name].as_u64().unwrap();
        Self {
            fds: number("open_fds"),
            bytes: number("resident_bytes"),
            threads: number("threads"),
            pinned: prog_run::pinned(pins).len(),
        }
    }

    /// Whether this exceeds `before` by no more than a margin.
    pub(crate) fn fits(&self, before: &Self) -> bool {
        assert_eq!(self.pinned, before.pinned, "pins are left over");
        self.fds <= before.fds + 8
            && self.bytes <= before.bytes + (32 << 20)
            && self.threads <= before.threads + 4
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fds,
            bytes,
            threads,
            pinned,
        } = self;
        let kib = bytes / 1024;
        write!(
            f,
            "{fds} descriptors, {kib} KiB, {threads} threads, {pinned} pinned objects"
        )
    }
}
