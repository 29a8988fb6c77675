//! Rules of a firewall that packets of the packet paths do not meet: the programs take these packets at the
//! driver or right behind it, before netfilter sees them.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::Finding;
use super::rights::Rights;
use crate::dataplane;
use lb_config::{Config, Path};

/// Hooks of netfilter that a packet of a service would meet on its way to the host's own stack.
const PASSED_BY: [&str; 4] = ["ingress", "prerouting", "input", "forward"];

const CHECK: &str = "firewall";
const REMEDY: &str = "a source that is to be kept away: ip rule add from ADDRESS prohibit, which holds on these \
                      paths too; for services that need the rules: path = \"proxy\" (see docs/firewalls.md)";

pub(super) fn examine(config: &Config, rights: &Rights) -> Finding {
    let services = by_packets(config);
    if services.is_empty() {
        return Finding::ok(
            CHECK,
            "its rules hold: no service has backends on packet paths",
        );
    }
    if !rights.can_load() {
        return Finding::skipped(CHECK);
    }
    let mut found = nftables();
    if let Ok(tables) = fs::read_to_string("/proc/net/ip_tables_names") {
        let tables: Vec<&str> = tables.lines().collect();
        if !tables.is_empty() {
            found.push(format!("iptables (legacy): tables {}", tables.join(", ")));
        }
    }
    let services = services.join(", ");
    if found.is_empty() {
        return Finding::ok(
            CHECK,
            format!("no rules that clients of {services} would pass by"),
        );
    }
    Finding::warning(
        CHECK,
        format!(
            "packets for {services} do not meet these rules: {}",
            found.join("; ")
        ),
        REMEDY,
    )
}

/// Services that have a backend on a packet path, or may have.
fn by_packets(config: &Config) -> Vec<&str> {
    let services = config.services.iter().filter(|service| {
        service.backends.iter().any(|backend| match backend.path {
            Path::Nat | Path::Dsr => true,
            Path::Socket | Path::Proxy => false,
            Path::Auto => backend
                .address
                .ip()
                .is_some_and(|address| !dataplane::is_local(address.ip())),
        })
    });
    services.map(|service| service.name.as_str()).collect()
}

/// The rules of nftables (iptables-nft, firewalld, ufw and Docker write theirs there), by hook.
fn nftables() -> Vec<String> {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return Vec::new();
    };
    let ruleset: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let hooks = passed_by(&ruleset);
    let count = |(hook, count)| format!("nftables: {count} on hook {hook}");
    hooks.into_iter().map(count).collect()
}

/// How many rules, and policies that drop, there are on each hook that is passed by. Rules of chains that are
/// jumped to are not counted.
fn passed_by(ruleset: &Value) -> BTreeMap<String, usize> {
    let items = ruleset["nftables"].as_array().into_iter().flatten();
    let mut hooks = BTreeMap::new();
    let mut counts = BTreeMap::new();
    let place = |value: &Value, name: &str| {
        ["family", "table", name].map(|key| value[key].as_str().unwrap_or_default().to_owned())
    };
    for item in items {
        let chain = &item["chain"];
        let hook = chain["hook"]
            .as_str()
            .filter(|hook| PASSED_BY.contains(hook));
        if let Some(hook) = hook {
            hooks.insert(place(chain, "name"), hook.to_owned());
            if chain["policy"] == "drop" {
                *counts.entry(hook.to_owned()).or_default() += 1;
            }
        }
        let rule = &item["rule"];
        if let Some(hook) = hooks.get(&place(rule, "chain")) {
            *counts.entry(hook.clone()).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_counted_by_the_hook_of_their_chain() {
        let ruleset = json!({"nftables": [
            {"metainfo": {"version": "1.1.0"}},
            {"table": {"family": "inet", "name": "filter"}},
            {"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter",
                "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "filter", "name": "helper"}},
            {"chain": {"family": "inet", "table": "filter", "name": "out", "hook": "output",
                "policy": "accept"}},
            {"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": []}},
            {"rule": {"family": "inet", "table": "filter", "chain": "helper", "expr": []}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "expr": []}},
            {"rule": {"family": "ip", "table": "filter", "chain": "input", "expr": []}},
        ]});
        assert_eq!(
            passed_by(&ruleset),
            BTreeMap::from([("input".to_owned(), 2)])
        );
        assert_eq!(passed_by(&json!({"nftables": []})), BTreeMap::new());
    }
}
