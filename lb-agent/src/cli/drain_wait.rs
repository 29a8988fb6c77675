//! `drain-backend --wait`: how much is left, until nothing is or the time is over.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::output;
use crate::control::client::{CallError, Client};
use crate::control::message::Command;
use crate::control::status::{BackendStatus, Status};
use crate::state::overlay::AtEnd;
use lb_config::BackendAddress;

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(100);
/// Interval between two lines about the remaining connections.
const TELL: Duration = Duration::from_secs(1);
/// An agent may be started again meanwhile: for so long it is not missed.
const AWAY: Duration = Duration::from_secs(30);
/// Quiet time after the last client was sent elsewhere. Handshakes under way then need a moment, and
/// stopping the application at once would lose them.
const QUIET: Duration = Duration::from_millis(300);
/// Time limit for closing the remaining connections after the drain.
const CLOSING: Duration = Duration::from_secs(5);

/// A backend that is being drained.
pub(super) struct Drained {
    pub(super) client: Client,
    pub(super) address: BackendAddress,
    pub(super) service: Option<String>,
    pub(super) json: bool,
    /// The agent closes the remaining connections, for which it gets a moment.
    pub(super) closes: bool,
}

/// Progress of a drain.
enum Stand {
    /// So many connections, and seconds, are left.
    Going(u64, u64),
    /// Its time is over; so many connections are left.
    Over(u64),
}

/// The row of a backend in `status` at one moment.
struct Look {
    stand: Stand,
    /// Walks over the flow tables so far, if connections are counted by them.
    walks: Option<u64>,
    /// No counter exists for its connections (`dsr`).
    uncounted: bool,
    /// Number and kind of the connections that last as long as their clients like.
    lasting: (u64, &'static str),
}

/// Nothing seems to be left, since this moment and number of walks.
#[derive(Clone, Copy)]
struct Empty(Instant, Option<u64>);

impl Empty {
    fn new(walks: Option<u64>) -> Self {
        Self(Instant::now(), walks)
    }

    /// Whether it can be believed: the walk that was under way has to end, and another one too.
    fn is_certain(self, walks: Option<u64>) -> bool {
        let Self(since, before) = self;
        let counted = walks.zip(before);
        since.elapsed() >= QUIET
            && (counted.is_none_or(|(walks, before)| walks >= before + 2)
                || since.elapsed() >= AWAY)
    }
}

impl Drained {
    /// Waits until the backend is empty, or the drain is over.
    pub(super) async fn wait(self) -> Result<(), Failure> {
        let start = Instant::now();
        let mut told: Option<(u64, Instant)> = None;
        // Since when there has been nothing left, and since when the time has been over.
        let (mut empty, mut over): (Option<Empty>, _) = (None, None);
        let mut first = None;
        loop {
            let look = self.look().await?;
            let first = match first {
                Some(first) => first,
                None => {
                    self.tell_of_lasting(&look)?;
                    *first.insert(Empty::new(look.walks))
                }
            };
            let left = match look.stand {
                Stand::Going(..) if look.uncounted => {
                    sleep(LOOK).await;
                    continue;
                }
                Stand::Over(_) if look.uncounted => return self.told_uncounted(start),
                Stand::Going(0, _) if look.walks.is_none() || first.is_certain(look.walks) => {
                    self.send_elsewhere().await?;
                    continue;
                }
                Stand::Going(0, _) => {
                    sleep(LOOK).await;
                    continue;
                }
                Stand::Going(left, seconds) => {
                    self.tell(&mut told, left, seconds)?;
                    left
                }
                Stand::Over(left) => {
                    let since = *over.get_or_insert_with(Instant::now);
                    let patience = if self.closes { CLOSING } else { QUIET };
                    if left > 0 && since.elapsed() > patience {
                        return self.told_left(left, start);
                    }
                    left
                }
            };
            if left > 0 {
                empty = None;
            } else if empty
                .get_or_insert_with(|| Empty::new(look.walks))
                .is_certain(look.walks)
            {
                return self.told_empty(start);
            }
            sleep(LOOK).await;
        }
    }

    /// The drain is over for the clients that are still known, too.
    async fn send_elsewhere(&self) -> Result<(), Failure> {
        let command = Command::DrainBackend {
            address: self.address.clone(),
            service: self.service.clone(),
            timeout: Some(Duration::ZERO),
            at_end: AtEnd::Leave,
            now: true,
        };
        let outcome = self.client.change(&command).await;
        outcome.map_err(failed).map(drop)
    }

    async fn look(&self) -> Result<Look, Failure> {
        let (backend, walks) = self.backend().await?;
        let stand = self.stand(&backend)?;
        Ok(Look {
            stand,
            walks: walks.filter(|_| backend.path == "nat"),
            uncounted: backend.path == "dsr",
            lasting: match backend.websockets {
                Some(open) => (open, "WebSocket"),
                None => (backend.active, "connection"),
            },
        })
    }

