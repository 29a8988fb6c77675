//! The snapshots of the page: one a second while somebody watches, and none otherwise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::json;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::counts::Counts;
use super::history::History;
use super::rates;
use crate::control::message::{Bans, Command, Refusal, Reply};
use crate::control::queue::Calls;
use crate::control::stats::Stats;

/// Time between two snapshots.
const PERIOD: Duration = Duration::from_secs(1);
/// Time limit for the agent's answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// A snapshot older than this is no base of a rate, in milliseconds.
const OLD_MS: u64 = 5_000;
/// Log lines of a snapshot.
const EVENTS: usize = 40;

/// The source of snapshots that all watchers share.
pub(super) struct Live {
    calls: Calls,
    frames: watch::Sender<Bytes>,
    /// Somebody has begun to watch.
    wanted: Notify,
    history: Mutex<History>,
    room: Arc<Semaphore>,
}

/// One watcher, which counts for as long as this lives.
pub(super) struct Watcher {
    /// The latest snapshot as an event.
    pub(super) frames: watch::Receiver<Bytes>,
    _room: OwnedSemaphorePermit,
}

impl Live {
    /// Snapshots by `calls`, for at most `most` watchers.
    pub(super) fn new(calls: Calls, most: usize) -> Self {
        Self {
            calls,
            frames: watch::Sender::new(Bytes::new()),
            wanted: Notify::new(),
            history: Mutex::default(),
            room: Arc::new(Semaphore::new(most)),
        }
    }

    /// One watcher more; `None` if there are too many.
    pub(super) fn watch(&self) -> Option<Watcher> {
        let room = Arc::clone(&self.room).try_acquire_owned().ok()?;
        let frames = self.frames.subscribe();
        self.wanted.notify_one();
        Some(Watcher {
            frames,
            _room: room,
        })
    }

    /// The plots of the last hour as an event.
    pub(super) fn history(&self) -> Bytes {
        let history = self.locked().all();
        event("history", &history.to_string())
    }

    /// The answer of the agent to a command; `None` if it does not come in time.
    pub(super) async fn ask(&self, command: Command) -> Option<Result<Reply, Refusal>> {
        let answer = timeout(ANSWER_TIME, self.calls.ask(command, None)).await;
        answer.ok()?
    }

    /// Takes snapshots for as long as somebody watches, and waits otherwise.
    pub(super) async fn run(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<Arc<Counts>> = None;
        loop {
            while self.frames.receiver_count() == 0 {
                self.wanted.notified().await;
            }
            ticks.tick().await;
            if let Some((frame, counts)) = self.snapshot(before.as_deref()).await {
                self.frames.send_replace(frame);
                before = Some(counts);
            }
        }
    }

    async fn snapshot(&self, before: Option<&Counts>) -> Option<(Bytes, Arc<Counts>)> {
        let Ok(Reply::Stats(stats)) = self.ask(Command::Stats).await? else {
            return None;
        };
        let Ok(Reply::Bans(bans)) = self.ask(Command::Bans).await? else {
            return None;
        };
        let counts = Arc::new(Counts::of(&stats));
        let is_recent =
            |before: &&Counts| counts.at_unix_ms.saturating_sub(before.at_unix_ms) < OLD_MS;
        let rows = rates::between(&counts, before.filter(is_recent));
        let mut history = self.locked();
        history.take(Arc::clone(&counts));
        let frame = frame(&stats, &bans, &rows, &history);
        Some((frame, counts))
    }

    fn locked(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn frame(stats: &Stats, bans: &Bans, rows: &[rates::Row], history: &History) -> Bytes {
    let events = &stats.events[stats.events.len().saturating_sub(EVENTS)..];
    let snapshot = json!({
        "at_unix_ms": stats.at_unix_ms,
        "status": stats.status,
        "process": stats.process,
        "rows": rows,
        "bans": bans.bans,
        "events": events,
        "step": history.step(),
        "last": history.last(),
    });
    event("snapshot", &snapshot.to_string())
}

/// A server-sent event (HTML standard, section 9.2). JSON in one line has no line break.
fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queue::{Inbox, queue};

    const DAY: Duration = Duration::from_secs(86_400);

    fn stats() -> Stats {
        serde_json::from_value(json!({
            "at_unix_ms": 1_000_000,
            "status": {"services": [], "agent": {"version": "1", "pid": 1, "uptime_seconds": 1, "data_plane": "bpf",
                "notes": [], "config": null}},
            "process": {"start_unix_seconds": 0.0, "resident_bytes": 0, "cpu_seconds": 0.0, "open_fds": 0,
                "max_fds": 0, "threads": 0},
            "clients": [], "traffic": [], "tables": [], "drops": [], "events": [], "families": [],
        }))
        .unwrap()
    }

    /// Answers the two questions of one snapshot.
    async fn answer(inbox: &mut Inbox) {
        let call = inbox.next().await.unwrap();
        assert_eq!(call.command, Command::Stats);
        call.reply
            .send(Ok(Reply::Stats(Box::new(stats()))))
            .unwrap();
        let call = inbox.next().await.unwrap();
        assert_eq!(call.command, Command::Bans);
        let bans = Bans { bans: Vec::new() };
        call.reply.send(Ok(Reply::Bans(bans))).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn snapshots_are_taken_for_watchers_alone_and_shared_by_all() {
        let (calls, mut inbox) = queue();
        let live = Arc::new(Live::new(calls, 2));
        let source = Arc::clone(&live);
        let task = tokio::spawn(async move { source.run().await });
        assert!(timeout(DAY, inbox.next()).await.is_err(), "nobody watches");

        let (mut first, mut second) = (live.watch().unwrap(), live.watch().unwrap());
        assert!(live.watch().is_none(), "two are the most");
        answer(&mut inbox).await;
        for watcher in [&mut first, &mut second] {
            watcher.frames.changed().await.unwrap();
            let frame = watcher.frames.borrow_and_update().clone();
            assert!(frame.starts_with(b"event: snapshot\ndata: {"), "{frame:?}");
            assert!(frame.ends_with(b"}\n\n"));
        }
        drop(first);
        answer(&mut inbox).await;
        second.frames.changed().await.unwrap();
        drop(second);
        // One may be under way.
        let last = timeout(PERIOD * 2, inbox.next()).await;
        drop(last);
        assert!(timeout(DAY, inbox.next()).await.is_err(), "all have left");
        assert!(live.watch().is_some());
        task.abort();
    }
}
