//! The last lines of the agent's log, for readers at the control socket.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::control::stats::Event;
use crate::state::overlay::unix_ms;

/// How many lines are kept.
const KEPT: usize = 100;

static LAST: Mutex<VecDeque<Event>> = Mutex::new(VecDeque::new());

/// A layer that keeps log events of the levels information, warning and error.
pub struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        keep(Event {
            at_unix_ms: unix_ms(),
            level: level.to_string(),
            message: text(event),
        });
    }
}

/// The message of an event with its fields behind it. The message of an event with the field `command` says
/// all of them by itself.
pub fn text(event: &tracing::Event<'_>) -> String {
    let mut line = Line::default();
    event.record(&mut line);
    match event.metadata().fields().field("command") {
        Some(_) => line.message,
        None => line.message + &line.fields,
    }
}

fn keep(event: Event) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.len() == KEPT {
        last.pop_front();
    }
    last.push_back(event);
}

/// The kept events, the latest last.
pub fn last() -> Vec<Event> {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.iter().cloned().collect()
}

/// The message, and the other fields behind it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn the_last_lines_are_kept_with_their_fields() {
        let subscriber = tracing_subscriber::registry().with(Keep);
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..=KEPT {
                tracing::info!(n, "one of many");
            }
            tracing::debug!("not this");
            tracing::warn!(command = "stop", error = "no", "stop refused: no");
        });
        let last = last();
        assert_eq!(last.len(), KEPT);
        assert_eq!(last[KEPT - 1].message, "stop refused: no");
        assert_eq!(last[KEPT - 2].message, "one of many n=100");
        assert_eq!(last[0].message, "one of many n=2");
    }
}
