//! Applies the health verdicts of backends to their states and weights.

use lb_common::abi::state;

use super::desired::{Backend, Service};
use super::overlay::Target;
use super::surroundings::Surroundings;
use super::verdict::{FULL_RAMP, Verdict};
use lb_config::Mode;
use lb_config::health::{AllDown, Health};

/// Applies the health verdicts to the backends of a service.
pub(super) fn judge(
    service: &mut Service,
    config: &lb_config::Service,
    surroundings: &dyn Surroundings,
) {
    let Some(health) = service.health.clone() else {
        return;
    };
    let verdicts: Vec<Verdict> = service
        .backends
        .iter()
        .map(|backend| {
            // While a service is being renamed, its health is known under the former name.
            let mut names = std::iter::once(&config.name).chain(&config.was);
            let verdict = names.find_map(|name| {
                surroundings.verdict(&Target {
                    service: name.clone(),
                    address: backend.address.clone(),
                })
            });
            verdict.unwrap_or_default()
        })
        .collect();
    for (backend, verdict) in service.backends.iter_mut().zip(&verdicts) {
        backend.fit = verdict.fit;
    }
    let in_service = |backend: &Backend| backend.state == state::UP;
    let none_fit = !service.backends.iter().any(|b| in_service(b) && b.fit);
    let all_down = treatment(&health, config.mode);
    // If no backend is known to be fit, an answer of a possibly broken backend is better than none.
    // Drained backends stay out of service.
    if !(none_fit && all_down == AllDown::Serve) {
        for backend in service.backends.iter_mut().filter(|backend| !backend.fit) {
            backend.state = state::DOWN;
        }
    }
    ramp_up(&mut service.backends, &verdicts);
}

/// What happens while no backend is fit.
fn treatment(health: &Health, mode: Mode) -> AllDown {
    // HTTP has a 503 response, which is better than a broken answer. TCP and UDP have no such
    // response.
    let usual = match mode {
        Mode::Tcp | Mode::Udp => AllDown::Serve,
        Mode::Http => AllDown::Refuse,
    };
    health.all_down.unwrap_or(usual)
}

impl Service {
    /// What happens to clients because the health checks have found no backend fit; `None` while one
    /// is, or if the backends are out of service for other reasons.
    pub fn all_down(&self) -> Option<AllDown> {
        let health = self.health.as_ref()?;
        let mut in_service = self
            .backends
            .iter()
            .filter(|backend| backend.drain.is_none() && backend.comes_back.is_none())
            .peekable();
        in_service.peek()?;
        let none_fit = in_service.all(|backend| !backend.fit);
        none_fit.then(|| treatment(health, self.mode))
    }
}

/// Gives recovering backends a part of their weight (slow start). Weights are whole numbers, so the
/// weights of the other backends grow instead. If these are too large for that, the weights of the
/// recovering backends shrink.
fn ramp_up(backends: &mut [Backend], verdicts: &[Verdict]) {
    if verdicts.iter().all(|verdict| verdict.ramp == FULL_RAMP) {
        return;
    }
    let heaviest = backends.iter().map(|b| b.weight).max().unwrap_or(1);
    let scale = if heaviest <= u16::MAX / FULL_RAMP {
        FULL_RAMP
    } else {
        1
    };
    for (backend, verdict) in backends.iter_mut().zip(verdicts) {
        let part = u32::from(backend.weight) * u32::from(scale) * u32::from(verdict.ramp)
            / u32::from(FULL_RAMP);
        backend.table_weight = part.max(1) as u16;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::state::compose::tests::config;
    use crate::state::desired::Desired;
    use crate::state::overlay::Overlay;

    fn target(address: &str) -> Target {
        Target {
            service: "web".to_owned(),
            address: address.parse().unwrap(),
        }
    }

    /// The surroundings of a test: verdicts by the port of the backend.
    struct Judged(Vec<(u16, Verdict)>);

    impl Surroundings for Judged {
        fn can_steer(&self) -> bool {
            true
        }

        fn is_local(&self, _: SocketAddr) -> bool {
            true
        }

        fn verdict(&self, target: &Target) -> Option<Verdict> {
            let found = self
                .0
                .iter()
                .find(|(port, _)| *port == target.address.key().port());
            found.map(|(_, verdict)| *verdict)
        }
    }

    const UNFIT: Verdict = Verdict {
        fit: false,
        ramp: FULL_RAMP,
    };

    /// States and table weights of two backends, the second of weight 2.
    fn judged(all_down: &str, overlay: &Overlay, verdicts: Vec<(u16, Verdict)>) -> Vec<(u8, u16)> {
        let config = config(&format!(
            "[[service]]\nname = 'web'\nlisten = ['0.0.0.0:80']\nhealth = {{ {all_down} }}\n\
             backends = ['127.0.0.1:5000', {{ address = '127.0.0.1:5001', weight = 2 }}]"
        ));
        let desired = Desired::new(&config, overlay, [1, 2], 0, &Judged(verdicts));
        let backends = desired.services[0].backends.iter();
        backends.map(|b| (b.state, b.table_weight)).collect()
    }

    #[test]
    fn a_backend_that_is_not_fit_is_down() {
        let states = judged("", &Overlay::default(), vec![(5001, UNFIT)]);
        assert_eq!(states, [(state::UP, 1), (state::DOWN, 2)]);
        // A draining backend goes down too, and so loses its known clients.
        let mut overlay = Overlay::default();
        overlay.drain(target("127.0.0.1:5001"), 1000);
        let states = judged("", &overlay, vec![(5001, UNFIT)]);
        assert_eq!(states, [(state::UP, 1), (state::DOWN, 2)]);
    }

    #[test]
    fn when_all_are_down_they_serve_or_refuse_as_configured() {
        let both = || vec![(5000, UNFIT), (5001, UNFIT)];
        let (up, down) = (
            [(state::UP, 1), (state::UP, 2)],
            [(state::DOWN, 1), (state::DOWN, 2)],
        );
        let none = Overlay::default();
        assert_eq!(judged("", &none, both()), up);
        assert_eq!(judged("all_down = 'serve'", &none, both()), up);
        assert_eq!(judged("all_down = 'refuse'", &none, both()), down);
        // Drained and draining backends are not put back in service if all others are down.
        let mut overlay = Overlay::default();
        overlay.drain(target("127.0.0.1:5001"), 0);
        let expected = [(state::UP, 1), (state::DOWN, 2)];
        assert_eq!(judged("", &overlay, vec![(5000, UNFIT)]), expected);
        overlay.drain(target("127.0.0.1:5001"), 1000);
        let expected = [(state::UP, 1), (state::DRAINING, 2)];
        assert_eq!(judged("", &overlay, vec![(5000, UNFIT)]), expected);
    }

    #[test]
    fn a_slow_start_gives_a_part_of_the_weight() {
        let ramp = |ramp| Verdict { fit: true, ramp };
        let none = Overlay::default();
        let weights = |verdicts| -> Vec<u16> {
            judged("", &none, verdicts)
                .iter()
                .map(|(_, weight)| *weight)
                .collect()
        };
        assert_eq!(weights(vec![(5001, ramp(1))]), [16, 2]);
        assert_eq!(weights(vec![(5001, ramp(8))]), [16, 16]);
        assert_eq!(weights(vec![(5001, ramp(FULL_RAMP))]), [1, 2]);
    }
}
