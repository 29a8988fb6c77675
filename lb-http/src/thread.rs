//! The thread of a worker: its runtime, its listeners, and its messages.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as sync;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_common::abi::ServiceKey;
use tokio::sync::{mpsc, watch};

use super::settings::Snapshot;
use super::tables::{Confine, Role};
use super::worker::Worker;
use super::{accept, access_log, clock};
use lb_net::handover::AcceptPolicy;

/// A message to a worker.
pub(super) enum Message {
    /// New settings are in force; to be confirmed.
    Publish(Arc<Snapshot>, sync::Sender<()>),
    /// Accept connections on a socket. `None` is the one to which the kernel hands connections.
    Listen(Option<ServiceKey>, TcpListener),
    /// Stop listening on this address. Connections that wait to be accepted are still accepted.
    Unlisten(ServiceKey),
    /// Tunnels have to see whether they are to end.
    Wake,
    /// End: requests finish, and connections that are still open then are closed.
    Stop(Instant, AcceptPolicy),
}

/// A running worker.
pub(super) struct Handle {
    inbox: mpsc::UnboundedSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Starts one.
    pub(super) fn start(
        index: usize,
        snapshot: Arc<Snapshot>,
        confine: Confine,
    ) -> io::Result<Self> {
        let (inbox, messages) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name(format!("l7-{index}"))
            .spawn(move || run(snapshot, messages, confine))?;
        Ok(Self {
            inbox,
            thread: Some(thread),
        })
    }

    /// Tells it something. One that has ended hears nothing.
    pub(super) fn tell(&self, message: Message) {
        let _ = self.inbox.send(message);
    }

    /// Its thread, to be waited for.
    pub(super) fn into_thread(mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }
}

/// Threads of a worker that wait for a disk, at most.
const MOST_WAITING: usize = 16;

fn run(snapshot: Arc<Snapshot>, messages: mpsc::UnboundedReceiver<Message>, confine: Confine) {
    // The thread reads bytes from any client. Its listening sockets have been opened for it.
    if let Err(error) = confine(Role::Worker) {
        tracing::error!(%error, "a worker of the L7 path cannot give up its capabilities, and does not serve");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MOST_WAITING)
        .build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => {
            runtime.block_on(live(snapshot, messages));
            // A disk that does not answer holds up no end.
            runtime.shutdown_background();
        }
        Err(error) => tracing::error!(%error, "a worker of the L7 path cannot start"),
    }
}

async fn live(snapshot: Arc<Snapshot>, mut messages: mpsc::UnboundedReceiver<Message>) {
    let worker = Rc::new(Worker::new(snapshot));
    tokio::task::spawn_local(clock::tick_forever(access_log::flush_thread));
    tokio::task::spawn_local(tidy(Rc::clone(&worker)));
    let mut listeners: Vec<(Option<ServiceKey>, watch::Sender<bool>)> = Vec::new();
    let end = loop {
        match messages.recv().await {
            Some(Message::Publish(snapshot, done)) => {
                worker.publish(snapshot);
                let _ = done.send(());
            }
            Some(Message::Listen(key, listener)) => {
                let (stop, stopped) = watch::channel(false);
                tokio::task::spawn_local(accept::accept(Rc::clone(&worker), listener, stopped));
                listeners.push((key, stop));
            }
            Some(Message::Unlisten(key)) => {
                listeners.retain(|(known, _)| *known != Some(key));
            }
            Some(Message::Wake) => clock::wake_all(),
            Some(Message::Stop(deadline, accept_policy)) => break (deadline, accept_policy),
            None => break (Instant::now(), AcceptPolicy::Refused),
        }
    };
    wind_down(&worker, listeners, end).await;
}

/// Lets open requests end, until the deadline. Dropping the runtime closes the rest.
async fn wind_down(
    worker: &Worker,
    listeners: Vec<(Option<ServiceKey>, watch::Sender<bool>)>,
    (deadline, accept_policy): (Instant, AcceptPolicy),
) {
    worker.stop();
    clock::wake_all();
    if accept_policy.serves_newcomers() {
        until_quiet(worker, deadline).await;
    }
    drop(listeners);
    // The listeners first take waiting connections, for which there is a moment in any case.
    let last = deadline.max(Instant::now() + PAUSE * 10);
    tokio::time::sleep(PAUSE).await;
    until_quiet(worker, last).await;
    let connections = worker.open();
    if connections > 0 {
        tracing::info!(connections, "closed when the drain time was over");
    }
}

/// How often it is looked whether everything is over.
const PAUSE: Duration = Duration::from_millis(20);

async fn until_quiet(worker: &Worker, deadline: Instant) {
    while worker.open() > 0 && Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Rounds of tidying after which sessions that are over are looked for.
const SESSION_ROUNDS: u64 = 120;

/// Ends idle connections to backends in their time, and the memory of files and sessions.
async fn tidy(worker: Rc<Worker>) {
    let mut rounds = tokio::time::interval(Duration::from_millis(500));
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 1u64.. {
        rounds.tick().await;
        worker.pool.tidy();
        worker.files.tidy();
        if round % SESSION_ROUNDS == 0 {
            worker.snapshot().sessions.tidy();
        }
    }
}
