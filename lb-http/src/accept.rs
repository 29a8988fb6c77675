//! Accepting connections.

use std::net::TcpListener;
use std::rc::Rc;

use socket2::SockRef;
use tokio::sync::watch;

use super::serve;
use super::worker::Worker;
use lb_net::admission::listener::{Accepted, Listener};

/// Accepts connections until the other end of `stopped` is dropped; then those that wait.
pub(super) async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
) {
    let admission = worker.snapshot().admission.clone();
    let mut listener = match Listener::new(listener, admission) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener of the L7 path is lost");
            return;
        }
    };
    // Connections inherit these, which spares each of them two system calls.
    let socket = SockRef::from(&listener);
    if let Err(error) = socket.set_tcp_nodelay(true).and(socket.set_keepalive(true)) {
        tracing::error!(%error, "a listener of the L7 path serves more slowly");
    }
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => take(&worker, accepted),
            _ = stopped.changed() => break,
        }
    }
    // Connections whose handshake is complete for the client: closing the socket would reset them.
    while let Some(accepted) = listener.waiting() {
        take(&worker, accepted);
    }
}

fn take(worker: &Rc<Worker>, accepted: Option<Accepted>) {
    match accepted {
        Some((client, peer)) => worker.spawn(serve::serve(Rc::clone(worker), client, peer)),
        // Idle connections to backends are the first to go.
        None => worker.pool.clear(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn connections_inherit_what_is_set_on_their_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = SockRef::from(&listener);
        socket.set_tcp_nodelay(true).unwrap();
        socket.set_keepalive(true).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        drop(client);
    }
}
