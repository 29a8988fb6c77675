//! Settings of the packet paths `nat` and `dsr`: keys under `[agent]` and of a service. It also
//! tells which backends can be reached that way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::choice::choice;
use super::error::Problems;
use super::reader::Value;
use super::schema::fields::Required;
use super::schema::kinds::{
    Flag, List, Made, Short, Text, duration_text, one_of, sub, text, whole,
};
use super::schema::{Kind, Shape, Show, section};
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

/// [`PacketConfig::nat_source`], a list of addresses.
const SOURCES: List<Text<IpAddr, String>> = List(
    "[\"192.0.2.10\"]",
    text("IP address", "[\"192.0.2.10\"]", source_address),
);
const RANGES: List<Text<Prefix, String>> = List(
    "[\"172.16.0.0/16\"]",
    text("range of IP addresses", "[\"172.16.0.0/16\"]", prefix),
);
const TIMEOUT: Text<u32, String> = Text {
    what: "duration, 1s to 30d",
    example: "\"30s\"",
    parse: timeout,
    print: |seconds| duration_text(Duration::from_secs((*seconds).into())),
};
const INTERFACE: Text<String, String> = text("name of an interface", "\"eth0\"", interface_name);

section! {
    Restart, "0.1";
    /// Settings of the packet paths, under `[agent]`.
    pub struct PacketConfig {
        /// Interfaces by which clients come, each a name or a table. Without it all that have a route to the world.
        pub interfaces: Vec<InterfaceConfig> = Vec::new(), Interfaces;
        /// Established flows that can be kept, about 0.6 KiB each.
        pub flow_table: u32 = 65_536, whole(1..=MAX_FLOWS, "flows");
        /// Answer the SYNs of a flood at the driver (XDP), for services whose connections end on this host.
        pub syn_cookies: bool = false, Flag;
        /// How long flows are kept without a packet.
        pub timeouts as "flow_timeouts": FlowTimeouts = FlowTimeouts::default(),
            sub("{ established = \"24h\" }");
        /// Source addresses towards backends on other hosts. Without it the source address of the route.
        pub nat_source: Vec<IpAddr> = Vec::new(), SOURCES;
        /// Ranges from which the outer source addresses of encapsulated packets are taken, one of each family at most.
        /// A family that is not named keeps its default.
        pub outer_source: Vec<Prefix> = outer_sources(),
            Made { of: RANGES, make: |given, _, _| Some(with_other_families(given)), back: Vec::clone };
    }
}

section! {
    Restart, "0.1";
    /// An interface by which clients come.
    #[derive(Eq)]
    pub struct InterfaceConfig {
        /// Its name.
        pub name: String = String::new(), Required(INTERFACE.example, INTERFACE);
        /// Where on it the programs are attached.
        pub attach: Attach = Attach::Auto, one_of();
    }
}

choice! {
    /// Where on an interface the programs are attached.
    pub enum Attach {
        /// At the driver where that works, else behind it.
        Auto = "auto",
        /// At the driver (XDP) if it takes a program at all, also where senders leave out checksums.
        Xdp = "xdp",
        /// Behind the driver (TC).
        Tc = "tc",
    }
}

section! {
    Restart, "0.1";
    /// How long flows are kept without a packet, in seconds.
    #[derive(Copy, Eq)]
    pub struct FlowTimeouts {
        /// Of a TCP connection before the handshake is complete.
        pub syn_s as "syn": u32 = 30, TIMEOUT;
        /// Of an established TCP connection. Idle WebSockets are why it is long.
        pub established_s as "established": u32 = 24 * 3600, TIMEOUT;
        /// Of a TCP connection after FIN or RST.
        pub closing_s as "closing": u32 = 30, TIMEOUT;
        /// Of a UDP flow.
        pub udp_s as "udp": u32 = 60, TIMEOUT;
    }
}

/// A range of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// An address in the range.
    pub address: IpAddr,
    /// Leading bits that all of its addresses share.
    pub bits: u8,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

