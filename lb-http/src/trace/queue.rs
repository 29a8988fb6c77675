//! The queue between the workers and the exporter. A worker never waits for it: what finds it full is dropped, and
//! counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc;

use super::span::Spans;

/// Requests that may wait. Each takes at most some 3 KiB.
pub(super) const WAITING: usize = 4096;

/// The requests whose spans were recorded, by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanFigures {
    /// The collector has taken them.
    pub exported: u64,
    /// The queue was full.
    pub dropped: u64,
    /// The collector has not taken them.
    pub failed: u64,
}

/// The same, as they are counted.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) exported: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl Counts {
    pub(super) fn figures(&self) -> SpanFigures {
        SpanFigures {
            exported: self.exported.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

/// The end of the queue for the workers.
pub(crate) struct SpanQueue {
    sender: mpsc::Sender<Spans>,
    counts: Arc<Counts>,
}

impl SpanQueue {
    /// A queue, with its other end.
    pub(super) fn new(counts: Arc<Counts>) -> (Arc<Self>, mpsc::Receiver<Spans>) {
        let (sender, inbox) = mpsc::channel(WAITING);
        (Arc::new(Self { sender, counts }), inbox)
    }

    /// Adds the spans of a request that is over.
    pub(super) fn put(&self, spans: Spans) {
        if self.sender.try_send(spans).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}
