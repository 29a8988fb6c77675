//! The end of the agent: what goes on without it, and what it waits for.

use std::time::Duration;

use lb_common::abi::path;

use super::commands::{count, failed};
use super::{LAST_CONNECTIONS, Reconciler};
use crate::control::message::{Refusal, Reply, Stopping};
use crate::state::desired::Service;
use lb_config::Mode;

/// The part of the agent in a service at its end.
#[derive(Clone, Copy, Debug)]
struct Part {
    mode: Mode,
    /// Backends that the kernel reaches without the agent.
    kernel: usize,
    /// Backends that are reached through the agent alone.
    agent: usize,
    /// Connections through the agent, and for HTTP requests and WebSockets.
    open: u64,
    /// How long they may go on.
    grace: Duration,
}

impl Reconciler {
    /// Prepares the end of the agent, which the caller brings about after this answer.
    pub(super) fn stop(&mut self, purge: bool) -> Result<Reply, Refusal> {
        let kernel_stays = self.plane.steers() && !purge;
        let parts: Vec<(&str, Part)> = self.desired.services.iter().map(|s| self.part(s)).collect();
        let busy = parts.iter().filter(|(_, part)| part.open > 0);
        let wait = busy.map(|(_, part)| part.grace).max();
        let services = parts
            .iter()
            .map(|(name, part)| part.sentence(name, kernel_stays));
        let stopping = Stopping {
            services: services.collect(),
            wait_seconds: wait.unwrap_or_default().as_secs(),
            message: match purge {
                true => "stopping; everything is taken out of the kernel",
                false => "stopping",
            }
            .to_owned(),
        };
        if purge {
            self.plane
                .purge()
                .map_err(|error| failed("take everything out", &error))?;
            self.surveyed.restore();
        }
        Ok(Reply::Stopping(stopping))
    }

    fn part<'a>(&self, service: &'a Service) -> (&'a str, Part) {
        let steers = self.plane.steers() && service.mode != Mode::Http;
        let by_agent = |path| !steers || path == path::PROXY;
        let (agent, kernel): (Vec<_>, Vec<_>) = service
            .backends
            .iter()
            .partition(|it| by_agent(it.route.path));
        let id = self.observed.service(&service.name);
        let entries = id.into_iter().flat_map(|id| self.observed.backends_of(id));
        let open = entries.map(|entry| match service.mode {
            Mode::Http => self.l7.backend_counts(entry.id).active,
            Mode::Tcp | Mode::Udp => self.front.backend_counts(entry.id).active,
        });
        let part = Part {
            mode: service.mode,
            kernel: kernel.len(),
            agent: agent.len(),
            open: open.sum(),
            grace: match service.mode {
                Mode::Http => self.longest_drain(),
                Mode::Tcp | Mode::Udp => LAST_CONNECTIONS,
            },
        };
        (&service.name, part)
    }
}

impl Part {
    fn sentence(&self, name: &str, kernel_stays: bool) -> String {
        let mode = match self.mode {
            Mode::Tcp => "tcp",
            Mode::Udp => "udp",
            Mode::Http => "http",
        };
        let sentence = match (self.kernel, self.agent) {
            (0, 0) => format!("{name} ({mode}) has no backend"),
            (0, _) if self.mode == Mode::Http => format!("{name} ({mode}) is served no more"),
            (0, _) => format!("{name} ({mode}, through the agent) is served no more"),
            (_, _) if !kernel_stays => format!("{name} ({mode}, kernel) is served no more"),
            (_, 0) => format!("{name} ({mode}, kernel): goes on without the agent"),
            (_, some) => format!(
                "{name} ({mode}, kernel): goes on without the agent, but for {} through the agent",
                count(some, "backend")
            ),
        };
        if self.open == 0 {
            return sentence;
        }
        let open = self.open as usize;
        let open = match self.mode {
            Mode::Http if open == 1 => "1 request or WebSocket".to_owned(),
            Mode::Http => format!("{open} requests and WebSockets"),
            Mode::Tcp => format!("{} through the agent", count(open, "connection")),
            Mode::Udp => format!("{} through the agent", count(open, "flow")),
        };
        let grace = humantime::format_duration(self.grace);
        format!("{sentence}; waiting up to {grace} for {open}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Part = Part {
        mode: Mode::Tcp,
        kernel: 0,
        agent: 0,
        open: 0,
        grace: LAST_CONNECTIONS,
    };

    #[test]
    fn each_service_is_told_by_its_path() {
        let http = Part {
            mode: Mode::Http,
            agent: 2,
            open: 2,
            grace: Duration::from_secs(30),
            ..PART
        };
        let kernel = Part { kernel: 2, ..PART };
        let mixed = Part {
            kernel: 2,
            agent: 1,
            open: 1,
            ..PART
        };
        let udp = Part {
            mode: Mode::Udp,
            agent: 1,
            open: 3,
            ..PART
        };
        let told = [
            (
                http,
                "web (http) is served no more; waiting up to 30s for 2 requests and WebSockets",
            ),
            (kernel, "web (tcp, kernel): goes on without the agent"),
            (
                mixed,
                "web (tcp, kernel): goes on without the agent, but for 1 backend through the agent; waiting up \
                 to 5s for 1 connection through the agent",
            ),
            (
                udp,
                "web (udp, through the agent) is served no more; waiting up to 5s for 3 flows through the agent",
            ),
            (PART, "web (tcp) has no backend"),
        ];
        for (part, expected) in told {
            assert_eq!(part.sentence("web", true), expected);
        }
        assert_eq!(
            kernel.sentence("web", false),
            "web (tcp, kernel) is served no more"
        );
    }
}