choice! {
    /// How the `dsr` path hands packets to a backend.
    #[derive(Hash)]
    pub enum Encapsulation {
        /// `ipip` or `ip6ip6`, by the family of the backend's address.
        Auto = "auto",
        /// In an IPv4 header (RFC 2003, RFC 4213).
        Ipip = "ipip",
        /// In an IPv6 header (RFC 2473).
        Ip6ip6 = "ip6ip6",
        /// In UDP (draft-ietf-intarea-gue-09, variant 1).
        Gue = "gue",
        /// As they are, to the backend's MAC address.
        L2 = "l2",
    }
}

section! {
    Reload, "0.1";
    /// What a service says of the packet paths.
    #[derive(Copy, Eq)]
    pub struct ServicePaths {
        /// The path of backends that name none, also of those added at run time.
        pub path: Path = Path::Auto, one_of();
        /// How the `dsr` path hands packets over.
        pub encapsulation: Encapsulation = Encapsulation::Auto, one_of();
        /// UDP port of `encapsulation = "gue"` on backends.
        pub gue_port: u16 = GUE_PORT, whole(1..=u16::MAX, "");
    }
}

/// The usual ranges of outer sources.
fn outer_sources() -> Vec<Prefix> {
    let prefix = |address, bits| Prefix { address, bits };
    vec![
        prefix(Ipv4Addr::new(172, 16, 0, 0).into(), 16),
        // The discard-only block, for addresses without a route: RFC 6666.
        prefix(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0).into(), 64),
    ]
}

/// `given`, with the usual range of a family that is not named.
fn with_other_families(mut given: Vec<Prefix>) -> Vec<Prefix> {
    for range in outer_sources() {
        let same = |prefix: &Prefix| prefix.address.is_ipv4() == range.address.is_ipv4();
        if !given.iter().any(same) {
            given.push(range);
        }
    }
    given
}

impl PacketConfig {
    /// The range of outer sources of a family.
    pub fn outer_source(&self, v4: bool) -> Option<Prefix> {
        let of_family = |prefix: &&Prefix| prefix.address.is_ipv4() == v4;
        self.outer_source.iter().find(of_family).copied()
    }
}

/// The facts that decide whether a path can lead to a backend.
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

/// Interfaces, each of them once.
struct Interfaces;

impl Interfaces {
    /// A name, or a table.
    fn items(&self) -> List<impl Kind<Value = InterfaceConfig>> {
        let named = |name, _: &Value<'_, '_>, _: &mut Problems| {
            let attach = Attach::Auto;
            Some(InterfaceConfig { name, attach })
        };
        let item = Short {
            text: Made {
                of: INTERFACE,
                make: named,
                back: |interface: &InterfaceConfig| interface.name.clone(),
            },
            // Without a name there is no interface.
            table: Made {
                of: sub("\"eth0\""),
                make: |interface: InterfaceConfig, _, _| {
                    (!interface.name.is_empty()).then_some(interface)
                },
                back: InterfaceConfig::clone,
            },
            brief: |interface: &InterfaceConfig| interface.attach == Attach::Auto,
            else_text: true,
        };
        List("[\"eth0\"]", item)
    }
}

impl Kind for Interfaces {
    type Value = Vec<InterfaceConfig>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Vec<InterfaceConfig>> {
        let List(example, item) = self.items();
        let mut found: Vec<InterfaceConfig> = Vec::new();
        for value in value.list(example, problems) {
            let Some(interface) = item.read(&value, problems) else {
                continue;
            };
            if found.iter().any(|other| other.name == interface.name) {
                let message = format!("{} is listed twice (leave one out)", interface.name);
                problems.add(&value.place, message);
            }
            found.push(interface);
        }
        Some(found)
    }

    fn write(&self, value: &Vec<InterfaceConfig>, show: Show) -> Option<toml::Value> {
        self.items().write(value, show)
    }

    fn shape(&self) -> Shape {
        self.items().shape()
    }
}

/// The rules of the kernel for the name of an interface, `dev_valid_name` in net/core/dev.c.
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
