//! The task that carries out probes as they come due.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::board::Job;
use super::{Shared, probe};
use crate::state::overlay::Target;

/// Limit of probes under way at a time: each has a socket. With all places taken, other probes wait and
/// come late.
const AT_A_TIME: usize = 512;
/// Longest sleep when no probe is due.
const IDLE: Duration = Duration::from_secs(3600);

/// Probes the watched backends, for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let next = shared.board().next_probe();
        let at = Instant::from_std(shared.origin + next.unwrap_or(shared.now() + IDLE));
        tokio::select! {
            () = sleep_until(at) => {}
            () = shared.wake.notified() => continue,
        }
        // The place comes first: a probe may not be due any more by the time there is one.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let job = shared.board().due(shared.now());
        if let Some(job) = job {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                carry_out(&shared, &job).await;
                drop(place);
            });
        }
    }
}

async fn carry_out(shared: &Shared, job: &Job) {
    let outcome = probe::probe(&job.target.address, &job.check).await;
    tell(job, &outcome);
    let now = shared.now();
    let changed = shared.board().report(job, outcome, now);
    shared.announce(&job.target, changed);
}

fn tell(job: &Job, outcome: &Result<Duration, String>) {
    let Target { service, address } = &job.target;
    match outcome {
        Ok(took) => {
            let took_ms = took.as_millis() as u64;
            tracing::trace!(%service, backend = %address, took_ms, "probed");
        }
        Err(error) => tracing::debug!(%service, backend = %address, error, "a probe failed"),
    }
}
