//! The network: settings of the kernel, interfaces, and other users of a port or a hook.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::rights::Rights;
use super::{Finding, Level, ethtool};
use crate::dataplane::bpf::holders::{Holder, holders};
use crate::dataplane::bpf::probe;
use crate::network::cookies;
use lb_config::{Config, Mode};

/// Names of our programs begin like this.
const OURS: &str = "lb_";
/// Checks of ports begin like this.
const PORT: &str = "port ";
/// Largest MTU at which a packet fits in one page together with the space that XDP needs around it.
const XDP_MTU: u32 = 3498;

pub(super) fn examine(config: &Config, rights: &Rights) -> Vec<Finding> {
    let mut findings = sysctls();
    findings.extend(interfaces());
    if rights.can_load() {
        findings.push(sk_lookup());
    } else {
        findings.extend(["TC hooks", "sk_lookup hook"].map(Finding::skipped));
    }
    findings.extend(ports(config, rights));
    findings
}

/// The ports of all services. Those that the same program has are one finding.
fn ports(config: &Config, rights: &Rights) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &config.services {
        for listen in &service.listen {
            let udp = service.mode == Mode::Udp;
            let can_see = rights.can_see_processes();
            let finding = port(
                listen.ip().is_ipv4(),
                listen.port(),
                udp,
                &service.name,
                can_see,
            );
            add_port(&mut findings, finding);
        }
    }
    findings
}

fn add_port(findings: &mut Vec<Finding>, finding: Finding) {
    let is_problem = matches!(finding.level, Level::Warning | Level::Failure);
    let same = findings.iter_mut().find(|other| {
        let is_same = other.found == finding.found && other.remedy == finding.remedy;
        is_problem && is_same
    });
    let Some(same) = same else {
        findings.push(finding);
        return;
    };
    let port = finding.check.trim_start_matches(PORT);
    if !same.check.split([' ', ',']).any(|known| known == port) {
        same.check += &format!(", {port}");
    }
}

fn sysctl(name: &str) -> Option<String> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn number(name: &str) -> Option<u64> {
    sysctl(name)?.parse().ok()
}

fn sysctls() -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(backlog) = number("net.core.somaxconn") {
        let check = "somaxconn";
        findings.push(if backlog < 1024 {
            Finding::warning(
                check,
                format!("{backlog} connections may wait for an application"),
                "sysctl -w net.core.somaxconn=4096, and let the applications listen with as many",
            )
        } else {
            Finding::ok(check, backlog.to_string())
        });
    }
    findings.push(syn_cookies(cookies::problem()));
    if let Some(text) = sysctl("net.ipv4.ip_local_port_range") {
        findings.push(port_range(&text));
    }
    let forward = number("net.ipv4.ip_forward").unwrap_or(0);
    findings.push(Finding::ok(
        "ip_forward",
        match forward {
            0 => "off (lb-agent switches it on for interfaces that packets of nat and dsr come by)",
            _ => "on",
        },
    ));
    findings.extend(rp_filter());
    findings
}

/// Without them a queue full of half-open connections takes no client.
fn syn_cookies(problem: Option<String>) -> Finding {
    match problem {
        Some(_) => Finding::warning(
            "tcp_syncookies",
            "0: a SYN flood shuts clients out",
            format!("sysctl -w {}=1", cookies::SETTING),
        ),
        None => Finding::ok("tcp_syncookies", "listeners send SYN cookies in a flood"),
    }
}

/// The proxy path has a port of its own for each connection to a backend.
fn port_range(text: &str) -> Finding {
    let check = "ip_local_port_range";
    let ends: Vec<u64> = text
        .split_whitespace()
        .filter_map(|end| end.parse().ok())
        .collect();
    let [first, last] = ends[..] else {
        return Finding::ok(check, text);
    };
    let ports = (last + 1).saturating_sub(first);
    if ports < 10_000 {
        return Finding::warning(
            check,
            format!("{ports} ports: no more connections than that to a backend on the proxy path"),
            "sysctl -w net.ipv4.ip_local_port_range='1024 65535'",
        );
    }
    Finding::ok(check, format!("{ports} ports"))
}

