//! A thread that looks now and then whether files have changed.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::tables::{Confine, Role, confine_or_warn};

/// How often it looks: a few system calls for each file, and a change is in force within two rounds.
const ROUND: Duration = Duration::from_secs(1);

/// Files that are watched.
pub(crate) trait Watched: Send + Sync {
    /// Takes over files that have changed, and logs it.
    fn look(&self);
}

type List = Arc<Mutex<Vec<Weak<dyn Watched>>>>;

/// The thread; it ends when this is dropped.
pub(crate) struct Watcher {
    watched: List,
    /// Nothing is sent: the thread ends when this is gone.
    _alive: Sender<()>,
}

impl Watcher {
    /// Starts it under the name of what it watches.
    pub(crate) fn start(confine: Confine, name: &str) -> std::io::Result<Self> {
        let watched = List::default();
        let (alive, ended) = channel();
        let list = Arc::clone(&watched);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                confine_or_warn(confine, Role::Certificates);
                while ended.recv_timeout(ROUND) == Err(RecvTimeoutError::Timeout) {
                    look(&list);
                }
            })?;
        Ok(Self {
            watched,
            _alive: alive,
        })
    }

    /// Watches these files too, as long as they are in use.
    pub(crate) fn watch(&self, files: Weak<dyn Watched>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push(files);
    }
}

fn look(watched: &Mutex<Vec<Weak<dyn Watched>>>) {
    let alive: Vec<Arc<dyn Watched>> = {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|files| files.strong_count() > 0);
        watched.iter().filter_map(Weak::upgrade).collect()
    };
    alive.iter().for_each(|files| files.look());
}
