//! Lines of the log with a cause that may occur many times a second. Each is written at a limited
//! rate, with a count of its causes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Least time between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// One line of the log, limited in its rate.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    /// Causes since the last line.
    since: u64,
}

impl Seldom {
    /// A line that was not written yet.
    pub const fn new() -> Self {
        Self(Mutex::new(State {
            last: None,
            since: 0,
        }))
    }

    /// Counts a cause. If the line may be written now, returns the number of causes since the last
    /// one.
    pub fn cause(&self) -> Option<u64> {
        self.cause_at(Instant::now())
    }

    fn cause_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.since += 1;
        if state
            .last
            .is_some_and(|last| now.duration_since(last) < PAUSE)
        {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_at_once_and_then_for_all_causes_of_a_while() {
        let line = Seldom::new();
        let start = Instant::now();
        assert_eq!(line.cause_at(start), Some(1));
        for ms in 1..1000 {
            assert_eq!(line.cause_at(start + Duration::from_millis(ms)), None);
        }
        assert_eq!(line.cause_at(start + PAUSE), Some(1000));
    }
}
