//! Listening sockets that systemd keeps while one agent ends and the next begins (its file descriptor
//! store): who connects in between waits in their queues, and is served instead of refused.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use socket2::{Domain, Socket, Type};

/// Sockets that an agent before this one has left with systemd.
#[derive(Default)]
pub struct Kept(Vec<(String, TcpListener)>);

impl Kept {
    /// Takes what systemd has passed to this process. To be called once, before anything else is
    /// opened that could get the same numbers.
    pub fn take() -> Self {
        let Ok(passed) = sd_notify::listen_fds_with_names() else {
            return Self::default();
        };
        let kept = passed.filter_map(|(fd, name)| {
            // SAFETY: systemd has opened it for this process, and nobody else has taken it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Some((name, listener(fd.into())?))
        });
        Self(kept.collect())
    }

    /// The sockets called `name`, all of one address.
    pub fn called(&mut self, name: &str) -> Vec<TcpListener> {
        let (found, others) = self.0.drain(..).partition(|(known, _)| known == name);
        self.0 = others;
        let found: Vec<(String, TcpListener)> = found;
        let mut found: Vec<TcpListener> = found.into_iter().map(|(_, listener)| listener).collect();
        let address = found.first().and_then(address);
        found.retain(|listener| address.is_some() && self::address(listener) == address);
        found
    }

    /// What nobody has asked for is not kept any longer.
    pub fn forget_others(self) {
        for (name, _) in &self.0 {
            let states = [
                sd_notify::NotifyState::FdStoreRemove,
                sd_notify::NotifyState::FdName(name),
            ];
            let _ = sd_notify::notify(&states);
        }
    }
}

/// Has systemd, if that is there, keep these for the next agent.
pub fn keep<'a>(name: &str, listeners: impl IntoIterator<Item = &'a TcpListener>) {
    for listener in listeners {
        let states = [
            sd_notify::NotifyState::FdStore,
            sd_notify::NotifyState::FdName(name),
        ];
        let fd: BorrowedFd<'_> = listener.as_fd();
        if let Err(error) = sd_notify::notify_with_fds(&states, &[fd]) {
            tracing::debug!(%error, name, "systemd does not keep a socket");
            return;
        }
    }
}

/// A TCP socket that listens, ready to be polled; nothing else is of use.
fn listener(socket: Socket) -> Option<TcpListener> {
    let is_stream = socket.r#type().ok()? == Type::STREAM;
    let is_tcp = [Domain::IPV4, Domain::IPV6].contains(&socket.domain().ok()?);
    if !(is_stream && is_tcp && socket.is_listener().ok()?) {
        return None;
    }
    socket.set_nonblocking(true).ok()?;
    Some(socket.into())
}

fn address(listener: &TcpListener) -> Option<SocketAddr> {
    listener.local_addr().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(address: &str) -> TcpListener {
        TcpListener::bind(address).unwrap()
    }

    #[test]
    fn sockets_of_a_name_and_one_address_are_taken_up() {
        let own = bound("127.0.0.1:0");
        let same = own.try_clone().unwrap();
        let kept = [
            ("l7-v4", own),
            ("other", bound("127.0.0.1:0")),
            ("l7-v4", same),
        ];
        let mut kept = Kept(kept.map(|(name, socket)| (name.to_owned(), socket)).into());
        kept.0.push(("l7-v4".to_owned(), bound("127.0.0.1:0")));
        assert_eq!(
            kept.called("l7-v4").len(),
            2,
            "not the one of another address"
        );
        assert_eq!(kept.called("l7-v4").len(), 0, "they are taken");
        assert_eq!(kept.0.len(), 1);
    }

    #[test]
    fn only_what_listens_is_of_use() {
        assert!(listener(bound("127.0.0.1:0").into()).is_some());
        let idle = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert!(listener(idle).is_none());
        let datagrams = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(listener(datagrams).is_none());
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        assert!(listener(unix).is_none());
    }
}
