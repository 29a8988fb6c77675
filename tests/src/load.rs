//! New connections all the time, so many a second, from many clients; what became of each is kept.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::hosts::{Host, service_for};
use crate::http::{self, Answer};
use crate::wait;

/// Connections under way at a time, at most.
const WORKERS: usize = 4;

/// One connection with one request.
#[derive(Debug)]
pub struct Visit {
    /// Who came.
    pub client: IpAddr,
    /// When the connection was begun.
    pub begun: Instant,
    /// Who answered, or why nobody did.
    pub answer: std::io::Result<Answer>,
}

/// Clients that come again and again, until this is finished or dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Vec<Visit>>>,
}

impl Load {
    /// Each of `clients` on `host` in turn comes to the service, `per_second` connections in all.
    pub fn start(host: &Host, clients: &[IpAddr], per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicUsize::new(0));
        // A client belongs to one worker, so that its visits come one after the other.
        let worker = |first: usize| {
            let own: Vec<IpAddr> = clients
                .iter()
                .skip(first)
                .step_by(WORKERS)
                .copied()
                .collect();
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            let pause = Duration::from_secs(1) * WORKERS as u32 / per_second;
            host.spawn(move || visits(&own, pause, &stop, &made))
        };
        let workers = (0..WORKERS).map(worker).collect();
        Self {
            stop,
            made,
            workers,
        }
    }

    /// Waits until `count` more connections are over.
    #[track_caller]
    pub fn more(&self, count: usize) {
        let goal = self.made.load(Ordering::SeqCst) + count;
        let over = || (self.made.load(Ordering::SeqCst) >= goal).then_some(());
        wait::until("connections under load", over);
    }

    /// Ends it. The visits of one client are in their order, those of different ones are not.
    pub fn finish(mut self) -> Vec<Visit> {
        self.stop.store(true, Ordering::SeqCst);
        let workers = self.workers.drain(..);
        workers.flat_map(|worker| worker.join().unwrap()).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn visits(
    clients: &[IpAddr],
    pause: Duration,
    stop: &AtomicBool,
    made: &AtomicUsize,
) -> Vec<Visit> {
    let mut visits = Vec::new();
    let mut next = Instant::now();
    for client in clients.iter().cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        // The rate is that of a schedule: a slow connection delays no other.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += pause;
        let begun = Instant::now();
        let answer = http::get(*client, service_for(*client));
        visits.push(Visit {
            client: *client,
            begun,
            answer,
        });
        made.fetch_add(1, Ordering::SeqCst);
    }
    visits
}
