//! What the packet paths, `nat` and `dsr`, can be told: keys under `[agent]` and of a service, and
//! which backends can be reached that way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::error::Problems;
use super::reader::{Table, Value};
use super::value::{self, BadValue};
use super::{BackendAddress, Mode, Path};

/// Most flows that can be kept: more would take gigabytes of kernel memory.
const MAX_FLOWS: u32 = 1 << 24;
/// Longest name of an interface: IFNAMSIZ less its final zero, `linux/if.h`.
const MAX_INTERFACE_NAME: usize = 15;
/// Longest time that an idle flow may be kept.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Port of Generic UDP Encapsulation (IANA "Service Name and Transport Protocol Port Number
/// Registry").
const GUE_PORT: u16 = 6080;

/// Settings of the packet paths, under `[agent]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketConfig {
    /// Interfaces by which clients come; empty for all that have a route to the world.
    pub interfaces: Vec<InterfaceConfig>,
    /// Established flows that can be kept.
    pub flow_table: u32,
    /// How long flows are kept without a packet.
    pub timeouts: FlowTimeouts,
    /// Source addresses towards backends on other hosts; empty for that of the route.
    pub nat_source: Vec<IpAddr>,
    /// Where the outer sources of wrapped packets are taken from, one of each family at most.
    pub outer_source: Vec<Prefix>,
}

/// An interface by which clients come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Its name.
    pub name: String,
    /// Where the programs are to be.
    pub attach: Attach,
}

/// Where on an interface the programs are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// At the driver where that works, else behind it.
    #[default]
    Auto,
    /// At the driver (XDP) if it takes a program at all, also where senders leave out checksums.
    Xdp,
    /// Behind the driver (TC).
    Tc,
}

/// How long flows are kept without a packet, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP, before the handshake is complete.
    pub syn_s: u32,
    /// TCP, established.
    pub established_s: u32,
    /// TCP, after FIN or RST.
    pub closing_s: u32,
    /// UDP.
    pub udp_s: u32,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// An address in it.
    pub address: IpAddr,
    /// Bits that all of them share.
    pub bits: u8,
}

/// How the `dsr` path hands packets to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// [`Encapsulation::Ipip`] or [`Encapsulation::Ip6ip6`], as is the backend's address.
    #[default]
    Auto,
    /// In an IPv4 header (RFC 2003, RFC 4213).
    Ipip,
    /// In an IPv6 header (RFC 2473).
    Ip6ip6,
    /// In UDP (draft-ietf-intarea-gue-09, variant 1).
    Gue,
    /// As they are, to the backend's MAC address.
    L2,
}

/// What a service says of the packet paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePaths {
    /// The path of backends that name none, also of those added at run time.
    pub path: Path,
    /// How the `dsr` path hands packets over.
    pub encapsulation: Encapsulation,
    /// The UDP port of [`Encapsulation::Gue`] on backends.
    pub gue_port: u16,
}

impl Default for ServicePaths {
    fn default() -> Self {
        Self {
            path: Path::Auto,
            encapsulation: Encapsulation::Auto,
            gue_port: GUE_PORT,
        }
    }
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self {
            syn_s: 30,
            // Idle WebSockets are what users of this have.
            established_s: 24 * 3600,
            closing_s: 30,
            udp_s: 60,
        }
    }
}

impl Default for PacketConfig {
    fn default() -> Self {
        let prefix = |address, bits| Prefix { address, bits };
        Self {
            interfaces: Vec::new(),
            flow_table: 65_536,
            timeouts: FlowTimeouts::default(),
            nat_source: Vec::new(),
            outer_source: vec![
                prefix(Ipv4Addr::new(172, 16, 0, 0).into(), 16),
                // For addresses that lead nowhere: RFC 6666.
                prefix(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).into(), 64),
            ],
        }
    }
}

impl PacketConfig {
    /// The range of outer sources of a family.
    pub fn outer_source(&self, v4: bool) -> Option<Prefix> {
        let of_family = |prefix: &&Prefix| prefix.address.is_ipv4() == v4;
        self.outer_source.iter().find(of_family).copied()
    }
}

/// Whether a path can lead to a backend.
pub(super) struct Reach<'a> {
    pub(super) mode: Mode,
    pub(super) listen: &'a [SocketAddr],
    pub(super) encapsulation: Encapsulation,
}

