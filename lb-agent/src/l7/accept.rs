//! Accepting connections.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use super::worker::Worker;

/// Accepts connections until the other end of `stopped` is dropped; then those that wait.
pub(super) async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener of the L7 path is lost");
            return;
        }
    };
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => worker.serve(stream, peer),
                Err(error) => {
                    // Of one connection, or a lack of resources, which a pause helps against.
                    tracing::debug!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
            _ = stopped.changed() => return,
        }
    }
}
