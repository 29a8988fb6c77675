//! The acts of the soak test, each with its permitted cost.

mod agent;
mod backends;
mod callers;
mod surroundings;

use crate::judge::Cost;
use crate::world::{Act, World};

const fn lives(name: &'static str, play: fn(&mut World<'_>) -> Cost) -> Act {
    Act {
        name,
        play,
        agent_lives: true,
    }
}

const fn dies(name: &'static str, play: fn(&mut World<'_>) -> Cost) -> Act {
    Act {
        name,
        play,
        agent_lives: false,
    }
}

/// All of them. Some are more than once, as they are done to one of sixteen applications.
pub(crate) const ACTS: [Act; 30] = [
    dies("agent killed", agent::killed),
    dies("agent restarted", agent::restarted),
    dies("agent handed over", agent::handed_over),
    dies("agent killed in a reload", agent::killed_in_a_reload),
    dies("agent out of memory", agent::out_of_memory),
    lives("agent out of descriptors", agent::out_of_descriptors),
    lives("second agent", agent::second),
    lives("backend killed", backends::killed),
    lives("backend killed", backends::killed),
    lives("backend killed", backends::killed),
    lives("backend frozen", backends::frozen),
    lives("backend frozen", backends::frozen),
    lives("backend removed and added", backends::removed),
    lives("backend removed and added", backends::removed),
    lives("backend drained", backends::drained),
    lives("backend drained", backends::drained),
    lives("backend drained and closed", backends::drained_and_closed),
    lives("backend drained and closed", backends::drained_and_closed),
    lives("reload", callers::reload),
    lives("twenty reloads", callers::reload_often),
    lives("bad reload", callers::bad_reload),
    lives("certificate renewed", callers::certificate_renewed),
    lives("eight callers at once", callers::many_at_once),
    lives("silent crowd", callers::silent_crowd),
    lives("noise on every socket", callers::noise),
    lives("disk full", surroundings::disk_full),
    lives("disk read-only", surroundings::disk_read_only),
    lives("clock stepped", surroundings::clock_stepped),
    lives(
        "interface down and renamed",
        surroundings::interface_renamed,
    ),
    lives(
        "interface with another address",
        surroundings::interface_readdressed,
    ),
];