impl Reach<'_> {
    /// Refuses a packet path that cannot lead to `address`.
    pub(super) fn check(&self, path: Path, address: &BackendAddress) -> Result<(), BadValue> {
        let bad = |problem: String, remedy: &str| {
            Err(BadValue {
                problem,
                remedy: remedy.to_owned(),
            })
        };
        let name = match path {
            Path::Nat => "nat",
            Path::Dsr => "dsr",
            Path::Auto | Path::Socket | Path::Proxy => return Ok(()),
        };
        if self.mode == Mode::Http {
            let problem = format!("HTTP always goes through the agent, never by {name}");
            return bad(problem, "leave path out");
        }
        let Some(address) = address.ip() else {
            let problem = format!("{address} is a unix socket, to which no packet goes");
            return bad(problem, "leave path out");
        };
        if address.ip().is_loopback() {
            let problem =
                format!("{address} is a loopback address, which takes no packet from a wire");
            let remedy = "write the host's own address, or path = \"socket\"";
            return bad(problem, remedy);
        }
        if path == Path::Nat {
            self.check_nat(address)
        } else {
            self.check_dsr(address)
        }
    }

    fn check_nat(&self, address: SocketAddr) -> Result<(), BadValue> {
        let same = |listen: &&SocketAddr| listen.is_ipv4() == address.is_ipv4();
        if self.listen.iter().any(|listen| same(&listen)) {
            return Ok(());
        }
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        Err(BadValue {
            problem: format!(
                "{address} is {family}, and no listen address is: nat keeps the family"
            ),
            remedy: format!("listen on an {family} address too, or write path = \"proxy\""),
        })
    }

    fn check_dsr(&self, address: SocketAddr) -> Result<(), BadValue> {
        if let Some(other) = self.listen.iter().find(|l| l.port() != address.port()) {
            return Err(BadValue {
                problem: format!(
                    "{address} is on another port than {other}: dsr leaves packets as they are"
                ),
                remedy: format!(
                    "let the backend and the service have the same port, or write path = \"nat\" \
                     (the service listens on {})",
                    other.port()
                ),
            });
        }
        let (outer, v4) = match self.encapsulation {
            Encapsulation::Ipip => ("ipip", true),
            Encapsulation::Ip6ip6 => ("ip6ip6", false),
            Encapsulation::Auto | Encapsulation::Gue | Encapsulation::L2 => return Ok(()),
        };
        if address.is_ipv4() == v4 {
            return Ok(());
        }
        let family = if v4 { "IPv4" } else { "IPv6" };
        Err(BadValue {
            problem: format!("{address} is no {family} address, which \"{outer}\" sends to"),
            remedy: "leave encapsulation out: it follows the backend's address".to_owned(),
        })
    }
}

/// The values of `path`.
pub(super) fn path(value: &Value<'_, '_>, problems: &mut Problems) -> Option<Path> {
    let choices = [
        ("auto", Path::Auto),
        ("socket", Path::Socket),
        ("nat", Path::Nat),
        ("dsr", Path::Dsr),
        ("proxy", Path::Proxy),
    ];
    value.choice(&choices, &[], problems)
}

/// The keys of a service.
pub(super) fn service(table: &mut Table<'_, '_>, problems: &mut Problems) -> ServicePaths {
    let usual = ServicePaths::default();
    let choices = [
        ("auto", Encapsulation::Auto),
        ("ipip", Encapsulation::Ipip),
        ("ip6ip6", Encapsulation::Ip6ip6),
        ("gue", Encapsulation::Gue),
        ("l2", Encapsulation::L2),
    ];
    let path = table.take("path").and_then(|value| path(&value, problems));
    let path = path.unwrap_or(usual.path);
    let encapsulation = table
        .take("encapsulation")
        .and_then(|value| value.choice(&choices, &[], problems));
    let gue_port = table
        .take("gue_port")
        .and_then(|value| value.integer_in(1..=u16::MAX, problems));
    ServicePaths {
        path,
        encapsulation: encapsulation.unwrap_or(usual.encapsulation),
        gue_port: gue_port.unwrap_or(usual.gue_port),
    }
}

/// The keys under `[agent]`.
pub(super) fn agent(table: &mut Table<'_, '_>, problems: &mut Problems) -> PacketConfig {
    let usual = PacketConfig::default();
    let interfaces = table
        .take("interfaces")
        .map(|value| interfaces(&value, problems));
    let flow_table = table
        .take("flow_table")
        .and_then(|value| value.integer_in(1..=MAX_FLOWS, problems));
    let timeouts = table
        .take("flow_timeouts")
        .and_then(|value| value.table("{ established = \"24h\" }", problems))
        .map(|table| timeouts(table, problems));
    let nat_source = table
        .take("nat_source")
        .map(|value| each(&value, "[\"192.0.2.10\"]", problems, source_address));
    let outer_source = table
        .take("outer_source")
        .map(|value| each(&value, "[\"172.16.0.0/16\"]", problems, prefix));
    PacketConfig {
        interfaces: interfaces.unwrap_or_default(),
        flow_table: flow_table.unwrap_or(usual.flow_table),
        timeouts: timeouts.unwrap_or_default(),
        nat_source: nat_source.unwrap_or_default(),
        outer_source: outer_source.map_or(usual.outer_source.clone(), |mut given| {
            // A family that is not named keeps its usual range.
            for range in usual.outer_source {
                if !given
                    .iter()
                    .any(|p| p.address.is_ipv4() == range.address.is_ipv4())
                {
                    given.push(range);
                }
            }
            given
        }),
    }
}

