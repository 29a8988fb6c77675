//! The desired state, the observed state, and the plan that leads from the second to the first.
//!
//! | file | owns |
//! | --- | --- |
//! | `action` | single changes of the tables |
//! | `overlay`, `store` | changes made at run time, and their file |
//! | `verdict`, `targets`, `route` | the health verdict of a backend, its packet target, the path to it |
//! | `surroundings` | the facts about the host that these depend on, beside the configuration |
//! | `desired` | the desired state |
//! | `judge`, `loops`, `vips` | the effect of health, forwarding loops and listen addresses on the desired state |
//! | `changes` | the changes made at run time against the configuration |
//! | `compose` | the configuration with the changes made at run time laid over it |
//! | `observed` | the state that a data plane has in force |
//! | `plan`, `preview`, `rename` | the steps from the observed to the desired state; pure |

pub mod access;
pub mod action;
pub mod changes;
mod compose;
pub mod desired;
mod judge;
mod loops;
pub mod observed;
pub mod overlay;
pub mod plan;
pub mod preview;
pub mod rename;
pub mod route;
pub mod store;
pub mod surroundings;
pub mod targets;
pub mod verdict;
pub mod vips;
