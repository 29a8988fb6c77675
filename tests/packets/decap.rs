//! `lb-agent decap` on a backend. Unwrapped packets reach the application with the client's and the
//! service's addresses, in the driver and in the stack. Each refused packet is counted with its reason.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::{Outcome, program};
use lb_tests::process::Process;
use lb_tests::topology::hosts::{Host, Hosts, client_v4, client_v6};
use lb_tests::wait;
use lb_tests::wire::{self, Ipv4, Ipv6, number};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Protocol, Socket, Type};

/// The backend's own addresses, on the wire.
const BACKEND: [&str; 2] = ["10.99.0.1", "fd99::1"];
/// The service's, which the backend has on lo.
const VIP: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
const GUE_PORT: u16 = 6080;

/// How a balancer may wrap.
#[derive(Clone, Copy, Debug)]
enum Wrapping {
    Ip,
    Gue(u8),
}

const WRAPPINGS: [Wrapping; 3] = [Wrapping::Ip, Wrapping::Gue(0), Wrapping::Gue(1)];

/// A backend with the service's addresses, and the wire to its clients and balancers.
fn hosts() -> Hosts {
    let hosts = Hosts::new();
    for (vip, bits) in VIP.iter().zip(["32", "128"]) {
        hosts
            .balancer
            .ip(&["addr", "add", &format!("{vip}/{bits}"), "dev", "lo"]);
    }
    for (vip, via) in VIP.iter().zip(BACKEND) {
        // The answers come straight from the service's address.
        hosts.clients.ip(&["route", "add", vip, "via", via]);
    }
    hosts
}

fn echo(host: &Host) {
    for vip in VIP {
        let address = SocketAddr::new(vip.parse().unwrap(), 7);
        let socket = host.run(|| UdpSocket::bind(address).unwrap());
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
}

/// The number of a family: 0 for IPv4, 1 for IPv6.
fn client(family: usize) -> IpAddr {
    [client_v4(1), client_v6(1)][family]
}

/// Sends `data` as that client would to the service, wrapped as that balancer would; the answer as
/// the client gets it.
fn ask(hosts: &Hosts, inner: usize, outer: usize, how: Wrapping, data: &[u8]) -> Option<Vec<u8>> {
    let (from, vip) = (client(inner), VIP[inner].parse().unwrap());
    let backend: IpAddr = BACKEND[outer].parse().unwrap();
    hosts.clients.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        socket.connect((vip, 7)).unwrap();
        let pause = Some(Duration::from_millis(300));
        socket.set_read_timeout(pause).unwrap();
        let datagram = wire::udp((from, port), (vip, 7), data);
        let packet = match (from, vip) {
            (IpAddr::V4(from), IpAddr::V4(vip)) => {
                Ipv4::new(from, vip).packet(number::UDP, &datagram)
            }
            (IpAddr::V6(from), IpAddr::V6(vip)) => {
                Ipv6::new(from, vip).packet(number::UDP, &datagram)
            }
            _ => unreachable!("of one family"),
        };
        wrap(backend, how, [number::IPV4, number::IPV6][inner], &packet);
        let mut buffer = [0; 2000];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    })
}

/// Sends a packet to the backend, wrapped by the kernel's own headers.
fn wrap(backend: IpAddr, how: Wrapping, protocol: u8, packet: &[u8]) {
    let head: &[u8] = match how {
        Wrapping::Gue(0) => &[0, protocol, 0, 0],
        _ => &[],
    };
    let content = [head, packet].concat();
    if let Wrapping::Gue(_) = how {
        let any: IpAddr = if backend.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.send_to(&content, (backend, GUE_PORT)).unwrap();
        return;
    }
    let domain = Domain::for_address(SocketAddr::new(backend, 0));
    let kind = Some(Protocol::from(i32::from(protocol)));
    let socket = Socket::new(domain, Type::RAW, kind).unwrap();
    socket
        .send_to(&content, &SocketAddr::new(backend, 0).into())
        .unwrap();
}

fn decap(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.command(program());
    command
        .args(["decap", "--interface", "wire"])
        .args(arguments);
    command
}

fn run(host: &Host, arguments: &[&str]) -> Outcome {
    decap(host, arguments).output().unwrap().into()
}

