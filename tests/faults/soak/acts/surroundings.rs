//! The disk, the clock and the network.

use lb_tests::topology::hosts::{client_v4, client_v6};
use lb_tests::wait;
use serde_json::Value;

use crate::judge::Cost;
use crate::ways::Way;
use crate::world::World;

/// A change that cannot be stored is refused, without any other effect.
fn refused(world: &World<'_>, error: &str) {
    let outcome = world
        .agent
        .run(&["add-backend", "127.0.0.1:6100", "--service", "web"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains(error), "{outcome:?}");
}

pub(crate) fn disk_full(world: &mut World<'_>) -> Cost {
    world.disk.fill();
    refused(world, "No space left on device");
    world.disk.free();
    Cost::default()
}

pub(crate) fn disk_read_only(world: &mut World<'_>) -> Cost {
    world.disk.forbid();
    refused(world, "Read-only file system");
    world.disk.allow();
    Cost::default()
}

pub(crate) fn clock_stepped(world: &mut World<'_>) -> Cost {
    let at = |world: &World<'_>| world.stats()["at_unix_ms"].as_u64().unwrap();
    let before = at(world);
    for step in ["+400d", "-400d"] {
        world.clock.step(step);
        wait::until("the step", || {
            (at(world).abs_diff(before) / 86_400_000 >= 399).then_some(())
        });
        // Previous clients are remembered, and their entries are recent.
        let client = client_v4(1).to_string();
        let lookup = ["lookup", &client, "--service", "web", "--json"];
        let age = wait::until("a client to be known", || {
            let found: Value = serde_json::from_str(&world.agent.ok(&lookup)).unwrap();
            found["affinity"]["age_seconds"].as_u64()
        });
        assert!(age < 120, "{age} seconds");
    }
    world.clock.step("+0");
    Cost::default()
}

/// No backend can be reached meanwhile.
fn cut_off() -> Cost {
    Cost {
        loses: &Way::ALL,
        ..Cost::default()
    }
}

/// Waits until packets come through.
fn reachable(world: &World<'_>) {
    wait::until("the wire", || {
        let visit = |way: &Way| {
            let from = match way {
                Way::Proxy => client_v6(30),
                _ => client_v4(100),
            };
            way.visit(from).is_ok()
        };
        world
            .hosts
            .clients
            .run(|| Way::ALL.iter().all(visit))
            .then_some(())
    });
}

pub(crate) fn interface_renamed(world: &mut World<'_>) -> Cost {
    let next = if world.wire == "wire" {
        "cable"
    } else {
        "wire"
    };
    let link = |words: &[&str]| world.hosts.balancer.ip(&[&["link", "set"], words].concat());
    link(&[&world.wire, "down"]);
    world.agent.ok(&["status"]);
    link(&[&world.wire, "name", next]);
    link(&[next, "up"]);
    next.clone_into(&mut world.wire);
    reachable(world);
    cut_off()
}

pub(crate) fn interface_readdressed(world: &mut World<'_>) -> Cost {
    let address = |word: &str, address: &str| {
        let host = &world.hosts.balancer;
        host.ip(&["addr", word, address, "dev", &world.wire]);
    };
    address("del", "10.99.0.1/16");
    address("add", "10.99.0.77/16");
    world.agent.ok(&["status"]);
    address("del", "10.99.0.77/16");
    address("add", "10.99.0.1/16");
    reachable(world);
    cut_off()
}
