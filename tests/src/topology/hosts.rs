//! Two hosts in network namespaces, joined by a wire: clients on one, the balancer on the other.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::wait;

/// Addresses of each family that the clients have.
pub const CLIENTS: u16 = 200;

/// A network namespace; removed when dropped.
pub struct Host {
    name: String,
    file: File,
}

impl Host {
    /// A host with the name `role` in this test.
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lbt-{}-{count}-{role}", std::process::id());
        ip(&["netns", "add", &name]);
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        let host = Self { name, file };
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    /// `ip -n HOST ARGUMENTS`
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// Joins two hosts by a wire: `name` is its end here, `peer_name` that on `peer`. Both are up.
    pub fn wire(&self, name: &str, peer: &Host, peer_name: &str) {
        self.ip(&[
            "link", "add", name, "type", "veth", "peer", "name", peer_name, "netns", &peer.name,
        ]);
        self.ip(&["link", "set", name, "up"]);
        peer.ip(&["link", "set", peer_name, "up"]);
    }

    /// Gives the host an address, of either family, and the settings that belong to it.
    pub fn address(&self, address: &str, interface: &str) {
        let mut arguments = vec!["addr", "add", address, "dev", interface];
        if address.contains(':') {
            // No other host has the address: duplicate address detection is skipped.
            arguments.push("nodad");
        }
        self.ip(&arguments);
    }

    /// Sets a kernel setting of the host, as in `net/ipv4/ip_forward`.
    pub fn set(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.run(|| std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    /// Value of a kernel setting of the host.
    pub fn setting(&self, key: &str) -> String {
        let path = format!("/proc/sys/{key}");
        self.run(|| {
            std::fs::read_to_string(&path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
    }

    /// A command that will run on the host. (`ip netns exec` would hide cgroups and pins.)
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = self.file.try_clone().unwrap();
        let enter = move || {
            // SAFETY: setns touches nothing but this process, which has one thread here.
            let done = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            if done < 0 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `work` in a thread on the host; threads that it starts are there too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.file.as_fd(), network).unwrap();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Host {
    /// Sends a frame out by `interface`, as it is: with tags and all.
    pub fn send_frame(&self, interface: &str, frame: &[u8]) {
        self.frame_socket(interface).send(frame);
    }

    /// A socket for frames out by `interface`.
    pub fn frame_socket(&self, interface: &str) -> FrameSocket {
        let index = self.index(interface);
        self.run(|| {
            let to = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET as u16,
                sll_protocol: 0,
                sll_ifindex: index as i32,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let fill = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
                // SAFETY: the storage has room for any address, and is aligned for all.
                unsafe { storage.cast::<libc::sockaddr_ll>().write(to) };
                // SAFETY: a place for a length.
                unsafe { length.write(size_of::<libc::sockaddr_ll>() as u32) };
                Ok(())
            };
            // SAFETY: the closure fills in an address and its length.
            let (_, to) = unsafe { SockAddr::try_init(fill) }.unwrap();
            FrameSocket {
                socket: Socket::new(Domain::PACKET, Type::RAW, None).unwrap(),
                to,
            }
        })
    }

    /// Sets a number of an interface by its attribute (IFLA_* in linux/if_link.h). An older `ip` does
    /// not know the newest attributes.
    pub fn set_link(&self, interface: &str, attribute: u16, value: u32) {
        const RTM_SETLINK: u16 = 19;
        const NLM_F_REQUEST_ACK: u16 = 5;
        const NETLINK_ROUTE: i32 = 0;
        let index = self.index(interface);
        // `struct nlmsghdr`, `struct ifinfomsg` and one attribute.
        let mut message = Vec::new();
        message.extend(40u32.to_ne_bytes());
        message.extend(
            [RTM_SETLINK, NLM_F_REQUEST_ACK]
                .map(u16::to_ne_bytes)
                .concat(),
        );
        message.extend([0; 8]);
        message.extend([0; 4]);
        message.extend(index.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([8, attribute].map(u16::to_ne_bytes).concat());
        message.extend(value.to_ne_bytes());
        self.run(|| {
            let (domain, protocol) = (Domain::from(libc::AF_NETLINK), NETLINK_ROUTE.into());
            let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
            socket.send(&message).unwrap();
            let mut answer = [0; 1024];
            let size = (&socket).read(&mut answer).unwrap();
            let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
            assert!(
                size >= 20 && error == 0,
                "attribute {attribute} of {interface}: {error}"
            );
        });
    }

    fn index(&self, interface: &str) -> u32 {
        let name = std::ffi::CString::new(interface).unwrap();
        self.run(|| {
            // SAFETY: a string that ends with a zero.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            assert_ne!(index, 0, "there is no {interface}");
            index
        })
    }

    /// The Ethernet address of an interface.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let shown = self
            .command("ip")
            .args(["-br", "link", "show", interface])
            .output();
        let text = String::from_utf8(shown.unwrap().stdout).unwrap();
        let address = text.split_whitespace().nth(2).expect("an Ethernet address");
        let mut bytes = address
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap());
        std::array::from_fn(|_| bytes.next().unwrap())
    }

    /// Every setting of its network that an agent might touch, a line each; once its interfaces
    /// are ready, as the kernel adds routes until then.
    pub fn network_settings(&self) -> BTreeSet<String> {
        wait::until("all interfaces to be ready", || {
            self.is_settled().then_some(())
        });
        let commands = [
            "sysctl -a -r ^net\\.",
            "ip route show table all",
            "ip -6 route show table all",
            "ip rule",
            "ip -6 rule",
            "ip link show",
            "tc qdisc",
        ];
        let mut lines = BTreeSet::new();
        for words in commands.map(|command| command.split(' ').collect::<Vec<_>>()) {
            let output = self.command(words[0]).args(&words[1..]).output().unwrap();
            assert!(
                output.status.success() || words[0] == "sysctl",
                "{words:?}: {output:?}"
            );
            let text = String::from_utf8_lossy(&output.stdout);
            // An interface that comes up gets its link-local address by and by.
            let kept = text.lines().filter(|line| !line.contains("fe80:"));
            lines.extend(kept.map(|line| format!("{words:?} {line}")));
        }
        lines
    }

    /// Whether every interface that is up has its link-local address, which it gets last.
    fn is_settled(&self) -> bool {
        let shown = |words: &[&str]| {
            let output = self.command("ip").arg("-o").args(words).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let links = shown(&["link", "show", "up"]);
        let addresses = shown(&["-6", "addr", "show", "scope", "link", "-tentative"]);
        let name = |line: &str| {
            let name = line.split_whitespace().nth(1)?;
            Some(name.split(['@', ':']).next()?.to_owned())
        };
        let ready: BTreeSet<String> = addresses.lines().filter_map(name).collect();
        let mut others = links.lines().filter_map(name).filter(|name| name != "lo");
        others.all(|name| ready.contains(&name))
    }

    /// Moves this thread to the host, for good.
    pub fn enter(&self) {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.file.as_fd(), network).unwrap();
    }

    /// Runs `work` in a thread on the host that goes on by itself.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = self.file.try_clone().unwrap();
        std::thread::spawn(move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(file.as_fd(), network).unwrap();
            work()
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .status();
    assert!(status.expect("iproute2").success(), "ip {arguments:?}");
}

/// A socket that sends frames out by one interface.
pub struct FrameSocket {
    socket: Socket,
    to: SockAddr,
}

impl FrameSocket {
    /// Sends a frame as it is.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        assert_eq!(self.socket.send_to(frame, &self.to).unwrap(), frame.len());
    }
}

/// Two hosts joined by a wire.
pub struct Hosts {
    /// Host of the clients.
    pub clients: Host,
    /// Host of the agent and the applications.
    pub balancer: Host,
}

/// The balancer's address for clients.
pub const SERVICE_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 80);
/// Address of the service over IPv6.
pub const SERVICE_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1)), 80);

