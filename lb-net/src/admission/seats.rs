//! The open connections of clients, in the order of their last use.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use lb_common::abi::ServiceId;
use slab::Slab;

use crate::sockopt;

/// A client that has moved a byte within this time is not cut off.
const LEAST_IDLE: Duration = Duration::from_secs(1);
/// Connections that are examined at most to find an idle one.
const ATTEMPTS: usize = 64;
/// Tolerance in milliseconds for the kernel's times, which are as coarse as its ticks.
const TICKS_MS: u64 = 20;

/// The resource that has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scarce {
    Descriptors,
    Connections,
}

/// Counts of clients that were refused or cut off, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Clients refused for want of descriptors.
    pub no_descriptors: u64,
    /// Clients refused because of `max_connections`.
    pub max_connections: u64,
    /// Idle clients that were cut off to make room for another.
    pub shed: u64,
    /// Clients refused by a ban or by the lists of the service, TCP and UDP.
    pub denied: u64,
}

/// The open connections. Times are milliseconds since the first one.
#[derive(Default)]
pub(super) struct Seats {
    start: Option<Instant>,
    entries: Slab<Entry>,
    /// Connections by the noticed time of their last use; the real one is then or later. The first
    /// entry is moved back until its time is true.
    by_use: BTreeSet<(u64, usize)>,
    by_service: BTreeSet<(u32, u64, usize)>,
    open: HashMap<u32, usize>,
    refused: HashMap<Option<u32>, Refused>,
}

struct Entry {
    /// The descriptor, open as long as the entry exists.
    descriptor: RawFd,
    service: Option<ServiceId>,
    /// The time under which it is filed in the orders; `None` once it is cut off.
    noticed_ms: Option<u64>,
}

impl Seats {
    /// Adds a connection. It must leave by [`Seats::leave`] before its descriptor is closed.
    pub(super) fn enter(&mut self, descriptor: RawFd) -> usize {
        let noticed_ms = self.now_ms();
        let id = self.entries.insert(Entry {
            descriptor,
            service: None,
            noticed_ms: Some(noticed_ms),
        });
        self.by_use.insert((noticed_ms, id));
        id
    }

