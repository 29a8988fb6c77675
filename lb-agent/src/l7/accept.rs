//! Accepting connections.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
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
    // Connections inherit these, which spares each of them two system calls.
    let socket = SockRef::from(&listener);
    if let Err(error) = socket.set_tcp_nodelay(true).and(socket.set_keepalive(true)) {
        tracing::error!(%error, "a listener of the L7 path serves more slowly");
    }
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
            _ = stopped.changed() => break,
        }
    }
    take_the_rest(&worker, listener);
}

/// Takes the connections whose clients have been told that they are made: closing the socket would
/// reset them.
fn take_the_rest(worker: &Rc<Worker>, listener: tokio::net::TcpListener) {
    let Ok(listener) = listener.into_std() else {
        return;
    };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).map(|()| stream);
        if let Ok(stream) = stream.and_then(tokio::net::TcpStream::from_std) {
            worker.serve(stream, peer);
        }
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
