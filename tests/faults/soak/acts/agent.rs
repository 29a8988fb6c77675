//! The agent dies, has a rival, or runs out of something.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lb_tests::agent::program;
use lb_tests::limited::Limited;
use lb_tests::topology::hosts::{SERVICE_V6, client_v4, client_v6};
use lb_tests::{http, wait};

use crate::judge::Cost;
use crate::ways::Way;
use crate::world::{DRAIN, World};

/// Connections through the agent end with it. The kernel keeps the others, and all affinity entries.
fn death() -> Cost {
    Cost {
        loses: &[Way::Proxy, Way::Http, Way::Http2],
        ends: &[Way::Http, Way::Http2],
        ..Cost::default()
    }
}

pub(crate) fn killed(world: &mut World<'_>) -> Cost {
    world.agent.kill();
    world.start_agent();
    death()
}

pub(crate) fn restarted(world: &mut World<'_>) -> Cost {
    world.agent.ok(&["stop"]);
    world.agent.wait_for_end();
    world.start_agent();
    death()
}

/// The next agent is started while the last one still reads requests, and no request is lost. Some
/// WebSockets are lost, for which the last one's time was too short. Connections over HTTP/2 end, as
/// the last one tells them to. The last one serves other clients that come to the agent, until the next
/// one does.
pub(crate) fn handed_over(world: &mut World<'_>) -> Cost {
    let begun = Instant::now();
    let mut last = world.agent.end();
    world.start_agent();
    let in_time = begun.elapsed() < DRAIN;
    last.wait();
    Cost {
        // A machine may be too busy to start an agent in that time.
        loses: if in_time {
            &[]
        } else {
            &[Way::Proxy, Way::Http, Way::Http2]
        },
        ends: &[Way::Http, Way::Http2],
        ..Cost::default()
    }
}

pub(crate) fn killed_in_a_reload(world: &mut World<'_>) -> Cost {
    world.settings.weight = 1 + world.random.below(3);
    world.configure();
    let mut reload = world.hosts.balancer.command(program());
    reload
        .arg("reload")
        .env("LB_AGENT_CONTROL", world.agent.control())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut asked = reload.spawn().unwrap();
    // Not a wait for a condition: each time hits another moment.
    std::thread::sleep(Duration::from_micros(world.random.below(40_000)));
    world.agent.kill();
    asked.wait().unwrap();
    world.start_agent();
    death()
}

/// In a cgroup that has hardly any room, each connection takes some.
pub(crate) fn out_of_memory(world: &mut World<'_>) -> Cost {
    let limited = Limited::new(512 << 10);
    fs::write(limited.members(), world.agent.pid().to_string()).unwrap();
    let clients = &world.hosts.clients;
    let mut held = Vec::new();
    wait::until("the agent to be killed for its memory", || {
        let more = |n: u16| http::connect(client_v4(151 + n), Way::Http.address()).ok();
        held.extend(clients.run(|| (0..20).filter_map(more).collect::<Vec<_>>()));
        for mut stream in &held {
            // The beginning of a request: the received part is kept.
            let _ = std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nX: y");
        }
        world.agent.has_ended().then_some(())
    });
    world.agent.kill();
    world.start_agent();
    death()
}

/// Its open files, and how many there may be.
fn open_files(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

fn limit_files(pid: u32, most: &str) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={most}:")]);
    assert!(command.status().unwrap().success());
}

pub(crate) fn out_of_descriptors(world: &mut World<'_>) -> Cost {
    let pid = world.agent.pid();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let usual = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let usual = usual.unwrap().split_whitespace().nth(3).unwrap().to_owned();
    let most = open_files(pid) + 20;
    limit_files(pid, &most.to_string());
    let mut held = Vec::new();
    let mut from = (21..=200).cycle();
    wait::until("the agent to run out of descriptors", || {
        let next = client_v6(from.next().expect("a cycle"));
        held.extend(world.hosts.clients.run(|| http::connect(next, SERVICE_V6)));
        (open_files(pid) + 1 >= most).then_some(())
    });
    limit_files(pid, &usual);
    drop(held);
    wait::until("the agent to come back", || {
        (world.agent.run(&["status"]).code == 0).then_some(())
    });
    Cost {
        ends: &[],
        // Those that are idle make room.
        may_end: &[Way::Http, Way::Http2],
        ..death()
    }
}

pub(crate) fn second(world: &mut World<'_>) -> Cost {
    let second = world.agent.run_command().output().unwrap();
    assert!(!second.status.success(), "{second:?}");
    Cost::default()
}
