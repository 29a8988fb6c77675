//! Random steps against a map of the flows that should be there.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Flows that the steps are about. Every other one gets a source port.
const FLOWS: u32 = 90;
/// Source ports that they share.
const PORTS: u32 = 24;

/// A step; numbers are those of flows.
#[derive(Clone, Copy, Debug)]
enum Step {
    Enter(u32),
    Establish(u32),
    Mark(u32, u32),
    Lock(u32),
    Unlock(u32),
    Remove(u32),
    /// A packet from the client.
    Touch(u32),
    /// So many seconds pass.
    Age(u32),
    /// A stale find of a flow that has gone is used: its number.
    Late(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..FLOWS;
    let end = prop::sample::select(vec![
        state::RST,
        state::FIN,
        state::FIN << state::BACKEND,
        state::SEEN << state::BACKEND,
    ]);
    prop_oneof![
        8 => number().prop_map(Step::Enter),
        6 => number().prop_map(Step::Establish),
        2 => (number(), end).prop_map(|(number, bits)| Step::Mark(number, bits)),
        1 => number().prop_map(Step::Lock),
        3 => number().prop_map(Step::Unlock),
        2 => number().prop_map(Step::Remove),
        2 => number().prop_map(Step::Touch),
        2 => (0u32..20).prop_map(Step::Age),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::Late(which.index(1 << 16))),
    ]
}

/// A flow that should be there.
#[derive(Clone, Copy)]
struct Known {
    at: At,
    new: NewFlow,
    seen_s: u32,
    /// The expected state, but for the version.
    state: u32,
}

struct Model<const N: usize> {
    table: Table<N>,
    known: HashMap<u32, Known>,
    gone: Vec<At>,
    now_s: u32,
}

impl<const N: usize> Model<N> {
    fn new() -> Self {
        Self {
            table: Table::new(3),
            known: HashMap::new(),
            gone: vec![],
            now_s: START_S,
        }
    }

    fn new_flow(number: u32) -> NewFlow {
        if number.is_multiple_of(2) {
            flow::<N>(number)
        } else {
            flow_given::<N>(number, PORTS)
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Enter(number) => self.enter(number),
            Step::Age(seconds) => self.now_s += seconds,
            Step::Late(which) if !self.gone.is_empty() => {
                let at = self.gone[which % self.gone.len()];
                stays(&mut self.table, &at);
            }
            Step::Late(_) => {}
            Step::Establish(number)
            | Step::Mark(number, _)
            | Step::Lock(number)
            | Step::Unlock(number)
            | Step::Remove(number)
            | Step::Touch(number) => {
                if let Some(known) = self.known.remove(&number) {
                    match self.change(step, known) {
                        Some(known) => {
                            self.known.insert(number, known);
                        }
                        None => self.gone.push(known.at),
                    }
                }
            }
        }
    }

    /// The flow after a step; `None` if it has gone.
    fn change(&mut self, step: Step, mut known: Known) -> Option<Known> {
        let (at, word) = (known.at, &mut known.state);
        match step {
            Step::Establish(_) if !state::is_ended(*word) => {
                let (pinned, _) = self.table.counts(at.set as usize, at.way() & HALF);
                let pins = pinned < MOST_PINNED;
                let first = *word & state::ESTABLISHED == 0;
                assert_eq!(self.table.establish(&at), first.then_some(pins));
                if first {
                    *word |= state::ESTABLISHED | if pins { state::PINNED } else { 0 };
                }
            }
            Step::Mark(_, bits) => {
                self.table.mark(&at, bits);
                *word |= bits;
                if state::is_ended(*word) {
                    *word &= !state::PINNED;
                }
            }
            Step::Lock(_) => {
                let free = *word & state::LOCKED == 0;
                assert_eq!(lock(self.table.set(&at), &at), free);
                *word = *word & !state::WAY_BACK | state::LOCKED;
            }
            Step::Unlock(_) if *word & state::LOCKED != 0 => {
                unlock(self.table.set(&at), &at);
                *word = *word & !state::LOCKED | state::WAY_BACK;
            }
            Step::Remove(_) => {
                let free = *word & state::LOCKED == 0;
                assert_eq!(self.table.remove(&at), free);
                return (!free).then_some(known);
            }
            Step::Touch(_) => {
                known.seen_s = self.now_s;
                self.table.set(&at).entries[at.way()].seen_s[0] = self.now_s;
            }
            _ => {}
        }
        Some(known)
    }

