//! A thread that looks now and then whether files of certificates have changed.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::store::{Certificates, Change};
use crate::tables::{Confine, Role, confine_or_warn};

/// How often it looks: a few system calls for each file, and a change is in force within two rounds.
const ROUND: Duration = Duration::from_secs(1);

/// The thread; it ends when this is dropped.
pub(crate) struct Watcher {
    watched: Arc<Mutex<Vec<Weak<Certificates>>>>,
    /// Nothing is sent: the thread ends when this is gone.
    _alive: Sender<()>,
}

impl Watcher {
    /// Starts it.
    pub(crate) fn start(confine: Confine) -> std::io::Result<Self> {
        let watched: Arc<Mutex<Vec<Weak<Certificates>>>> = Arc::default();
        let (alive, ended) = channel();
        let list = Arc::clone(&watched);
        std::thread::Builder::new()
            .name("certificates".to_owned())
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

    /// Watches these certificates too, as long as they are in use.
    pub(crate) fn watch(&self, certificates: &Arc<Certificates>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push(Arc::downgrade(certificates));
    }
}

fn look(watched: &Mutex<Vec<Weak<Certificates>>>) {
    let alive: Vec<Arc<Certificates>> = {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|certificates| certificates.strong_count() > 0);
        watched.iter().filter_map(Weak::upgrade).collect()
    };
    for change in alive.iter().flat_map(|certificates| certificates.refresh()) {
        match change {
            Change::Taken(file) => tracing::info!("the certificate in {file} is new, and in force"),
            Change::Refused(problem) => tracing::error!("{problem}"),
        }
    }
}
