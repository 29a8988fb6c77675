//! Several threads use one set in shared memory, through the agent's [`Place`].

use std::array;
use std::sync::atomic::{AtomicBool, AtomicPtr};
use std::thread;
use std::time::{Duration, Instant};

use lb_common::abi::packet::Ip;
use lb_common::abi::{ServiceId, protocol};
use lb_common::flows::{Entered, PortRange, Wanted};

use super::*;

/// Duration of the test.
const RUNS: Duration = Duration::from_millis(800);
/// Most steps of one writer.
const STEPS: u32 = 400_000;
/// Fewest steps of one writer, even when the time is over.
const FEWEST_STEPS: u32 = 1000;
/// Number of writing threads.
const WRITERS: u32 = 3;
/// Number of source ports.
const PORTS: usize = 64;
/// The constant clock of all threads, in seconds: no flow becomes too old.
const NOW_S: u32 = 100;
/// Upper half of `next_seq`; the lower half is the flow's number.
const TELLS: u32 = 0x5a5a_0000;

/// A set and the source ports, in memory that all threads share.
struct Shared {
    set: AtomicPtr<FlowSet<3>>,
    ports: [AtomicU32; PORTS],
    settings: PacketSettings,
    ended: AtomicBool,
}

impl Shared {
    fn new() -> Self {
        Self {
            // The set is leaked: it is small, and this file has no unsafe code to free it.
            set: AtomicPtr::new(Box::leak(Box::new(FlowSet::EMPTY))),
            ports: array::from_fn(|_| AtomicU32::new(0)),
            settings: PacketSettings {
                syn_s: 30,
                sets: 1,
                ports: PORTS as u32,
                key: [3, 0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 7, 11, 13],
                ..PacketSettings::default()
            },
            ended: AtomicBool::new(false),
        }
    }

    fn place(&self) -> Place<3> {
        Place(self.set.load(Ordering::SeqCst))
    }

    fn enter(&self, number: u32) -> Option<Entered> {
        let mut new = flow(number);
        let wanted = Wanted::new(&self.settings, &new, NOW_S);
        let (mut set, mut ports) = (self.place(), Taken(&self.ports));
        flows::enter(&mut set, &mut ports, &self.settings, &wanted, &mut new).ok()
    }

    fn remove(&self, at: &At) -> bool {
        let mut ports = Taken(&self.ports);
        flows::remove(&mut self.place(), &mut ports, &self.settings, at)
    }
}

/// The shared source ports as a table.
struct Taken<'a>(&'a [AtomicU32; PORTS]);

impl Ports for Taken<'_> {
    fn replace(&mut self, place: u32, old: u32, new: u32) -> bool {
        let word = &self.0[place as usize];
        let replaced = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        replaced.is_ok()
    }

    /// No flow of this test is counted for its client.
    fn uncount(&mut self, counted: Counted) {
        assert_eq!(counted, Counted::NONE);
    }
}

/// A flow with its number in every field. Every other flow gets a source port.
fn flow(number: u32) -> NewFlow {
    let key = FlowKey {
        src: Ip::v4(number.wrapping_mul(0x9e37_79b1)),
        dst: Ip::v4(!number),
        sport_be: number as u16,
        dport_be: !number as u16,
        protocol: u32::from(protocol::TCP),
    };
    let given_out = number.is_multiple_of(2);
    NewFlow {
        key,
        out: FlowKey {
            dst: Ip::v4(number ^ 0x5555_5555),
            dport_be: number as u16 ^ 0x5555,
            ..key
        },
        backend: BackendId(number),
        service: ServiceId(number & 0xffff),
        state: state::SEEN,
        next_seq: number ^ TELLS,
        ports: PortRange {
            base: 1024,
            span: if given_out { 512 } else { 0 },
            start: 0,
        },
    }
}

/// Whether all fields of the copy belong to one flow.
fn is_whole(met: &Met) -> bool {
    let mut flow = flow(met.backend.0);
    if met.has(state::GIVEN_OUT) {
        flow.out.sport_be = met.out.sport_be;
        let port = u16::from_be(met.out.sport_be);
        if !(1024..1024 + 512).contains(&port) {
            return false;
        }
    }
    let same = met.key == flow.key && met.out == flow.out;
    same && met.next_seq == [flow.next_seq, 0] && met.seen_s == [NOW_S; 2]
}

