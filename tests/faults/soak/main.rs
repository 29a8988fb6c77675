//! A seeded soak test combines all faults at random. It has a service on each path, by TCP, UDP, HTTP/1
//! and HTTP/2, under load and with WebSockets open. Meanwhile faults hit the agent, backends, disk,
//! network, clock, limits and callers. The invariants are checked after each act and at the end. It
//! takes twenty-five seconds, or as long as LB_SOAK_SECONDS says (`cargo xtask test soak --minutes
//! 10`).
//!
//! Faults that do not fit into one run with the others have tests of their own. Power cuts at every
//! byte take hundreds of starts (`faults_state`). With all backends gone there is no client left to
//! lose (`faults_backends`). 500 WebSockets under 200 reloads take half a minute (`faults_reload`).

mod acts;
mod apps;
mod figures;
mod inside;
mod judge;
mod sessions;
mod ways;
mod world;

use std::time::{Duration, Instant};

use acts::ACTS;
use lb_tests::random::Random;
use lb_tests::topology::hosts::Hosts;
use lb_tests::wait;
use world::{Act, World};

/// Acts in a random order: every one comes once before any comes twice.
struct Deck<F> {
    fits: F,
    left: Vec<&'static Act>,
    rounds: usize,
}

impl<F: Fn(&Act) -> bool> Deck<F> {
    fn new(fits: F) -> Self {
        Self {
            fits,
            left: Vec::new(),
            rounds: 0,
        }
    }

    fn draw(&mut self, random: &mut Random) -> &'static Act {
        if self.left.is_empty() {
            self.rounds += 1;
            self.left = ACTS.iter().filter(|act| (self.fits)(act)).collect();
            for end in (1..self.left.len()).rev() {
                self.left.swap(end, random.below(end as u64 + 1) as usize);
            }
        }
        self.left.pop().expect("there are acts")
    }
}

#[test]
fn everything_at_random_keeps_every_promise() {
    let seconds = std::env::var("LB_SOAK_SECONDS").ok();
    let seconds = seconds.map_or(25, |text| {
        text.parse().expect("LB_SOAK_SECONDS is a number")
    });
    let length = Duration::from_secs(seconds);
    let random = Random::new();
    let hosts = Hosts::new();
    let mut world = World::new(&hosts, random, length);
    let begun = Instant::now();
    let mut all = Deck::new(|_: &Act| true);
    while begun.elapsed() < length * 3 / 4 {
        let act = all.draw(&mut world.random);
        world.step(act);
    }
    // One agent through the rest of it: an agent that dies leaks nothing.
    let mut harmless = Deck::new(|act: &Act| act.agent_lives);
    let pid = world.agent.pid();
    let (mut before, mut warm) = (world.size(), false);
    while begun.elapsed() < length {
        let act = harmless.draw(&mut world.random);
        if harmless.rounds == 2 && !warm {
            // It has been as full as it ever gets.
            (before, warm) = (world.size(), true);
        }
        world.step(act);
    }
    assert_eq!(world.agent.pid(), pid);
    world.rest();
    println!("the agent before {before}");
    let after = wait::until("the agent to be as small as before", || {
        let now = world.size();
        now.fits(&before).then_some(now)
    });
    println!("the agent after  {after}");
    world.report();
}