fn each<T>(
    value: &Value<'_, '_>,
    example: &str,
    problems: &mut Problems,
    parse: fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let items = value.list(example, problems);
    items
        .iter()
        .filter_map(|item| item.string(example, problems, parse))
        .collect()
}

fn interfaces(value: &Value<'_, '_>, problems: &mut Problems) -> Vec<InterfaceConfig> {
    const EXAMPLE: &str = "[\"eth0\"]";
    let mut found: Vec<InterfaceConfig> = Vec::new();
    for item in value.list(EXAMPLE, problems) {
        let Some(interface) = interface(&item, problems) else {
            continue;
        };
        if found.iter().any(|other| other.name == interface.name) {
            let message = format!("{} is listed twice (leave one out)", interface.name);
            problems.add(&item.place, message);
        }
        found.push(interface);
    }
    found
}

/// An interface: a table, or just its name.
fn interface(item: &Value<'_, '_>, problems: &mut Problems) -> Option<InterfaceConfig> {
    const EXAMPLE: &str = "\"eth0\"";
    if !item.is_table() {
        let name = item.string(EXAMPLE, problems, interface_name)?;
        return Some(InterfaceConfig {
            name,
            attach: Attach::Auto,
        });
    }
    let choices = [
        ("auto", Attach::Auto),
        ("xdp", Attach::Xdp),
        ("tc", Attach::Tc),
    ];
    let mut table = item.table(EXAMPLE, problems)?;
    let name = table
        .require("name", EXAMPLE, problems)
        .and_then(|value| value.string(EXAMPLE, problems, interface_name));
    let attach = table
        .take("attach")
        .and_then(|value| value.choice(&choices, &[], problems));
    table.finish(problems);
    Some(InterfaceConfig {
        name: name?,
        attach: attach.unwrap_or_default(),
    })
}

/// What the kernel takes for a name, `dev_valid_name` in net/core/dev.c.
fn interface_name(text: &str) -> Result<String, String> {
    let shown = value::quoted(text);
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > MAX_INTERFACE_NAME || text.contains(bad) {
        return Err(format!(
            "{shown} is not the name of an interface (see `ip link` for those there are)"
        ));
    }
    if text == "lo" {
        return Err(format!(
            "{shown} brings no packets from outside (name the interface that clients come by; \
             clients on this host are served in any case)"
        ));
    }
    Ok(text.to_owned())
}

fn timeouts(mut table: Table<'_, '_>, problems: &mut Problems) -> FlowTimeouts {
    let usual = FlowTimeouts::default();
    let mut take = |key| {
        table
            .take(key)
            .and_then(|value| value.string("\"30s\"", problems, timeout))
    };
    let (syn_s, established_s) = (take("syn"), take("established"));
    let (closing_s, udp_s) = (take("closing"), take("udp"));
    table.finish(problems);
    FlowTimeouts {
        syn_s: syn_s.unwrap_or(usual.syn_s),
        established_s: established_s.unwrap_or(usual.established_s),
        closing_s: closing_s.unwrap_or(usual.closing_s),
        udp_s: udp_s.unwrap_or(usual.udp_s),
    }
}

fn timeout(text: &str) -> Result<u32, String> {
    let timeout = value::duration(text).map_err(|error| error.to_string())?;
    if timeout < Duration::from_secs(1) || timeout > LONGEST {
        return Err(format!(
            "{} is out of range (use \"1s\" to \"30d\")",
            value::quoted(text)
        ));
    }
    Ok(timeout.as_secs() as u32)
}

fn source_address(text: &str) -> Result<IpAddr, String> {
    let shown = value::quoted(text);
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("{shown} is not an IP address (write \"192.0.2.10\")"))?;
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(format!(
            "{shown} cannot be a source towards other hosts (write an address of this host)"
        ));
    }
    Ok(address)
}

fn prefix(text: &str) -> Result<Prefix, String> {
    let example = || {
        let shown = value::quoted(text);
        format!("{shown} is not a range of addresses (write \"172.16.0.0/16\")")
    };
    let (address, bits) = text.split_once('/').ok_or_else(example)?;
    let address: IpAddr = address.parse().map_err(|_| example())?;
    let bits: u8 = bits.parse().map_err(|_| example())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most {
        return Err(example());
    }
    Ok(Prefix { address, bits })
}
