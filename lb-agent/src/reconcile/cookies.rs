//! SYN cookies at the driver, where no backend is on a packet path: the programs are then on the interfaces of
//! clients for that alone.

use lb_config::PacketConfig;

use super::Reconciler;
use super::packets::{described, missing};
use crate::dataplane::packets::Wanted;
use crate::network::cookies;
use crate::network::survey::{Place, Survey};

impl Reconciler {
    /// Attaches the programs to the drivers of the interfaces by which clients come.
    pub(super) fn follow_cookies(&mut self) {
        let survey = self.surveyed.network.survey();
        let config = &self.config.agent.packet;
        let wanted = wanted(&survey, config);
        let mut problems = missing(&survey, config);
        problems.extend(self.surveyed.network.problem());
        problems.extend(cookies::problem());
        if let Err(why) = self.plane.packets() {
            problems.push(format!("SYN cookies come from the listeners alone: {why}"));
        }
        self.note_problems(problems);
        self.surveyed.interfaces = self.plane.follow(&wanted, survey.has_rules);
        self.look_again();
    }
}

/// The interfaces by which clients come. Behind a driver the listeners themselves send the cookies.
fn wanted(survey: &Survey, config: &PacketConfig) -> Vec<Wanted> {
    let clients = survey.client_side(&config.interfaces).into_iter();
    clients
        .map(|(interface, attach)| {
            let place = match interface.place(attach) {
                Place::Behind(why) | Place::Nowhere(why) => {
                    Place::Nowhere(format!("SYN cookies come from the listeners alone: {why}"))
                }
                Place::Driver => Place::Driver,
            };
            described(interface, place)
        })
        .collect()
}
