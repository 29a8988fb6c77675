//! Changes, one after the other and many at once, good and bad; crowds, and noise.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use lb_tests::http;
use lb_tests::junk_traffic::{junk, shout};
use lb_tests::topology::hosts::{SERVICE_V6, client_v4, client_v6};

use crate::judge::Cost;
use crate::ways::Way;
use crate::world::World;

fn other_settings(world: &mut World<'_>) {
    world.settings.weight = 1 + world.random.below(3);
    world.settings.min_version = ["1.2", "1.3"][world.random.below(2) as usize];
    let http = [
        "",
        "stickiness = 'address'",
        "limits = { body = '1MiB' }",
        "compression = { enabled = false }",
    ];
    world.settings.http = http[world.random.below(4) as usize];
    world.configure();
}

pub(crate) fn reload(world: &mut World<'_>) -> Cost {
    other_settings(world);
    world.agent.ok(&["reload"]);
    Cost::default()
}

pub(crate) fn reload_often(world: &mut World<'_>) -> Cost {
    for _ in 0..20 {
        other_settings(world);
        world.agent.ok(&["reload"]);
    }
    Cost::default()
}

pub(crate) fn bad_reload(world: &mut World<'_>) -> Cost {
    world
        .agent
        .configure("[[service]]\nname = 'web'\nlisten = ['nowhere']\n");
    assert_eq!(world.agent.run(&["reload"]).code, 2);
    world.configure();
    Cost::default()
}

/// It is taken over by itself, sooner or later.
pub(crate) fn certificate_renewed(world: &mut World<'_>) -> Cost {
    world.authority.issue("soak", &["soak.test"]);
    Cost::default()
}

/// These backends have no listener, so they get no clients.
pub(crate) fn many_at_once(world: &mut World<'_>) -> Cost {
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let agent = &world.agent;
            scope.spawn(move || {
                let address = format!("127.0.0.1:{}", 6000 + caller);
                for _ in 0..3 {
                    agent.ok(&["add-backend", &address, "--service", "web"]);
                    agent.ok(&["remove-backend", &address, "--service", "web"]);
                }
            });
        }
    });
    Cost::default()
}

pub(crate) fn silent_crowd(world: &mut World<'_>) -> Cost {
    let silent: Vec<_> = (0..world.crowd)
        .map(|_| UnixStream::connect(world.agent.control()).unwrap())
        .collect();
    world.agent.ok(&["status"]);
    drop(silent);
    Cost::default()
}

/// On the control socket, for metrics, and on each way.
pub(crate) fn noise(world: &mut World<'_>) -> Cost {
    let patience = Some(Duration::from_millis(20));
    for n in 0..5 {
        let bytes = junk(&mut world.random);
        let control = UnixStream::connect(world.agent.control()).unwrap();
        control.set_read_timeout(patience).unwrap();
        shout(control, &bytes);
        world.hosts.balancer.run(|| {
            let metrics = TcpStream::connect("127.0.0.1:9600").unwrap();
            metrics.set_read_timeout(patience).unwrap();
            shout(metrics, &bytes);
        });
        let (v4, v6) = (client_v4(181 + n), client_v6(181 + n));
        let shout_at = |to: SocketAddr| {
            let from = if to == SERVICE_V6 { v6 } else { v4 };
            let stream = http::connect(from, to).unwrap();
            stream.set_read_timeout(patience).unwrap();
            shout(stream, &bytes);
        };
        world.hosts.clients.run(|| {
            let (datagrams, streams): (Vec<Way>, _) =
                Way::ALL.into_iter().partition(|way| way.is_udp());
            streams.into_iter().map(Way::address).for_each(shout_at);
            for way in datagrams {
                let socket = UdpSocket::bind((v4, 0)).unwrap();
                let _ = socket.send_to(&bytes[..bytes.len().min(1000)], way.address());
            }
        });
    }
    Cost::default()
}
