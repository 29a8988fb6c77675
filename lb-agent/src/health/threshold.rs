//! From outcomes in a row to up or down.

use std::time::Duration;

/// How many outcomes in a row it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Good ones, to come up.
    pub(super) rise: u32,
    /// Failures, to go down.
    pub(super) fall: u32,
}

/// Health state of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is known yet: it is left as it was.
    Unproven {
        /// Whether it was in service.
        up: bool,
    },
    /// It serves.
    Up,
    /// It does not.
    Down,
}

impl State {
    /// Whether it gets connections.
    pub fn serves(self) -> bool {
        matches!(self, Self::Up | Self::Unproven { up: true })
    }
}

/// The state of one backend. Times are since any moment that stays the same.
#[derive(Clone, Debug)]
pub(super) struct Threshold {
    state: State,
    since: Duration,
    /// Outcomes in a row that speak against the state.
    against: u32,
    recovered: Option<Duration>,
}

impl Threshold {
    /// Of a backend of which nothing is known but whether it was in service.
    pub(super) fn new(up: bool, now: Duration) -> Self {
        Self {
            state: State::Unproven { up },
            since: now,
            against: 0,
            recovered: None,
        }
    }

    /// Counts an outcome. Whether it serves has changed if this returns true.
    ///
    /// The first outcome decides alone: a backend that is away when the agent starts, or when it
    /// is added, is not to get clients until `fall` probes have failed.
    pub(super) fn observe(&mut self, good: bool, rules: Rules, now: Duration) -> bool {
        let needed = match (self.state, good) {
            (State::Unproven { .. }, _) => 1,
            (State::Up, false) => rules.fall,
            (State::Down, true) => rules.rise,
            (State::Up, true) | (State::Down, false) => {
                self.against = 0;
                return false;
            }
        };
        self.against += 1;
        if self.against < needed {
            return false;
        }
        let served = self.state.serves();
        self.state = if good { State::Up } else { State::Down };
        self.against = 0;
        self.since = now;
        self.recovered = (good && !served).then_some(now);
        served != good
    }

    /// Present health state.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Time of the last change of state, on the caller's clock.
    pub(super) fn since(&self) -> Duration {
        self.since
    }

    /// Outcomes in a row that speak against the state.
    pub(super) fn against(&self) -> u32 {
        self.against
    }

    /// When it came back, if it was away before.
    pub(super) fn recovered(&self) -> Option<Duration> {
        self.recovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { rise: 2, fall: 3 };

    /// The states after each of `outcomes`, `+` good and `-` failed, as `+`, `-` or `?`.
    fn states(up: bool, outcomes: &str) -> String {
        let mut threshold = Threshold::new(up, Duration::ZERO);
        let after = |(at, outcome): (usize, char)| {
            let served = threshold.state().serves();
            let now = Duration::from_secs(at as u64 + 1);
            let changed = threshold.observe(outcome == '+', RULES, now);
            assert_eq!(changed, served != threshold.state().serves());
            match threshold.state() {
                State::Unproven { .. } => '?',
                State::Up => '+',
                State::Down => '-',
            }
        };
        outcomes.chars().enumerate().map(after).collect()
    }

    #[test]
    fn the_first_outcome_decides_alone() {
        assert_eq!(states(true, "-"), "-");
        assert_eq!(states(false, "+"), "+");
    }

    #[test]
    fn it_takes_as_many_in_a_row_as_the_rules_say() {
        assert_eq!(states(true, "+---"), "+++-");
        assert_eq!(states(true, "+--+--+---"), "+++++++++-");
        assert_eq!(states(true, "-+-+++"), "----++");
    }

    #[test]
    fn only_who_was_away_has_recovered() {
        let at = Duration::from_secs;
        let mut fresh = Threshold::new(true, at(0));
        fresh.observe(true, RULES, at(1));
        assert_eq!(fresh.recovered(), None, "it was in service all the time");
        let mut back = Threshold::new(false, at(0));
        back.observe(true, RULES, at(1));
        assert_eq!(back.recovered(), Some(at(1)));
        for second in 2..5 {
            back.observe(false, RULES, at(second));
        }
        assert_eq!((back.recovered(), back.since()), (None, at(4)));
    }
}
