//! Threads that compute hashes of passwords, with a queue of fixed length: no worker waits for a hash, and a
//! flood of passwords takes no more than these threads.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::tables::{Confine, Role, confine_or_warn};

/// Passwords that wait. At 50 ms a hash the last one waits some seconds.
const QUEUE: usize = 64;
/// Threads at most.
const MOST_THREADS: usize = 4;

/// Something to compute.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The threads; they end when this is dropped.
pub(super) struct Hasher {
    jobs: SyncSender<Job>,
}

impl Hasher {
    /// Starts half as many threads as there are cores.
    pub(super) fn start(confine: Confine) -> io::Result<Arc<Self>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (jobs, queue) = sync_channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..(cores / 2).clamp(1, MOST_THREADS) {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("passwords-{number}"))
                .spawn(move || {
                    confine_or_warn(confine, Role::Passwords);
                    while let Some(job) = next(&queue) {
                        job();
                    }
                })?;
        }
        Ok(Arc::new(Self { jobs }))
    }

    /// Has a job done; `false` if the queue is full.
    pub(super) fn submit(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }
}

fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.recv().ok()
}
