//! Load of new connections at a fixed rate from many clients; the result of each is kept.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{self, Answer};
use crate::topology::hosts::{Host, service_for};
use crate::wait;

/// Connections under way at a time, at most.
const WORKERS: usize = 4;

/// One connection with one request.
#[derive(Debug)]
pub struct Visit {
    /// Address of the client.
    pub client: IpAddr,
    /// When the connection was begun.
    pub begun: Instant,
    /// End of the connection.
    pub ended: Instant,
    /// The application that answered, or the error.
    pub answer: std::io::Result<Answer>,
}

/// Clients that come again and again, until this is finished or dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    visits: Arc<Mutex<Vec<Visit>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Each of `clients` on `host` in turn comes to the service, `per_second` connections in all.
    pub fn start(host: &Host, clients: &[IpAddr], per_second: u32) -> Self {
        let visit = || |client| http::get(client, service_for(client));
        Self::visiting(host, clients, per_second, visit)
    }

    /// The same with visits of another kind. Each worker has its own from `visitor`. It may keep a
    /// client's state, since a client always comes to the same worker.
    pub fn visiting<V>(
        host: &Host,
        clients: &[IpAddr],
        per_second: u32,
        visitor: impl Fn() -> V,
    ) -> Self
    where
        V: FnMut(IpAddr) -> std::io::Result<Answer> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicUsize::new(0));
        let visits = Arc::new(Mutex::new(Vec::new()));
        // A client belongs to one worker, so that its visits come one after the other.
        let worker = |first: usize| {
            let own: Vec<IpAddr> = clients
                .iter()
                .skip(first)
                .step_by(WORKERS)
                .copied()
                .collect();
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            let visits = Arc::clone(&visits);
            let pause = Duration::from_secs(1) * WORKERS as u32 / per_second;
            let mut visit = visitor();
            host.spawn(move || {
                come(&own, pause, &stop, |client| {
                    let one = keep(client, &mut visit);
                    visits
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(one);
                    made.fetch_add(1, Ordering::SeqCst);
                });
            })
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self {
            stop,
            made,
            visits,
            workers,
        }
    }

    /// Number of connections that are over.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// Waits until `count` more connections are over.
    #[track_caller]
    pub fn more(&self, count: usize) {
        let goal = self.made() + count;
        let over = || (self.made() >= goal).then_some(());
        wait::until("connections under load", over);
    }

    /// The visits that have ended since the last call. Those of one client are in their order, those
    /// of different ones are not.
    pub fn so_far(&self) -> Vec<Visit> {
        std::mem::take(&mut *self.visits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the load; returns the visits since the last call of [`Load::so_far`].
    pub fn finish(mut self) -> Vec<Visit> {
        self.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn keep(client: IpAddr, visit: &mut impl FnMut(IpAddr) -> std::io::Result<Answer>) -> Visit {
    let begun = Instant::now();
    let answer = visit(client);
    Visit {
        client,
        begun,
        ended: Instant::now(),
        answer,
    }
}

fn come(clients: &[IpAddr], pause: Duration, stop: &AtomicBool, mut visit: impl FnMut(IpAddr)) {
    let mut next = Instant::now();
    for client in clients.iter().cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        // The rate is that of a schedule: a slow connection delays no other.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        visit(*client);
    }
}
