//! UDP: sends each client's datagrams to one backend, and the backend's answers back from the very
//! address that the client wrote to.
//!
//! A client (address, port and the local address it wrote to) has a flow: a socket of its own,
//! connected to the backend, and a task that passes the answers on. One loop receives from all
//! clients and owns the table of flows; it never waits for a backend.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lb_common::abi::{BackendId, ServiceId, protocol};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::datagram::{Listener, Route};
use super::hops::Hops;
use super::{Candidate, Chooser, Open, Shutdown, Visit, asked_to_stop};
use lb_net::admission::{Admission, is_scarcity};

/// More than the longest datagram (65,507 bytes).
const LONGEST: usize = 64 * 1024;
/// Datagrams received in a row before timers and the shutdown are looked at.
const BATCH: usize = 64;
/// How long backends may still answer when another agent is to come.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Backends tried for one datagram.
const ATTEMPTS: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONGEST].into_boxed_slice());
}

/// Serves UDP sockets.
#[derive(Clone)]
pub struct UdpProxy {
    /// How long a flow lives after its last datagram, in either direction.
    pub idle_timeout: Duration,
    /// Most flows at a time, each of which is a socket; the one idle for longest makes room.
    pub max_flows: usize,
    /// Leaves descriptors for others.
    pub admission: Admission,
    /// Counters of flows and datagrams.
    pub counters: Arc<UdpCounters>,
}

/// Counters of a [`UdpProxy`].
#[derive(Debug, Default)]
pub struct UdpCounters {
    /// Flows opened.
    pub opened: AtomicU64,
    /// Flows closed before they had been idle for long enough, to make room for others.
    pub evicted: AtomicU64,
    /// Flows voided because their backend refused a datagram.
    pub refused: AtomicU64,
    /// Datagrams of clients dropped because no backend was usable.
    pub no_backend: AtomicU64,
    /// Datagrams of clients dropped because they could not be sent on, as a full socket buffer or
    /// a datagram that is too long for the way.
    pub not_sent: AtomicU64,
}

impl Default for UdpProxy {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            max_flows: 65_536,
            admission: Admission::default(),
            counters: Arc::default(),
        }
    }
}