    fn enter(&mut self, number: u32) {
        let mut new = Self::new_flow(number);
        let entered = self.table.enter_new(&mut new, self.now_s);
        match entered {
            Ok(Entered { at, evicted }) => {
                assert!(!self.known.contains_key(&number));
                let pushed_out = self.push_out(at.set, at.way);
                let not_over = pushed_out.is_some_and(|known| !self.is_over(&known));
                assert_eq!(evicted, not_over);
                let (seen_s, state) = (self.now_s, at.state & !state::VERSION);
                let known = Known {
                    at,
                    new,
                    seen_s,
                    state,
                };
                self.known.insert(number, known);
            }
            Err(Refused::There) => assert!(self.known.contains_key(&number)),
            Err(Refused::NoPort) => {
                assert!(new.ports.span != 0 && !self.known.contains_key(&number));
            }
            Err(Refused::NoRoom) => {
                let home = self.table.home(number);
                let kept = |known: &&Known| {
                    let same = known.at.set == home.set && known.at.way() & HALF == home.half();
                    same && known.state & KEPT != 0
                };
                assert_eq!(self.known.values().filter(kept).count(), HALF);
            }
        }
    }

    /// Removes the flow that had a place now given to another flow.
    fn push_out(&mut self, set: u32, way: u16) -> Option<Known> {
        let had = |known: &Known| (known.at.set, known.at.way) == (set, way);
        let (number, known) = self.known.iter().find(|(_, known)| had(known))?;
        let (number, known) = (*number, *known);
        assert_eq!(
            known.state & KEPT,
            0,
            "{number} is kept, and was pushed out"
        );
        self.known.remove(&number);
        self.gone.push(known.at);
        Some(known)
    }

    fn is_over(&self, known: &Known) -> bool {
        let established = known.state & state::ESTABLISHED != 0;
        let old = self.now_s - known.seen_s >= self.table.settings.syn_s;
        state::is_ended(known.state) || !established && old
    }

    /// All that is there is known, and all that is known is there.
    fn check(&self) {
        for number in 0..FLOWS {
            let Some(known) = self.known.get(&number) else {
                let mut new = Self::new_flow(number);
                // Its client's packets find none, with any source port it would have got.
                new.ports.span = 0;
                assert_eq!(self.by_client(&new), None, "{number} is there");
                continue;
            };
            assert_eq!(
                self.by_client(&known.new),
                Some((known.at.set, known.at.way))
            );
            assert!(self.table.is_flow(&known.at, &known.new));
            assert_eq!(self.table.state(&known.at) & !state::VERSION, known.state);
            let found = if known.state & state::GIVEN_OUT != 0 {
                self.table.find_port(&known.new)
            } else {
                self.table.find(number, End::Backend)
            };
            let found = found.map(|at| (at.set, at.way));
            assert_eq!(found, Some((known.at.set, known.at.way)));
        }
        let all = self.table.sets.iter().flat_map(|set| set.entries);
        let in_use = all.filter(|entry| entry.state & !state::VERSION != 0);
        assert_eq!(in_use.count(), self.known.len());
        let known = self.known.values();
        let given_out = known.filter(|known| known.state & state::GIVEN_OUT != 0);
        assert_eq!(given_out.count(), self.table.ports_taken());
        self.table.counts(0, 0);
    }

    fn by_client(&self, new: &NewFlow) -> Option<(u32, u16)> {
        let (words, protocol) = (new.key.words::<N>(), new.key.protocol as u8);
        let home = Home::of(&self.table.settings, &words, End::Client, protocol);
        let set = &self.table.sets[home.set as usize];
        let (way, _) = find(set, &home, End::Client, &words, protocol)?;
        Some((home.set, way as u16))
    }
}

fn run<const N: usize>(steps: &[Step]) {
    let mut model = Model::<N>::new();
    for step in steps {
        model.take(*step);
        model.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_entered_is_found_until_it_is_removed_or_gives_its_place_to_another(
        steps in prop::collection::vec(step(), 1..600)
    ) {
        run::<3>(&steps);
        run::<9>(&steps);
    }
}