    fn stand(&self, backend: &BackendStatus) -> Result<Stand, Failure> {
        match (backend.state.as_str(), backend.drain_seconds_left) {
            ("up" | "no listener", _) => Err(Failure::failed(format!(
                "drain-backend: {} has been put back in service meanwhile",
                self.address
            ))),
            ("draining", Some(seconds)) => Ok(Stand::Going(backend.active, seconds)),
            _ => Ok(Stand::Over(backend.active)),
        }
    }

    /// The backend's row in `status`, and the number of walks over the flow tables so far.
    async fn backend(&self) -> Result<(BackendStatus, Option<u64>), Failure> {
        let deadline = Instant::now() + AWAY;
        let status: Status = loop {
            match self.client.read(&Command::Status).await {
                Ok(status) => break status,
                Err(CallError::Unreachable { .. } | CallError::Garbled { .. })
                    if Instant::now() < deadline =>
                {
                    sleep(LOOK).await;
                }
                Err(error) => return Err(failed(error)),
            }
        };
        let walks = status.agent.packets.map(|packets| packets.figures.walks);
        let wanted = |name: &str| self.service.as_deref().is_none_or(|wanted| wanted == name);
        let mut backends = status
            .services
            .into_iter()
            .filter(|service| wanted(&service.name))
            .flat_map(|service| service.backends);
        backends
            .find(|backend| backend.address == self.address)
            .map(|backend| (backend, walks))
            .ok_or_else(|| {
                Failure::failed(format!(
                    "drain-backend: {} has been removed meanwhile; what it had open goes on",
                    self.address
                ))
            })
    }

    /// Tells before the countdown what the drain alone does not end.
    fn tell_of_lasting(&self, look: &Look) -> Result<(), Failure> {
        match (look.lasting, &look.stand) {
            ((0, _), _) | (_, Stand::Over(_)) => Ok(()),
            _ if self.json || look.uncounted => Ok(()),
            ((number, what), Stand::Going(_, seconds)) => {
                output::line(&lasting(number, what, *seconds, self.closes))
            }
        }
    }

    fn tell(
        &self,
        told: &mut Option<(u64, Instant)>,
        left: u64,
        seconds: u64,
    ) -> Result<(), Failure> {
        let new = told.is_none_or(|(before, at)| before != left && at.elapsed() >= TELL);
        if self.json || !new {
            return Ok(());
        }
        *told = Some((left, Instant::now()));
        let time = humantime::format_duration(Duration::from_secs(seconds));
        output::line(&format!("{}: {}, {time}", self.address, connections(left)))
    }

    fn told_empty(&self, start: Instant) -> Result<(), Failure> {
        if self.json {
            return self.tell_json(0, start);
        }
        output::line(&format!("{} is empty", self.address))
    }

    fn told_uncounted(&self, start: Instant) -> Result<(), Failure> {
        if self.json {
            let document = json!({
                "address": self.address,
                "empty": null,
                "connections_left": null,
                "seconds": seconds_since(start),
            });
            return output::line(&document.to_string());
        }
        output::line(&format!(
            "{}: the time is over (on the dsr path nobody knows what is left)",
            self.address
        ))
    }

    fn told_left(&self, left: u64, start: Instant) -> Result<(), Failure> {
        if self.json {
            self.tell_json(left, start)?;
            return Err(Failure::shown(super::failure::FAILED));
        }
        Err(Failure::failed(format!(
            "drain-backend: the time is over and {} still has {} (--at-end close ends them)",
            self.address,
            connections(left)
        )))
    }

    fn tell_json(&self, left: u64, start: Instant) -> Result<(), Failure> {
        let document = json!({
            "address": self.address,
            "empty": left == 0,
            "connections_left": left,
            "seconds": seconds_since(start),
        });
        output::line(&document.to_string())
    }
}

/// To the millisecond.
fn seconds_since(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

fn failed(error: CallError) -> Failure {
    Failure::of_call("drain-backend", error)
}

/// The fate of connections that only their clients end, unless the drain closes them.
fn lasting(number: u64, what: &str, seconds: u64, closes: bool) -> String {
    let time = humantime::format_duration(Duration::from_secs(seconds));
    let (s, are, they, stay, their, clients_close, them) = match number {
        1 => ("", "is", "it", "stays", "its", "client closes", "it"),
        _ => ("s", "are", "they", "stay", "their", "clients close", "them"),
    };
    if closes {
        return format!("{number} {what}{s} {are} open; {they} {are} closed after {time}");
    }
    format!(
        "{number} {what}{s} {are} open; {they} {stay} until {their} {clients_close} {them}: --at-end close \
         ends {them} after {time}"
    )
}

/// "1 connection", "2 connections".
fn connections(number: u64) -> String {
    format!(
        "{number} connection{} left",
        if number == 1 { "" } else { "s" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_clients_end_is_told_with_the_way_out() {
        assert_eq!(
            lasting(2, "WebSocket", 30, false),
            "2 WebSockets are open; they stay until their clients close them: --at-end close ends them after 30s"
        );
        assert_eq!(
            lasting(1, "connection", 90, false),
            "1 connection is open; it stays until its client closes it: --at-end close ends it after 1m 30s"
        );
        let closed = "1 WebSocket is open; it is closed after 30s";
        assert_eq!(lasting(1, "WebSocket", 30, true), closed);
    }
}