    /// Assigns a connection to its service.
    pub(super) fn join(&mut self, id: usize, service: ServiceId) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.service.is_none()
            && let Some(noticed_ms) = entry.noticed_ms
        {
            entry.service = Some(service);
            self.by_service.insert((service.0, noticed_ms, id));
            *self.open.entry(service.0).or_default() += 1;
        }
    }

    pub(super) fn leave(&mut self, id: usize) {
        self.take_out(id);
        self.entries.try_remove(id);
    }

    /// Removes a connection from the counts and orders.
    fn take_out(&mut self, id: usize) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(noticed_ms) = entry.noticed_ms.take() else {
            return;
        };
        self.by_use.remove(&(noticed_ms, id));
        if let Some(service) = entry.service {
            self.by_service.remove(&(service.0, noticed_ms, id));
            if let Some(open) = self.open.get_mut(&service.0) {
                *open -= 1;
            }
        }
    }

    pub(super) fn open(&self, service: ServiceId) -> usize {
        self.open.get(&service.0).copied().unwrap_or(0)
    }

    pub(super) fn open_in_all(&self) -> usize {
        self.by_use.len()
    }

    /// Cuts off the client that has been idle for longest, of `service` or of all. False if no
    /// client is idle.
    pub(super) fn shed(&mut self, service: Option<ServiceId>) -> bool {
        let Some(id) = self.longest_idle(service) else {
            return false;
        };
        if let Some(entry) = self.entries.get(id) {
            // SAFETY: the descriptor is open as long as its entry exists.
            let descriptor = unsafe { BorrowedFd::borrow_raw(entry.descriptor) };
            // Both ends see a reset. The task that serves the connection then drops it.
            if let Err(error) = rustix::net::connect_unspec(descriptor) {
                tracing::debug!(%error, "a client is not cut off");
            }
            let of = entry.service;
            self.made_room(of);
        }
        self.take_out(id);
        true
    }

    fn longest_idle(&mut self, service: Option<ServiceId>) -> Option<usize> {
        for _ in 0..ATTEMPTS {
            let (noticed_ms, id) = match service {
                None => *self.by_use.first()?,
                Some(service) => {
                    let mut of_service = self.by_service.range((service.0, 0, 0)..);
                    let (of, noticed_ms, id) = *of_service.next()?;
                    if of != service.0 {
                        return None;
                    }
                    (noticed_ms, id)
                }
            };
            let now_ms = self.now_ms();
            if now_ms < noticed_ms + LEAST_IDLE.as_millis() as u64 {
                return None;
            }
            let entry = self.entries.get(id)?;
            // SAFETY: the descriptor is open as long as its entry exists.
            let descriptor = unsafe { BorrowedFd::borrow_raw(entry.descriptor) };
            // A connection that gives no answer is closed already, so it counts as idle.
            let idle = sockopt::idle(descriptor).unwrap_or(Duration::MAX);
            let used_ms = now_ms.saturating_sub(idle.as_millis() as u64);
            // The kernel's time is as coarse as its ticks.
            if idle >= LEAST_IDLE && used_ms <= noticed_ms + TICKS_MS {
                return Some(id);
            }
            self.notice(id, used_ms);
        }
        None
    }

    /// Records that a connection was last used at `used_ms`, and moves it in the orders.
    fn notice(&mut self, id: usize, used_ms: u64) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(before_ms) = entry.noticed_ms.replace(used_ms) else {
            return;
        };
        self.by_use.remove(&(before_ms, id));
        self.by_use.insert((used_ms, id));
        if let Some(service) = entry.service {
            self.by_service.remove(&(service.0, before_ms, id));
            self.by_service.insert((service.0, used_ms, id));
        }
    }

    /// Counts a client that was cut off.
    pub(super) fn made_room(&mut self, service: Option<ServiceId>) {
        let of = service.map(|service| service.0);
        self.refused.entry(of).or_default().shed += 1;
    }

    /// Counts a client that was refused.
    pub(super) fn refuse(&mut self, service: Option<ServiceId>, scarce: Scarce) {
        let refused = self
            .refused
            .entry(service.map(|service| service.0))
            .or_default();
        match scarce {
            Scarce::Descriptors => refused.no_descriptors += 1,
            Scarce::Connections => refused.max_connections += 1,
        }
    }

    /// Counts a client that a service refuses.
    pub(super) fn deny(&mut self, service: ServiceId) {
        self.refused.entry(Some(service.0)).or_default().denied += 1;
    }

    pub(super) fn refused(&self, service: Option<ServiceId>) -> Refused {
        let service = service.map(|service| service.0);
        self.refused.get(&service).copied().unwrap_or_default()
    }

    fn now_ms(&mut self) -> u64 {
        let start = self.start.get_or_insert_with(Instant::now);
        start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    const WEB: ServiceId = ServiceId(1);
    const API: ServiceId = ServiceId(2);

    struct Room {
        seats: Seats,
        listener: TcpListener,
    }

    impl Room {
        /// A client, and the agent's end of its connection.
        fn client(&mut self, service: ServiceId) -> (TcpStream, TcpStream) {
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let (stream, _) = self.listener.accept().unwrap();
            let id = self.seats.enter(stream.as_raw_fd());
            self.seats.join(id, service);
            (client, stream)
        }
    }

    fn room() -> Room {
        Room {
            seats: Seats::default(),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    #[test]
    fn whoever_has_been_idle_for_longest_is_reset() {
        let mut room = room();
        let (mut first, _first) = room.client(WEB);
        std::thread::sleep(Duration::from_millis(100));
        let (mut second, _second) = room.client(WEB);
        assert!(!room.seats.shed(None), "nobody has been idle for long");
        std::thread::sleep(LEAST_IDLE);
        first.write_all(b"1").unwrap();
        assert!(room.seats.shed(None));
        let error = second.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(!room.seats.shed(None), "the other one is in use");
        assert_eq!(room.seats.open_in_all(), 1);
        assert_eq!(room.seats.refused(Some(WEB)).shed, 1);
    }

    #[test]
    fn a_service_cuts_off_its_own_clients() {
        let mut room = room();
        let (_web, _stream) = room.client(WEB);
        let (mut api, _stream) = room.client(API);
        std::thread::sleep(LEAST_IDLE + Duration::from_millis(50));
        assert!(room.seats.shed(Some(API)));
        assert!(api.read(&mut [0]).is_err());
        assert!(!room.seats.shed(Some(API)), "there is nobody else of it");
        assert_eq!((room.seats.open(WEB), room.seats.open(API)), (1, 0));
    }

    #[test]
    fn those_that_leave_are_not_counted_any_more() {
        let mut room = room();
        let (_client, stream) = room.client(WEB);
        let id = room.seats.enter(stream.as_raw_fd());
        assert_eq!(room.seats.open_in_all(), 2);
        room.seats.leave(id);
        room.seats.leave(0);
        assert_eq!((room.seats.open_in_all(), room.seats.open(WEB)), (0, 0));
        assert!(room.seats.by_service.is_empty() && room.seats.entries.is_empty());
    }
}
