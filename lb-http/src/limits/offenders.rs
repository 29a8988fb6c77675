//! Clients that went over a limit with `ban`, until the agent has banned them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_common::addr::Addr;

/// Most clients that wait. The next request of another one asks again.
const MOST: usize = 256;

/// A client that is to be banned from a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offender {
    /// Its address, without the bits that do not count.
    pub prefix: Addr,
    /// Bits that count, of 128: for IPv4 at least 96.
    pub bits: u32,
    /// The service.
    pub service: String,
    /// The limit.
    pub limit: String,
    /// For how long.
    pub length: Duration,
}

#[derive(Default)]
pub(super) struct Offenders(Mutex<Vec<Offender>>);

impl Offenders {
    pub(super) fn note(&self, offender: Offender) {
        let mut waiting = self.waiting();
        if waiting.len() < MOST && !waiting.contains(&offender) {
            waiting.push(offender);
        }
    }

    pub(super) fn take(&self) -> Vec<Offender> {
        std::mem::take(&mut self.waiting())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Offender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offender(number: u8, limit: &str) -> Offender {
        Offender {
            prefix: [number; 16],
            bits: 128,
            service: "web".to_owned(),
            limit: limit.to_owned(),
            length: Duration::from_secs(60),
        }
    }

    #[test]
    fn client_waits_once_and_the_number_of_waiting_clients_is_bounded() {
        let offenders = Offenders::default();
        for _ in 0..3 {
            offenders.note(offender(1, "login"));
        }
        assert_eq!(offenders.take(), [offender(1, "login")]);
        assert_eq!(offenders.take(), []);
        for number in 0..=255 {
            offenders.note(offender(number, "login"));
            offenders.note(offender(number, "all"));
        }
        assert_eq!(offenders.take().len(), MOST);
    }
}