/// An endless sequence of pseudorandom numbers (Marsaglia, "Xorshift RNGs", Journal of Statistical Software
/// 8(14), 2003).
fn random(state: &mut u32) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    *state
}

/// Enters flows, and changes or removes flows of all writers, as the programs do.
fn write(shared: &Shared, writer: u32) -> u32 {
    let mut set = shared.place();
    let mut seed = writer + 1;
    let mut found = [At::NONE; 24];
    let mut entered = 0;
    for step in 0..STEPS {
        if step >= FEWEST_STEPS && shared.ended.load(Ordering::Relaxed) {
            break;
        }
        let word = random(&mut seed);
        let at = found[word as usize % found.len()];
        match word >> 16 & 15 {
            0..=5 => {
                // Each number belongs to one writer, as a flow's packets come to one CPU.
                let number = step % 0x1000 * WRITERS + writer;
                if let Some(new) = shared.enter(number) {
                    found[word as usize % found.len()] = new.at;
                    entered += 1;
                }
            }
            6..=9 => drop(flows::establish(&mut set, &at)),
            10 => {
                let ended = state::FIN | state::FIN << state::BACKEND;
                flows::mark(&mut set, &mut Taken(&shared.ports), &at, ended, 0);
            }
            11 => flows::mark(&mut set, &mut Taken(&shared.ports), &at, state::GIVEN_UP, 0),
            12 => {
                if flows::lock(&mut set, &at) {
                    flows::unlock(&mut set, &at);
                }
            }
            13 => {
                // This flow may be one that another thread has entered.
                let way = word as usize % FlowSet::<3>::WAYS;
                if let Some(Ok(met)) = set.meet(0, way) {
                    assert!(is_whole(&met), "{met:?}");
                    found[way] = met.at;
                }
            }
            _ => drop(shared.remove(&at)),
        }
    }
    entered
}

/// Reads all places until the writers have ended. Returns the number of flows read.
fn look(shared: &Shared) -> u32 {
    let mut met = 0;
    loop {
        let ended = shared.ended.load(Ordering::Relaxed);
        for flow in shared.place().met(0).into_iter().flatten() {
            assert!(is_whole(&flow), "parts of two flows: {flow:?}");
            met += 1;
        }
        if ended {
            return met;
        }
    }
}

/// The counts of each half and the source ports match the flows in the set, and no place is reserved.
fn check(shared: &Shared) {
    let set = shared.place();
    let of = |half: usize, bit: u32| {
        let ways = half..half + 8;
        ways.filter(|way| set.state(*way) & bit != 0).count() as u32
    };
    for half in [0, 8] {
        assert_eq!(of(half, state::BUSY | state::LOCKED), 0);
        assert!(of(half, state::PINNED) < 8);
        let displaced = of(half ^ 8, state::DISPLACED);
        assert_eq!(set.counts(half), of(half, state::PINNED) | displaced << 16);
    }
    let taken = shared.ports.iter().map(|port| port.load(Ordering::SeqCst));
    let taken = taken.filter(|number| *number != 0).count() as u32;
    assert_eq!(taken, of(0, state::GIVEN_OUT) + of(8, state::GIVEN_OUT));
}

#[test]
fn whoever_looks_at_a_set_that_others_change_sees_one_flow_or_none_and_the_counts_stay_right() {
    let shared = Shared::new();
    let (entered, met) = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let shared = &shared;
                    move || write(shared, writer)
                })
            })
            .collect();
        let reader = scope.spawn(|| look(&shared));
        let end = Instant::now() + RUNS;
        while Instant::now() < end && !writers.iter().all(|writer| writer.is_finished()) {
            thread::yield_now();
        }
        shared.ended.store(true, Ordering::Relaxed);
        let entered: Vec<u32> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        (entered, reader.join().unwrap())
    });
    assert!(entered.iter().all(|entered| *entered > 0), "{entered:?}");
    assert!(met > 0);
    check(&shared);
}