impl UdpProxy {
    /// Serves `socket` until `shutdown` asks to stop and the flows are over, or their time is. New
    /// clients are not served any more meanwhile. When another agent is to come, flows have no more
    /// than [`LAST_ANSWERS`], as all of them begin anew with it. Dropping the future ends all at
    /// once.
    ///
    /// # Errors
    /// The socket cannot be told to report the addresses that datagrams were sent to.
    pub async fn serve(
        self,
        socket: UdpSocket,
        chooser: Arc<dyn Chooser>,
        mut shutdown: Shutdown,
    ) -> io::Result<()> {
        let mut flows = Flows::new(self, Listener::new(socket)?, chooser);
        let shared = Arc::clone(&flows.shared);
        let mut buffer = vec![0; LONGEST];
        let mut deadline = None;
        let mut reads = true;
        while deadline.is_none() || !flows.entries.is_empty() {
            tokio::select! {
                biased;
                asked = asked_to_stop(&mut shutdown), if deadline.is_none() => {
                    let soon = asked.deadline.min(Instant::now() + LAST_ANSWERS);
                    let another_comes = asked.accept_policy.another_comes();
                    deadline = Some(if another_comes { soon } else { asked.deadline });
                    flows.closing = !another_comes;
                    reads = !asked.accept_policy.leaves_datagrams();
                }
                () = sleep_until(deadline.unwrap_or(shared.started)), if deadline.is_some() => {
                    info!(flows = flows.entries.len(), "closed when the drain time was over");
                    break;
                }
                () = sleep_until(flows.next_expiry()) => flows.expire(),
                Some(_) = flows.tasks.join_next() => {}
                readable = shared.listener.readable(), if reads => {
                    if let Err(error) = readable.and_then(|()| flows.receive(&mut buffer)) {
                        warn!(%error, "cannot receive datagrams, trying on");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
        Ok(())
    }
}

/// State that the tasks of the flows share with the loop.
struct Shared {
    listener: Listener,
    chooser: Arc<dyn Chooser>,
    counters: Arc<UdpCounters>,
    started: Instant,
}

impl Shared {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// All flows of a socket.
struct Flows {
    idle_timeout: Duration,
    max_flows: usize,
    admission: Admission,
    shared: Arc<Shared>,
    entries: HashMap<Visit, Entry>,
    /// When each flow was used last, as far as the loop has noticed: then or earlier. The first is
    /// put back until it is true, which makes it the one idle for longest.
    by_use: BTreeSet<(u64, Visit)>,
    tasks: JoinSet<()>,
    /// New clients are not served any more.
    closing: bool,
}

/// A flow's place in the table.
struct Entry {
    flow: Arc<Flow>,
    task: AbortHandle,
    /// Its place in [`Flows::by_use`].
    noticed_ms: u64,
    /// Other backends, which have refused this client's datagrams.
    refused: Vec<BackendId>,
}

impl Flows {
    fn new(settings: UdpProxy, listener: Listener, chooser: Arc<dyn Chooser>) -> Self {
        Self {
            idle_timeout: settings.idle_timeout,
            max_flows: settings.max_flows.max(1),
            admission: settings.admission,
            shared: Arc::new(Shared {
                listener,
                chooser,
                counters: settings.counters,
                started: Instant::now(),
            }),
            entries: HashMap::new(),
            by_use: BTreeSet::new(),
            tasks: JoinSet::new(),
            closing: false,
        }
    }

    /// Receives waiting datagrams, up to [`BATCH`].
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        for _ in 0..BATCH {
            match shared.listener.try_receive(buffer) {
                Ok((length, route)) => self.forward(&route, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a client's datagram to its backend.
    fn forward(&mut self, route: &Route, datagram: &[u8]) {
        let visit = Visit::new(route.local, route.client, protocol::UDP);
        if self.denies(&visit) {
            self.remove(&visit);
            return;
        }
        // More than once only if a backend turns out to have refused the one before.
        for _ in 0..ATTEMPTS {
            if !self.is_live(&visit) && !self.open(visit, route) {
                break;
            }
            let Some(entry) = self.entries.get(&visit) else {
                break;
            };
            match entry.flow.send(datagram, &self.shared) {
                Sent::Yes => return,
                Sent::No => {
                    self.shared.counters.not_sent.fetch_add(1, Relaxed);
                    return;
                }
                Sent::Refused => {}
            }
        }
        self.shared.counters.no_backend.fetch_add(1, Relaxed);
    }

    /// Whether the service refuses a client. The kernel has checked those that it steered here.
    fn denies(&self, visit: &Visit) -> bool {
        let service = || self.shared.chooser.service(visit.local, visit.protocol);
        self.admission.has_rules()
            && service()
                .is_some_and(|(service, _)| self.admission.denies(service, visit.client.ip()))
    }

    fn is_live(&self, visit: &Visit) -> bool {
        let entry = self.entries.get(visit);
        entry.is_some_and(|entry| !entry.flow.void.load(Relaxed))
    }

    /// Opens a flow for a client that has none, or a void one; false when there is no backend.
    fn open(&mut self, visit: Visit, route: &Route) -> bool {
        if route.hops.is_loop() {
            self.shared.chooser.came_back(visit.local, visit.protocol);
            return false;
        }
        let mut refused = match self.remove(&visit) {
            Some(entry) => {
                let mut refused = entry.refused;
                refused.push(entry.flow.candidate.backend);
                refused
            }
            None if self.closing => return false,
            None => Vec::new(),
        };
        let candidates = visit.candidates(self.shared.chooser.as_ref());
        if candidates
            .iter()
            .all(|candidate| refused.contains(&candidate.backend))
        {
            // Perhaps the first is back.
            refused.clear();
        }
        for candidate in candidates {
            if refused.contains(&candidate.backend) {
                continue;
            }
            match self.connect(&visit, candidate.address, route.hops) {
                Ok(socket) => {
                    self.insert(visit, Flow::new(*route, candidate, socket), refused);
                    return true;
                }
                Err(error) => {
                    debug!(%error, backend = %candidate.address, "cannot open a flow");
                    if is_scarcity(&error) {
                        return false;
                    }
                    self.shared.chooser.failed(candidate.backend);
                    refused.push(candidate.backend);
                }
            }
        }
        false
    }

    /// A socket connected to `address`; flows make room for it when there are too many of them, or
    /// too few descriptors.
    fn connect(&mut self, visit: &Visit, address: SocketAddr, hops: Hops) -> io::Result<UdpSocket> {
        let service = self.shared.chooser.service(visit.local, visit.protocol);
        let (service, most) = service.unzip();
        let most = most.flatten().map_or(usize::MAX, |most| most as usize);
        while self.entries.len() >= self.max_flows.min(most) {
            self.evict(service);
        }
        let socket = match connect(address, hops) {
            Err(error) if is_out_of_files(&error) && !self.entries.is_empty() => {
                self.evict(service);
                connect(address, hops)?
            }
            result => result?,
        };
        // Its own clients first: a datagram is made up more easily than a connection.
        if self.admission.is_past(&socket) {
            if self.entries.is_empty() {
                self.admission.keeps(&socket)?;
            } else {
                self.evict(service);
            }
        }
        Ok(socket)
    }

    fn insert(&mut self, visit: Visit, flow: Flow, refused: Vec<BackendId>) {
        let shared = &self.shared;
        shared.counters.opened.fetch_add(1, Relaxed);
        let open = Open::new(Arc::clone(&shared.chooser), &visit, flow.candidate.backend);
        let noticed_ms = shared.now_ms();
        flow.used_ms.store(noticed_ms, Relaxed);
        let flow = Arc::new(flow);
        let task = answers(Arc::clone(&flow), Arc::clone(shared), open);
        let task = self.tasks.spawn(task);
        self.by_use.insert((noticed_ms, visit));
        let entry = Entry {
            flow,
            task,
            noticed_ms,
            refused,
        };
        self.entries.insert(visit, entry);
    }

    fn remove(&mut self, visit: &Visit) -> Option<Entry> {
        let entry = self.entries.remove(visit)?;
        self.by_use.remove(&(entry.noticed_ms, *visit));
        entry.task.abort();
        Some(entry)
    }

    /// The flow that has been idle for longest, and since when.
    fn longest_idle(&mut self) -> Option<(u64, Visit)> {
        loop {
            let first = *self.by_use.first()?;
            let entry = self.entries.get_mut(&first.1)?;
            let used_ms = entry.flow.used_ms.load(Relaxed);
            if used_ms <= first.0 {
                return Some(first);
            }
            entry.noticed_ms = used_ms;
            self.by_use.remove(&first);
            self.by_use.insert((used_ms, first.1));
        }
    }

    fn evict(&mut self, service: Option<ServiceId>) {
        if let Some((_, visit)) = self.longest_idle() {
            self.remove(&visit);
            self.admission.flow_made_room(service);
            self.shared.counters.evicted.fetch_add(1, Relaxed);
        }
    }

    /// When to look for flows that have been idle for too long.
    fn next_expiry(&self) -> Instant {
        let noticed_ms = match self.by_use.first() {
            Some((noticed_ms, _)) => *noticed_ms,
            None => self.shared.now_ms(),
        };
        // A millisecond more, as times are cut to whole ones.
        self.shared.started + Duration::from_millis(noticed_ms + 1) + self.idle_timeout
    }

    fn expire(&mut self) {
        let idle_ms = self.idle_timeout.as_millis() as u64;
        while let Some((used_ms, visit)) = self.longest_idle() {
            if used_ms + idle_ms > self.shared.now_ms() {
                break;
            }
            self.remove(&visit);
        }
    }
}

/// One client at one backend.
struct Flow {
    route: Route,
    candidate: Candidate,
    /// Connected to the backend.
    socket: UdpSocket,
    /// When the last datagram passed, in either direction; milliseconds since the start.
    used_ms: AtomicU64,
    /// The backend has refused a datagram.
    void: AtomicBool,
}

/// Result of sending a datagram.
enum Sent {
    Yes,
    No,
    /// The backend has refused one before, so that this one was not sent.
    Refused,
}

impl Flow {
    const fn new(route: Route, candidate: Candidate, socket: UdpSocket) -> Self {
        Self {
            route,
            candidate,
            socket,
            used_ms: AtomicU64::new(0),
            void: AtomicBool::new(false),
        }
    }

    fn send(&self, datagram: &[u8], shared: &Shared) -> Sent {
        self.used_ms.store(shared.now_ms(), Relaxed);
        // Not by tokio, which holds a new socket for full until it has heard otherwise.
        match send(self.socket.as_raw_fd(), datagram, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Sent::Yes,
            Err(error) if is_refusal(error.into()) => {
                self.refuse(shared);
                Sent::Refused
            }
            Err(error) => {
                debug!(%error, backend = %self.candidate.address, "datagram not sent");
                Sent::No
            }
        }
    }

    /// Passes on one datagram of the backend; returns it if the client's socket is full.
    async fn answer(&self, shared: &Shared) -> io::Result<Option<Vec<u8>>> {
        // A refusal alone does not make a socket readable.
        let interest = Interest::READABLE | Interest::ERROR;
        let answer = || {
            SCRATCH.with_borrow_mut(|scratch| {
                let length = recv(self.socket.as_raw_fd(), scratch, MsgFlags::MSG_DONTWAIT)?;
                let datagram = &scratch[..length];
                match shared.listener.try_answer(&self.route, datagram) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        Ok(Some(datagram.to_vec()))
                    }
                    answered => {
                        self.note(answered);
                        Ok(None)
                    }
                }
            })
        };
        self.socket.async_io(interest, answer).await
    }

    /// An answer that cannot be sent is lost, as UDP has it.
    fn note(&self, answered: io::Result<()>) {
        if let Err(error) = answered {
            debug!(%error, client = %self.route.client, "answer not sent");
        }
    }

    /// Voids the flow, once.
    fn refuse(&self, shared: &Shared) {
        if !self.void.swap(true, Relaxed) {
            debug!(backend = %self.candidate.address, "datagram refused");
            shared.counters.refused.fetch_add(1, Relaxed);
            shared.chooser.failed(self.candidate.backend);
        }
    }
}

/// Passes on a backend's answers for as long as the flow is good.
async fn answers(flow: Arc<Flow>, shared: Arc<Shared>, open: Open) {
    let _open = open;
    while !flow.void.load(Relaxed) {
        match flow.answer(&shared).await {
            Ok(kept) => {
                flow.used_ms.store(shared.now_ms(), Relaxed);
                if let Some(datagram) = kept {
                    flow.note(shared.listener.answer(&flow.route, &datagram).await);
                }
            }
            Err(error) => {
                debug!(%error, backend = %flow.candidate.address, "flow is void");
                flow.refuse(&shared);
            }
        }
    }
}

/// A socket connected to `address`, for datagrams that have come by `hops`.
fn connect(address: SocketAddr, hops: Hops) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    hops.mark(&socket, address)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether sending failed because no socket listens there, rather than for this one datagram.
fn is_refusal(error: io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable
    ) || error.raw_os_error() == Some(libc::ENOPROTOOPT)
}

#[cfg(test)]
mod tests;
