//! One of the applications dies, freezes, or is taken out and put back.

use std::time::Duration;

use lb_tests::wait;
use rustix::process::{Pid, Signal, kill_process};

use crate::judge::Cost;
use crate::ways::Way;
use crate::world::World;

/// Its open connections are lost. Only if requests are read can one that is under way be answered, or
/// be sent again. Connections over HTTP/2 are the agent's.
fn closed(port: u16, ways: &'static [Way]) -> Cost {
    let by_request = ways.contains(&Way::Http);
    Cost {
        loses: if by_request { &[] } else { ways },
        moves: ways,
        ends: if by_request { &[Way::Http] } else { ways },
        may_end: &[],
        ports: concerned(port, ways),
        logged: None,
    }
}

/// The copies whose clients may move if something happens to one of them. The `dsr` path remembers no
/// client, so clients that went to other copies come back.
fn concerned(port: u16, ways: &[Way]) -> Vec<u16> {
    if ways == [Way::Dsr] {
        vec![5030, 5031]
    } else {
        vec![port]
    }
}

/// Its process goes and comes back.
pub(crate) fn killed(world: &mut World<'_>) -> Cost {
    let index = world.any_app();
    let port = world.apps[index].port;
    world.restart_app(index);
    world.wait_until_fit(port);
    let ways = world.apps[index].ways();
    closed(port, ways)
}

/// Requests wait for it, and none is lost.
pub(crate) fn frozen(world: &mut World<'_>) -> Cost {
    let index = world.any_app();
    let process = world.apps[index].process.as_ref().expect("it runs");
    let pid = Pid::from_raw(process.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // Not a wait for a condition: requests pile up.
    std::thread::sleep(Duration::from_millis(world.random.below(500)));
    world.agent.ok(&["status"]);
    kill_process(pid, Signal::CONT).unwrap();
    Cost::default()
}

/// Its clients move, and on the packet paths its open connections are told to end. Elsewhere they go
/// on.
pub(crate) fn removed(world: &mut World<'_>) -> Cost {
    let index = world.any_app();
    let app = &world.apps[index];
    let (port, ways) = (app.port, app.ways());
    let service = ["--service", app.service];
    let change = |verb: &str| {
        world
            .agent
            .ok(&[&[verb, &app.address], &service[..]].concat())
    };
    change("remove-backend");
    change("add-backend");
    let logged = Some(format!("removed {}", app.address));
    world.wait_until_fit(port);
    let by_packets = [Way::Nat, Way::NatDatagrams, Way::Dsr].contains(&ways[0]);
    let told: &[Way] = if by_packets { ways } else { &[] };
    Cost {
        loses: told,
        moves: ways,
        ends: told,
        may_end: &[],
        ports: concerned(port, ways),
        logged,
    }
}

/// Its clients move at once or when the time is over; open connections then go on.
pub(crate) fn drained(world: &mut World<'_>) -> Cost {
    let when = [
        &["--timeout", "200ms"][..],
        &["--timeout", "200ms", "--now"],
    ];
    let when = when[world.random.below(2) as usize];
    let (port, ways) = drain(world, when);
    Cost {
        // There is no other copy.
        loses: if ways == [Way::Datagrams] { ways } else { &[] },
        moves: ways,
        ports: concerned(port, ways),
        ..Cost::default()
    }
}

/// Connections that are open when the time is over are closed.
pub(crate) fn drained_and_closed(world: &mut World<'_>) -> Cost {
    let how = ["--timeout", "200ms", "--at-end", "close", "--wait"];
    let (port, ways) = drain(world, &how);
    closed(port, ways)
}

/// Drains an application, and puts it back in service.
fn drain(world: &mut World<'_>, how: &[&str]) -> (u16, &'static [Way]) {
    let index = world.any_app();
    let app = &world.apps[index];
    let (port, ways) = (app.port, app.ways());
    let name = [app.address.as_str(), "--service", app.service];
    world
        .agent
        .ok(&[&["drain-backend"], &name[..], how].concat());
    wait::until("the end of the drain", || {
        (world.backend(port)["state"] == "drained").then_some(())
    });
    world.agent.ok(&[&["add-backend"], &name[..]].concat());
    world.wait_until_fit(port);
    (port, ways)
}