/// A strict filter drops packets of a backend that arrive by another route than the one to the client.
fn rp_filter() -> Option<Finding> {
    let check = "rp_filter";
    let mut strict: Vec<String> = fs::read_dir("/proc/sys/net/ipv4/conf")
        .ok()?
        .flatten()
        .filter(|entry| {
            let value = fs::read_to_string(entry.path().join("rp_filter"));
            value.is_ok_and(|value| value.trim() == "1")
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    strict.sort_unstable();
    Some(if strict.is_empty() {
        Finding::ok(check, "not strict")
    } else {
        Finding::warning(
            check,
            format!(
                "strict on {}: packets of the nat and dsr paths may be dropped",
                strict.join(", ")
            ),
            "sysctl -w net.ipv4.conf.all.rp_filter=2 (needed for packet paths only)",
        )
    })
}

/// An interface of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Interface {
    name: String,
    index: u32,
    mtu: u32,
    /// `veth`, `bridge` and so on; none of a network card.
    kind: Option<String>,
    /// The program on its XDP hook.
    xdp: Option<String>,
}

/// All but the loopback one. /sys would show those of the namespace in which it was mounted.
fn interfaces() -> Vec<Finding> {
    let output = Command::new("ip")
        .args(["-json", "-details", "link", "show"])
        .output();
    let text = match output {
        Ok(output) if output.status.success() => output.stdout,
        _ => {
            return vec![Finding::warning(
                "interfaces",
                "cannot be looked at without the program ip",
                "install iproute2",
            )];
        }
    };
    let links: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
    let all = links.iter().filter_map(parse);
    all.filter(|interface| interface.name != "lo")
        .flat_map(|interface| examine_one(&interface))
        .collect()
}

fn parse(link: &Value) -> Option<Interface> {
    let number = |key: &str| u32::try_from(link[key].as_u64()?).ok();
    let program = &link["xdp"]["prog"];
    let xdp = program["id"].as_u64().map(|id| {
        let name = program["name"].as_str();
        name.map_or_else(|| format!("program {id}"), str::to_owned)
    });
    Some(Interface {
        name: link["ifname"].as_str()?.to_owned(),
        index: number("ifindex")?,
        mtu: number("mtu")?,
        kind: link["linkinfo"]["info_kind"].as_str().map(str::to_owned),
        xdp,
    })
}

fn examine_one(interface: &Interface) -> Vec<Finding> {
    let Interface { name, mtu, .. } = interface;
    let check = format!("interface {name}");
    let mut findings = Vec::new();
    if *mtu > XDP_MTU {
        findings.push(Finding::warning(
            &check,
            format!("an MTU of {mtu} is too large for XDP in most drivers"),
            format!("ip link set {name} mtu {XDP_MTU}; else packet paths use TC, which is slower"),
        ));
    }
    if ethtool::lro(name).unwrap_or(false) {
        findings.push(Finding::warning(
            &check,
            "merges received packets (LRO), which XDP refuses",
            format!("ethtool -K {name} lro off"),
        ));
    }
    if let Ok(programs) = probe::on_interface(interface.index) {
        let others = foreign(&programs);
        if !others.is_empty() {
            findings.push(Finding::warning(
                &check,
                format!("other programs are on its TC hook: {}", others.join(", ")),
                "if packets go missing, see whose they are: bpftool net",
            ));
        }
    }
    if let Some(program) = &interface.xdp
        && !program.starts_with(OURS)
    {
        findings.push(Finding::warning(
            &check,
            format!("another program is on its XDP hook: {program}"),
            format!("ip link set {name} xdp off, if it is not wanted; else packet paths use TC"),
        ));
    }
    if findings.is_empty() {
        let place = match interface.kind.as_deref() {
            None => "packet paths run at the driver (XDP) if it can do that",
            Some(_) => "packet paths run behind it (TC)",
        };
        findings.push(Finding::ok(check, format!("MTU {mtu}, no LRO; {place}")));
    }
    findings
}

fn foreign(programs: &[String]) -> Vec<&str> {
    let others = programs.iter().filter(|name| !name.starts_with(OURS));
    others.map(String::as_str).collect()
}

fn sk_lookup() -> Finding {
    let check = "sk_lookup hook";
    match probe::on_sk_lookup() {
        Ok(programs) => {
            let others = foreign(&programs);
            if !others.is_empty() {
                return Finding::warning(
                    check,
                    format!("other programs are there too: {}", others.join(", ")),
                    "where two choose a socket, the later one wins: see bpftool net, and detach the \
                     other if it is about the same ports",
                );
            }
            match programs.len() {
                0 => Finding::ok(check, "free"),
                1 => Finding::ok(check, programs.join(", ")),
                n => Finding::warning(
                    check,
                    format!("{n} lb-agents have their programs there"),
                    "if one is not wanted: lb-agent stop --purge --config ITS_FILE",
                ),
            }
        }
        Err(error) => {
            Finding::warning(check, format!("cannot be asked: {error}"), Finding::AS_ROOT)
        }
    }
}

/// The sockets on the port of a service. Their processes are named if this process `can_see` those of other users.
fn port(v4: bool, port: u16, udp: bool, service: &str, can_see: bool) -> Finding {
    let family = if v4 { "" } else { "6" };
    let transport = if udp { "udp" } else { "tcp" };
    let check = format!("{PORT}{port}/{transport}{family}");
    let table = fs::read_to_string(format!("/proc/net/{transport}{family}")).unwrap_or_default();
    let inodes = waiting_on(&table, port, udp);
    if !can_see && !inodes.is_empty() {
        return Finding::skipped(&check);
    }
    // A socket of the agent is held by systemd as well, which keeps it for the next one.
    let holders = holders(&inodes).unwrap_or_default().into_values();
    let holders = holders.map(|all| all.iter().map(Holder::name).collect());
    let is_own = |names: &Vec<String>| names.iter().any(|name| name.starts_with("lb-agent "));
    let mut holders: Vec<String> = holders.filter(|names| !is_own(names)).flatten().collect();
    holders.sort_unstable();
    holders.dedup();
    if holders.is_empty() {
        return Finding::ok(check, format!("free for {service}"));
    }
    let found = format!("{} listens there too", holders.join(", "));
    if udp {
        return Finding::failure(&check, found, "stop it, or give the service another port");
    }
    Finding::warning(
        &check,
        found,
        "as soon as the service has a backend, new connections go there instead; in user space, \
         stop the other one first",
    )
}

/// Inodes of the sockets in a table of /proc/net (proc_net_tcp.txt) that wait on `port`.
fn waiting_on(table: &str, port: u16, udp: bool) -> HashSet<u32> {
    let state = if udp { "07" } else { "0A" };
    let wanted = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 9 && fields[1].ends_with(&wanted) && fields[3] == state)
        .filter_map(|fields| fields[9].parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_this_process_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port_number = listener.local_addr().unwrap().port();
        let finding = port(true, port_number, false, "web", true);
        assert_eq!(finding.level, Level::Warning, "{finding:?}");
        let pid = format!("(pid {})", std::process::id());
        assert!(finding.found.contains(&pid), "{finding:?}");
        let finding = port(true, port_number, false, "web", false);
        assert_eq!(finding.level, Level::Skipped);
        drop(listener);
        let finding = port(true, port_number, false, "web", false);
        assert_eq!(finding.level, Level::Ok);
    }

    #[test]
    fn ports_of_one_program_are_one_finding() {
        let nginx =
            |port: &str| Finding::warning(port, "nginx (pid 7) listens there too", "remedy");
        let mut findings = Vec::new();
        for finding in [
            nginx("port 80/tcp"),
            Finding::ok("port 81/tcp", "free for web"),
            nginx("port 80/tcp6"),
            Finding::warning("port 82/tcp", "caddy (pid 8) listens there too", "remedy"),
            nginx("port 80/tcp"),
            Finding::ok("port 83/tcp", "free for web"),
            nginx("port 443/tcp"),
        ] {
            add_port(&mut findings, finding);
        }
        let checks: Vec<&str> = findings.iter().map(|it| it.check.as_str()).collect();
        assert_eq!(
            checks,
            [
                "port 80/tcp, 80/tcp6, 443/tcp",
                "port 81/tcp",
                "port 82/tcp",
                "port 83/tcp"
            ]
        );
    }

    #[test]
    fn interfaces_are_read_with_their_programs() {
        let text = r#"{"ifindex": 2, "ifname": "eth0", "mtu": 1500,
            "xdp": {"mode": 1, "prog": {"id": 12, "name": "katran", "tag": "x", "jited": 1}}}"#;
        let link: Value = serde_json::from_str(text).unwrap();
        let interface = parse(&link).unwrap();
        assert_eq!((interface.index, interface.mtu), (2, 1500));
        assert_eq!(interface.xdp.as_deref(), Some("katran"));
        let finding = &examine_one(&interface)[0];
        assert!(finding.found.contains("katran"), "{finding:?}");
    }

    #[test]
    fn a_small_range_of_ports_is_a_warning() {
        assert_eq!(port_range("32768\t60999").level, Level::Ok);
        assert_eq!(port_range("50000 50010").level, Level::Warning);
    }
}
