//! Frames with one or two VLAN tags reach their destination, with the programs in the stack and in the
//! driver. Hosts behind the balancer see them without tags. Frames for other machines are left alone.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::packets::ip_packet;
use lb_tests::topology::routed::{CONTAINER, Net, SERVER, VIP, client, udp_echo};
use lb_tests::{wait, wire};

/// One tag, two of the same kind, and two as providers have them (IEEE 802.1ad).
const TAGS: [&[(u16, u16)]; 3] = [
    &[(0x8100, 5)],
    &[(0x8100, 5), (0x8100, 6)],
    &[(0x88a8, 5), (0x8100, 6)],
];

/// A datagram of a client to the service, in a frame that the router sends to a MAC address.
fn send(
    net: &Net,
    mac: [u8; 6],
    tags: &[(u16, u16)],
    (from, to): (SocketAddr, SocketAddr),
    text: &[u8],
) {
    let datagram = wire::udp((from.ip(), from.port()), (to.ip(), to.port()), text);
    let packet = ip_packet(from.ip(), to.ip(), wire::number::UDP, &datagram);
    let mut frame = wire::frame(tags, &packet);
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&net.router.mac("balancer0"));
    net.router.send_frame("balancer0", &frame);
}

/// An agent with its programs on the interface towards clients, attached as `attach` says.
fn start<'a>(net: &'a Net, attach: &str, services: &str) -> Agent<'a> {
    if attach == "xdp" {
        net.ready_for_xdp();
    }
    let interfaces = format!("interfaces = [{{ name = 'eth0', attach = '{attach}' }}]\n");
    Agent::start(&net.balancer, &(interfaces + services))
}

/// Services of UDP on the `nat` path: port 80, and a container's port 5000.
fn nat() -> String {
    let mut services = String::new();
    for (family, backend) in CONTAINER.into_iter().enumerate() {
        let [to, backend] = [(VIP[family], 80), (backend, 5000)].map(SocketAddr::from);
        services += &format!(
            "[[service]]\nname = 'nat{family}'\nmode = 'udp'\npath = 'nat'\n\
             listen = ['{to}']\nbackends = ['{backend}']\n"
        );
    }
    services
}

/// The same on the `dsr` path: port 81 of another host.
fn dsr() -> String {
    let mut services = String::new();
    for (family, backend) in SERVER.into_iter().enumerate() {
        let [to, backend] = [(VIP[family], 81), (backend, 81)].map(SocketAddr::from);
        services += &format!(
            "[[service]]\nname = 'dsr{family}'\nmode = 'udp'\npath = 'dsr'\n\
             listen = ['{to}']\nbackends = ['{backend}']\n"
        );
    }
    services
}

/// Datagrams with tags are answered by a container, which sees the clients.
fn answered(attach: &str) {
    let net = Net::new();
    for backend in CONTAINER {
        udp_echo(&net.container, SocketAddr::new(backend, 5000));
    }
    let agent = start(&net, attach, &nat());
    let mac = net.balancer.mac("eth0");
    for (family, from) in client(1).into_iter().enumerate() {
        for tags in TAGS {
            let socket = net.clients.run(|| UdpSocket::bind((from, 0)).unwrap());
            let to = SocketAddr::new(VIP[family], 80);
            socket.connect(to).unwrap();
            let pause = Some(Duration::from_millis(300));
            socket.set_read_timeout(pause).unwrap();
            let own = socket.local_addr().unwrap();
            let answer = wait::until(&format!("an answer to {from} with {tags:x?}"), || {
                send(&net, mac, tags, (own, to), b"tagged");
                let mut buffer = [0; 100];
                let length = socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            });
            assert_eq!(answer, format!("{from} tagged"));
        }
    }
    assert_eq!(agent.packets("drop_kernel"), 0);
}

#[test]
fn tagged_datagrams_reach_a_container_from_behind_the_driver() {
    answered("tc");
}

#[test]
fn tagged_datagrams_reach_a_container_from_the_driver() {
    answered("xdp");
}

/// Of the datagrams for the services, only those in frames for the balancer are forwarded.
fn frames_for_others_are_left_alone(attach: &str) {
    let net = Net::new();
    for backend in CONTAINER {
        udp_echo(&net.container, SocketAddr::new(backend, 5000));
    }
    let agent = start(&net, attach, &(nat() + &dsr()));
    let own = net.balancer.mac("eth0");
    let send_all = |mac, port: u16| {
        for (family, from) in client(1).into_iter().enumerate() {
            for service in [80, 81] {
                let ends = (from, VIP[family]);
                let ends = (
                    SocketAddr::new(ends.0, port),
                    SocketAddr::new(ends.1, service),
                );
                send(&net, mac, &[], ends, b"for whom?");
            }
        }
    };
    let forwarded = || agent.packets("forwarded");
    // The route to each backend is known then.
    wait::until("all four to be forwarded", || {
        let before = forwarded();
        send_all(own, 4000);
        wait::until("the first", || (forwarded() > before).then_some(()));
        (forwarded() == before + 4).then_some(())
    });
    let (before, flows) = (forwarded(), agent.packets("flow_new"));
    // Another machine, all (broadcast), all hosts of IPv4, all nodes of IPv6.
    for mac in [
        [2, 0, 0, 0, 0, 0x99],
        [0xff; 6],
        [0x01, 0x00, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
    ] {
        // Of flows that are open, and of new ones.
        send_all(mac, 4000);
        send_all(mac, 4001);
    }
    // Later datagrams are seen after them.
    send_all(own, 4002);
    wait::until("what is for the balancer", || {
        (forwarded() >= before + 4).then_some(())
    });
    assert_eq!(forwarded(), before + 4);
    assert_eq!(agent.packets("flow_new"), flows + 2);
}

#[test]
fn frames_for_other_machines_are_left_alone_behind_the_driver() {
    frames_for_others_are_left_alone("tc");
}

#[test]
fn frames_for_other_machines_are_left_alone_at_the_driver() {
    frames_for_others_are_left_alone("xdp");
}