#[test]
fn every_wrapping_reaches_the_application_and_the_answer_the_client() {
    for mode in ["native", "generic"] {
        let hosts = hosts();
        echo(&hosts.balancer);
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("decap.log");
        assert_eq!(ask(&hosts, 0, 0, Wrapping::Ip, b"before"), None);
        let mut process = Process::start(decap(&hosts.balancer, &["--mode", mode]), &log);
        process.wait_for(&format!("lb_decap is on wire, {mode} mode"));
        let mut count = 0;
        for (inner, outer) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            for how in WRAPPINGS {
                for length in [1, 700, 1300] {
                    let data = vec![b'x'; length];
                    wait::until(
                        &format!("{mode} {inner} in {outer} {how:?} {length}"),
                        || {
                            count += 1;
                            (ask(&hosts, inner, outer, how, &data)? == data).then_some(())
                        },
                    );
                }
            }
        }
        // Its end detaches the program and reports its counts.
        let pid = Pid::from_raw(process.pid() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(process.wait().success());
        assert!(
            process.printed().contains(&format!("unwrapped {count},")),
            "{count}: {}",
            process.printed()
        );
        assert_eq!(ask(&hosts, 0, 0, Wrapping::Ip, b"after"), None);
    }
}

#[test]
fn a_pinned_program_outlives_its_command_and_refuses_strangers() {
    let hosts = hosts();
    echo(&hosts.balancer);
    let pins = Pins(format!("/sys/fs/bpf/lbt-decap-cli-{}", std::process::id()).into());
    let dir = pins.0.to_str().unwrap();
    let backend = &hosts.balancer;
    // The kernel sends from the first address of the wire on that side.
    let arguments = ["--pin", "--pin-dir", dir, "--from", "10.99.1.1"];
    let outcome = run(backend, &arguments);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains("until --detach"), "{outcome:?}");
    wait::until("an answer", || {
        ask(&hosts, 0, 0, Wrapping::Ip, b"hello").filter(|answer| answer == b"hello")
    });
    assert_eq!(ask(&hosts, 0, 1, Wrapping::Ip, b"a stranger's"), None);
    let shown = run(backend, &["--show", "--json", "--pin-dir", dir]);
    let counts: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert!(counts["unwrapped"].as_u64().unwrap() >= 1, "{counts}");
    assert_eq!(counts["refused"], 1, "{counts}");

    let again = run(backend, &arguments);
    assert_eq!(again.code, 1);
    assert!(
        again.stderr.contains("wire has an XDP program already"),
        "{again:?}"
    );
    let shown = run(backend, &["--show", "--pin-dir", dir]);
    assert_eq!(shown.code, 0, "a second start disturbs nothing: {shown:?}");
    let detached = run(backend, &["--detach", "--pin-dir", dir]);
    assert_eq!(detached.stdout, "lb_decap is off wire\n", "{detached:?}");
    assert_eq!(ask(&hosts, 0, 0, Wrapping::Ip, b"gone"), None);
    let again = run(backend, &["--detach", "--pin-dir", dir]);
    assert_eq!(again.code, 1);
    assert!(
        again.stderr.contains("nothing of ours is pinned for wire"),
        "{again:?}"
    );
}

#[test]
fn bad_input_gets_one_clear_line() {
    let host = Host::new("decap");
    for (arguments, code, told) in [
        (&["--mode", "fast"][..], 2, "native, generic"),
        (&["--from", "10.0.0.0/33"], 2, "has no good prefix length"),
        (&["--from", "balancer"], 2, "is not a block of addresses"),
        (&["--gue-port", "65536"], 2, "65536"),
        (&["--pin", "--detach"], 2, "cannot be used with"),
        (&[], 1, "no interface wire"),
        (&["--pin", "--pin-dir", "/tmp"], 1, "no interface wire"),
    ] {
        let outcome = run(&host, arguments);
        assert_eq!(outcome.code, code, "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains(told), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        assert_eq!(outcome.stdout, "");
    }
}

struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = lb_agent::dataplane::bpf::decap::detach(&self.0, "wire");
        let _ = std::fs::remove_dir(&self.0);
    }
}
