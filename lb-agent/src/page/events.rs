//! The stream of events to one watcher: the plots, then the snapshots.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::live::{Live, Watcher};
use crate::crowd::Asking;

/// Length of a stream. The browser then asks for another one, so that a watcher that reads nothing does not stay.
pub(super) const LENGTH: Duration = Duration::from_secs(600);
/// Beginning of a stream: how long a browser waits before it comes again, in milliseconds.
const BEGIN: Bytes = Bytes::from_static(b"retry: 1000\n\n");

/// The body of the answer.
pub(super) struct Events(mpsc::Receiver<Bytes>);

impl Events {
    /// Begins a stream. The connection counts as one that asks until the end.
    pub(super) fn begin(live: Arc<Live>, watcher: Watcher, asking: Asking) -> Self {
        let (sender, events) = mpsc::channel(1);
        tokio::spawn(async move {
            let sent = send(&live, watcher, &sender);
            tokio::select! {
                // The time is over, the agent ends, or the watcher has left.
                _ = timeout(LENGTH, sent) => {}
                () = sender.closed() => {}
            }
            asking.set(false);
        });
        Self(events)
    }
}

/// Sends events until the watcher leaves. A slow one misses snapshots and gets the latest.
async fn send(live: &Live, mut watcher: Watcher, sender: &mpsc::Sender<Bytes>) -> Option<()> {
    sender.send(BEGIN).await.ok()?;
    watcher.frames.changed().await.ok()?;
    // After a snapshot, which completes the plots.
    sender.send(live.history()).await.ok()?;
    loop {
        let frame = watcher.frames.borrow_and_update().clone();
        sender.send(frame).await.ok()?;
        watcher.frames.changed().await.ok()?;
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(context);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
