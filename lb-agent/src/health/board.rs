//! The states of all watched backends. From them follow the probes due now, the backends fit to serve, and
//! the share of their weight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::schedule::{Random, Schedule, first_wait, next_wait};
use super::threshold::{Rules, State, Threshold};
use crate::state::overlay::Target;
use crate::state::verdict::{FULL_RAMP, Verdict};
use lb_config::health::{Health as Check, Probe};

/// A backend that is to be watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The backend to watch.
    pub target: Target,
    /// The check to carry out.
    pub check: Arc<Check>,
    /// Whether it is in service as things stand: that stays so until the first probe.
    pub up: bool,
}

/// A probe to carry out.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// The backend to probe.
    pub(super) target: Target,
    /// The check to carry out.
    pub(super) check: Arc<Check>,
    /// Which time the backend is watched: a late answer to an earlier one counts for nothing.
    ticket: u64,
}

/// The health of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Present state of the backend.
    pub state: State,
    /// Time in this state.
    pub since: Duration,
    /// Probes or connections in a row that contradict the state.
    pub against: u32,
    /// Description of the check, as in "http GET /healthz".
    pub check: String,
    /// The last failure, and how long ago it was.
    pub last_error: Option<(String, Duration)>,
    /// How long the last good probe took.
    pub took: Option<Duration>,
}

struct Entry {
    check: Arc<Check>,
    threshold: Threshold,
    ticket: u64,
    probing: bool,
    last_error: Option<(String, Duration)>,
    took: Option<Duration>,
}

/// All of them. Times are since any moment that stays the same.
pub(super) struct Board {
    entries: BTreeMap<Target, Entry>,
    schedule: Schedule<Target>,
    random: Random,
    tickets: u64,
}

impl Board {
    /// A board without backends.
    pub(super) fn new(random: Random) -> Self {
        Self {
            entries: BTreeMap::new(),
            schedule: Schedule::new(),
            random,
            tickets: 0,
        }
    }

    /// Watches these, and no others any more.
    pub(super) fn watch(&mut self, wanted: Vec<Watched>, now: Duration) {
        let names: BTreeSet<&Target> = wanted.iter().map(|watched| &watched.target).collect();
        let schedule = &mut self.schedule;
        self.entries.retain(|target, _| {
            let stays = names.contains(target);
            if !stays {
                schedule.remove(target);
            }
            stays
        });
        let known = |watched: &&Watched| self.entries.contains_key(&watched.target);
        let accept_policy = wanted.len() - wanted.iter().filter(known).count();
        for watched in wanted {
            self.watch_one(watched, accept_policy, now);
        }
    }

    fn watch_one(&mut self, watched: Watched, accept_policy: usize, now: Duration) {
        let Watched { target, check, up } = watched;
        if let Some(entry) = self.entries.get_mut(&target) {
            // Another question may have another answer, and other times hold from now on.
            if entry.check != check {
                entry.check = check;
                if entry.rests() {
                    self.schedule.remove(&target);
                } else if !entry.probing {
                    self.schedule.put(target, now);
                }
            }
            return;
        }
        self.tickets += 1;
        let wait = first_wait(accept_policy, check.interval, self.random.next());
        let entry = Entry {
            check,
            threshold: Threshold::new(up, now),
            ticket: self.tickets,
            probing: false,
            last_error: None,
            took: None,
        };
        if !entry.rests() {
            self.schedule.put(target.clone(), now + wait);
        }
        self.entries.insert(target, entry);
    }

