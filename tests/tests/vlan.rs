//! Frames with VLAN tags, one or two, get where they should, behind the driver and at it: whoever is
//! behind the balancer sees them without tags.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::outside::{CONTAINER, Net, VIP, client, udp_echo};
use lb_tests::packets::ip_packet;
use lb_tests::{wait, wire};

/// One tag, two of the same kind, and two as providers have them (IEEE 802.1ad).
const TAGS: [&[(u16, u16)]; 3] = [
    &[(0x8100, 5)],
    &[(0x8100, 5), (0x8100, 6)],
    &[(0x88a8, 5), (0x8100, 6)],
];

/// A datagram of a client to the service, in a frame with tags that the router sends.
fn tagged(net: &Net, tags: &[(u16, u16)], from: SocketAddr, to: SocketAddr, text: &[u8]) {
    let datagram = wire::udp((from.ip(), from.port()), (to.ip(), to.port()), text);
    let packet = ip_packet(from.ip(), to.ip(), wire::number::UDP, &datagram);
    let mut frame = wire::frame(tags, &packet);
    frame[..6].copy_from_slice(&net.balancer.mac("eth0"));
    frame[6..12].copy_from_slice(&net.router.mac("balancer0"));
    net.router.send_frame("balancer0", &frame);
}

/// Datagrams with tags are answered by a container, which sees the clients.
fn answered(attach: &str) {
    let net = Net::new();
    if attach == "xdp" {
        net.ready_for_xdp();
    }
    let mut services = format!("interfaces = [{{ name = 'eth0', attach = '{attach}' }}]\n");
    for (family, backend) in CONTAINER.into_iter().enumerate() {
        let [to, backend] = [(VIP[family], 80), (backend, 5000)].map(SocketAddr::from);
        udp_echo(&net.container, backend);
        services += &format!(
            "[[service]]\nname = 'udp{family}'\nmode = 'udp'\npath = 'nat'\n\
             listen = ['{to}']\nbackends = ['{backend}']\n"
        );
    }
    let agent = Agent::start(&net.balancer, &services);
    for (family, from) in client(1).into_iter().enumerate() {
        for tags in TAGS {
            let socket = net.clients.run(|| UdpSocket::bind((from, 0)).unwrap());
            let to = SocketAddr::new(VIP[family], 80);
            socket.connect(to).unwrap();
            let pause = Some(Duration::from_millis(300));
            socket.set_read_timeout(pause).unwrap();
            let own = socket.local_addr().unwrap();
            let answer = wait::until(&format!("an answer to {from} with {tags:x?}"), || {
                tagged(&net, tags, own, to, b"tagged");
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
