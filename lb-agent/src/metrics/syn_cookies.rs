//! The kernel's counts of SYN cookies, as metrics.

use std::fs;

use super::Source;
use crate::control::stats::{Family, Kind};

/// The kernel's counts of this network namespace.
pub struct Counts;

impl Source for Counts {
    fn families(&self) -> Vec<Family> {
        let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default();
        vec![family(&text)]
    }
}

/// The counts in a table of /proc/net/netstat: a line of names, and below it one of numbers.
pub(super) fn family(netstat: &str) -> Family {
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let count = |name: &str| {
        let mut both = names.split(' ').zip(values.split(' '));
        let found = both.find(|(other, _)| *other == name);
        found.and_then(|(_, value)| value.parse().ok())
    };
    let family = Family::new(
        Kind::Counter,
        "lb_agent_syn_cookies",
        "SYN cookies of this network namespace's listeners, without those sent at the driver",
    );
    [
        ("sent", "SyncookiesSent"),
        ("accepted", "SyncookiesRecv"),
        ("failed", "SyncookiesFailed"),
    ]
    .into_iter()
    .fold(family, |family, (event, name)| {
        family.with(&[("event", event)], count(name).unwrap_or(0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_their_names() {
        let text = "TcpExt: SyncookiesSent SyncookiesRecv Other SyncookiesFailed\nTcpExt: 7 5 9 2\n\
                    IpExt: InNoRoutes\nIpExt: 3\n";
        let values = |text| {
            family(text)
                .samples
                .iter()
                .map(|s| s.value)
                .collect::<Vec<_>>()
        };
        assert_eq!(values(text), [7.0, 5.0, 2.0]);
        assert_eq!(values(""), [0.0; 3]);
    }
}