    /// When the next probe is due.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        self.schedule.next()
    }

    /// A probe that is due. Its answer goes to [`Board::report`].
    pub(super) fn due(&mut self, now: Duration) -> Option<Job> {
        let target = self.schedule.pop(now)?;
        let entry = self.entries.get_mut(&target)?;
        entry.probing = true;
        Some(Job {
            target,
            check: Arc::clone(&entry.check),
            ticket: entry.ticket,
        })
    }

    /// The answer to a probe: how long it took, or why it failed. True when a verdict has changed.
    pub(super) fn report(
        &mut self,
        job: &Job,
        outcome: Result<Duration, String>,
        now: Duration,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(&job.target) else {
            return false;
        };
        if entry.ticket != job.ticket {
            return false;
        }
        entry.probing = false;
        let changed = match outcome {
            Ok(took) => {
                entry.took = Some(took);
                entry.observe(None, now)
            }
            Err(error) => entry.observe(Some(error), now),
        };
        let check = &entry.check;
        let in_doubt = entry.threshold.against() > 0;
        let (interval, jitter) = (check.interval, check.jitter_permille);
        if entry.rests() {
            return changed;
        }
        let wait = next_wait(interval, jitter, in_doubt, self.random.next());
        self.schedule.put(job.target.clone(), now + wait);
        changed
    }

    /// A serving task has met a failure. True when a verdict has changed.
    pub(super) fn suspect(&mut self, target: &Target, error: &str, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(target) else {
            return false;
        };
        let asks = entry.check.probe != Probe::Nothing;
        let changed = if entry.check.passive && asks {
            // One failure may be the network's: the probe decides.
            entry.last_error = Some((error.to_owned(), now));
            false
        } else {
            entry.observe(Some(error.to_owned()), now)
        };
        // A probe under way gives its answer soon enough.
        if !entry.probing && entry.threshold.state().serves() {
            self.schedule.put(target.clone(), now);
        } else if changed && !asks {
            self.schedule
                .put(target.clone(), now + entry.check.interval);
        }
        changed
    }

    /// Whether `target` is fit to serve, and with which part of its weight; `None` of one that is not
    /// watched.
    pub(super) fn verdict(&self, target: &Target, now: Duration) -> Option<Verdict> {
        let entry = self.entries.get(target)?;
        Some(Verdict {
            fit: entry.threshold.state().serves(),
            ramp: entry.ramp(now),
        })
    }

    /// When the ramp of a slow start reaches its next step.
    pub(super) fn next_step(&self, now: Duration) -> Option<Duration> {
        self.entries
            .values()
            .filter_map(|entry| entry.next_step(now))
            .min()
    }

    /// Health of `target`; `None` if it was never probed, as it has never failed.
    pub(super) fn about(&self, target: &Target, now: Duration) -> Option<About> {
        let entry = self.entries.get(target)?;
        if entry.rests() && entry.last_error.is_none() {
            return None;
        }
        let ago = |then: Duration| now.saturating_sub(then);
        let last_error = entry.last_error.as_ref();
        Some(About {
            state: entry.threshold.state(),
            since: ago(entry.threshold.since()),
            against: entry.threshold.against(),
            check: entry.check.probe.to_string(),
            last_error: last_error.map(|(error, then)| (error.clone(), ago(*then))),
            took: entry.took,
        })
    }
}

impl Entry {
    /// Whether the backend is not probed: it serves, and only a failure would be a reason to probe it.
    fn rests(&self) -> bool {
        self.check.passive && self.threshold.state().serves()
    }

    fn observe(&mut self, error: Option<String>, now: Duration) -> bool {
        let rules = Rules {
            rise: self.check.rise,
            fall: self.check.fall,
        };
        let good = error.is_none();
        if let Some(error) = error {
            self.last_error = Some((error, now));
        }
        self.threshold.observe(good, rules, now)
    }

    /// Steps of [`FULL_RAMP`] since it has recovered: the first at once, the last at the end.
    fn ramp(&self, now: Duration) -> u16 {
        let slow_start = self.check.slow_start;
        match self.threshold.recovered() {
            Some(since) if !slow_start.is_zero() => {
                let part = now.saturating_sub(since).as_secs_f64() / slow_start.as_secs_f64();
                let steps = (part * f64::from(FULL_RAMP)) as u64 + 1;
                steps.min(FULL_RAMP.into()) as u16
            }
            _ => FULL_RAMP,
        }
    }

    fn next_step(&self, now: Duration) -> Option<Duration> {
        let since = self.threshold.recovered()?;
        let ramp = self.ramp(now);
        // Rounded up, so that the step has been reached for certain.
        let step = self.check.slow_start * u32::from(ramp) / u32::from(FULL_RAMP);
        (ramp < FULL_RAMP).then(|| since + step + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests;