/// The nth client's IPv4 address.
pub fn client_v4(n: u16) -> IpAddr {
    IpAddr::from([10, 99, 1 + (n >> 8) as u8, n as u8])
}

/// The nth client's IPv6 address, in a /64 of its own.
pub fn client_v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, n + 1, 0, 0, 0, 2))
}

/// All clients' addresses, of both families.
pub fn all_clients() -> Vec<IpAddr> {
    (1..=CLIENTS)
        .map(client_v4)
        .chain((1..=CLIENTS).map(client_v6))
        .collect()
}

/// Address of the service on port 80 for a client of the family of `from`.
pub fn service_for(from: IpAddr) -> SocketAddr {
    if from.is_ipv4() {
        SERVICE_V4
    } else {
        SERVICE_V6
    }
}

impl Hosts {
    /// Makes both, with [`CLIENTS`] addresses of each family on the clients' side.
    pub fn new() -> Self {
        let hosts = Self {
            clients: Host::new("clients"),
            balancer: Host::new("balancer"),
        };
        let (clients, balancer) = (&hosts.clients, &hosts.balancer);
        clients.ip(&[
            "link",
            "add",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "wire",
            "netns",
            &balancer.name,
        ]);
        balancer.ip(&["addr", "add", "10.99.0.1/16", "dev", "wire"]);
        balancer.ip(&["addr", "add", "fd99::1/32", "dev", "wire", "nodad"]);
        balancer.ip(&["link", "set", "wire", "up"]);
        let batch: String = (1..=CLIENTS)
            .map(|n| {
                let (v4, v6) = (client_v4(n), client_v6(n));
                format!("addr add {v4}/16 dev wire\naddr add {v6}/32 dev wire nodad\n")
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        clients.ip(&["-batch", file.path().to_str().unwrap()]);
        clients.ip(&["link", "set", "wire", "up"]);
        hosts
    }
}

/// Addresses of the container of [`Hosts::container`].
pub const CONTAINER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 98, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 2)),
];

impl Hosts {
    /// A container behind the balancer, at [`CONTAINER`].
    pub fn container(&self) -> Host {
        let container = Host::new("container");
        self.balancer.wire("cont0", &container, "eth0");
        for (gateway, own, length, family) in [
            ("10.98.0.1", CONTAINER[0], 24, "-4"),
            ("fd98::1", CONTAINER[1], 64, "-6"),
        ] {
            self.balancer
                .address(&format!("{gateway}/{length}"), "cont0");
            container.address(&format!("{own}/{length}"), "eth0");
            container.ip(&[family, "route", "add", "default", "via", gateway]);
        }
        container
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Self::new()
    }
}
