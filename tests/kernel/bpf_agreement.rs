//! The kernel and the host choose alike: 10,000 random clients, asked of the loaded program
//! (BPF_PROG_TEST_RUN) and of `lb_common::select` on the host, with all backends there and with
//! some away.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_agent::dataplane::bpf::{self, Bpf};
use lb_agent::dataplane::{Connections as _, Tables as _};
use lb_agent::host::HostTables;
use lb_agent::state::desired::Desired;
use lb_agent::state::observed::{Observed, address_of};
use lb_agent::state::overlay::Overlay;
use lb_agent::state::plan::plan;
use lb_agent::state::surroundings::Surroundings;
use lb_common::abi::{self, protocol};
use lb_net::handover::FdStore;
use lb_tests::prog_run::{Steer, cookie};

const CLIENTS: usize = 10_000;

const CONFIG: &str = "
[[service]]
name = 'web'
listen = ['0.0.0.0:80', '[::]:80']
backends = [
  '127.0.0.1:5001', { address = '127.0.0.1:5002', weight = 2 },
  '127.0.0.1:5003', '127.0.0.1:5004', { address = '[::1]:5005', weight = 3 },
]
";

struct AllHere;

impl Surroundings for AllHere {
    fn can_steer(&self) -> bool {
        true
    }

    fn is_local(&self, _address: SocketAddr) -> bool {
        true
    }
}

/// Pins that are removed however the test ends.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = bpf::purge(&self.0);
    }
}

#[test]
fn the_kernel_and_the_host_choose_the_same_backend_for_10_000_clients() {
    // A thread of its own, for a network namespace of its own.
    std::thread::spawn(|| {
        // SAFETY: only this thread changes its network namespace; no file table is shared anew.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("a network namespace (root is needed)");
        assert!(
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
        agree();
    })
    .join()
    .unwrap();
}

fn agree() {
    let dir = PathBuf::from(format!("/sys/fs/bpf/lbt-agreement-{}", std::process::id()));
    let pins = Pins(dir);
    let settings = bpf::Settings {
        pin_dir: pins.0.clone(),
        max_clients: 1024,
        cgroup: None,
        flows: bpf::FlowSettings::default(),
        kept: FdStore::default(),
    };
    let mut opened = Bpf::open(&settings).expect("load the programs");
    let mut listeners: HashMap<SocketAddr, TcpListener> = (5001..=5005)
        .map(|port| {
            let ip: IpAddr = if port == 5005 {
                Ipv6Addr::LOCALHOST.into()
            } else {
                Ipv4Addr::LOCALHOST.into()
            };
            // Dual stack, so that both families can be steered to every one of them.
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
            (SocketAddr::new(ip, port), listener)
        })
        .collect();
    let observed = put_in_force(&mut opened.plane);
    let steer = Steer::open(&pins.0.join("programs/lb_steer")).unwrap();

    let seed = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    println!("seed {seed}");
    let mut random = Random(lb_common::hash::salt(&seed));
    compare(&steer, &observed, &opened.plane, &listeners, &mut random);
    // Some away: the next in each client's order.
    for address in ["127.0.0.1:5002", "127.0.0.1:5004"] {
        listeners.remove(&address.parse().unwrap());
    }
    compare(&steer, &observed, &opened.plane, &listeners, &mut random);
    // All away: refused.
    listeners.clear();
    let service: SocketAddr = "10.1.2.3:80".parse().unwrap();
    let verdict = steer
        .ask("203.0.113.9:1234".parse().unwrap(), service)
        .unwrap();
    assert!(!verdict.pass, "{verdict:?}");
    // A port without a service is left alone.
    let other: SocketAddr = "10.1.2.3:81".parse().unwrap();
    let verdict = steer
        .ask("203.0.113.9:1234".parse().unwrap(), other)
        .unwrap();
    assert!(verdict.pass && verdict.cookie == 0, "{verdict:?}");
}

fn put_in_force(plane: &mut Bpf) -> Observed {
    let config = lb_config::parse(CONFIG, Path::new("agreement.toml")).unwrap();
    let desired = Desired::new(&config, &Overlay::default(), [0x1234, 0x5678], 0, &AllHere);
    let mut observed = plane.observe().unwrap();
    for action in plan(&desired, &observed, &|_| false).unwrap() {
        plane.apply(&action).unwrap();
        observed.note(&action);
    }
    observed
}

fn compare(
    steer: &Steer,
    observed: &Observed,
    plane: &Bpf,
    listeners: &HashMap<SocketAddr, TcpListener>,
    random: &mut Random,
) {
    let cookies: HashMap<u64, SocketAddr> = listeners
        .iter()
        .map(|(address, listener)| (cookie(listener).unwrap(), *address))
        .collect();
    let id = observed.service("web").unwrap();
    let clients = plane.clients();
    let usable = |backend: &abi::Backend| listeners.contains_key(&address_of(backend));
    let mut chosen: HashMap<SocketAddr, usize> = HashMap::new();
    for _ in 0..CLIENTS {
        let (client, service) = random.connection();
        let verdict = steer.ask(client, service).unwrap();
        let mut tables =
            HostTables::new(id, protocol::TCP, observed, clients.as_ref(), &usable).unwrap();
        let seen_by_host = tables.client(client.ip());
        let (backend, reason) = tables.preferences(&seen_by_host)[0];
        let kernel = cookies.get(&verdict.cookie);
        assert_eq!(
            kernel,
            Some(&address_of(&backend)),
            "{client} to {service}: {reason:?}"
        );
        *chosen.entry(address_of(&backend)).or_default() += 1;
    }
    println!("{chosen:?}");
    assert_eq!(
        chosen.len(),
        listeners.len(),
        "every backend is chosen by somebody: {chosen:?}"
    );
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn connection(&mut self) -> (SocketAddr, SocketAddr) {
        let port = (self.next() >> 48) as u16 | 1;
        if self.next().is_multiple_of(2) {
            let client = Ipv4Addr::from_bits(self.next() as u32);
            (
                SocketAddr::from((client, port)),
                SocketAddr::from(([10, 1, 2, 3], 80)),
            )
        } else {
            let client = u128::from(self.next()) << 64 | u128::from(self.next());
            let service = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
            (
                SocketAddr::from((Ipv6Addr::from_bits(client), port)),
                SocketAddr::from((service, 80)),
            )
        }
    }
}
