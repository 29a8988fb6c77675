//! What should be, what is, and the steps from the one to the other.
//!
//! | file | owns |
//! | --- | --- |
//! | `table` | tables of services, and what they are built from |
//! | `action` | single changes of the tables |
//! | `overlay`, `store` | changes made at run time, and how they are kept |
//! | `verdict`, `targets`, `route` | what health says of a backend, how packets get there, the path to it |
//! | `surroundings` | what all this depends on beside the configuration |
//! | `desired` | what should be |
//! | `judge`, `loops`, `vips` | what health, circles and listen addresses make of it |
//! | `compose` | the configuration with the changes made at run time laid over it |
//! | `observed` | what a data plane has in force |
//! | `plan`, `preview`, `rename` | the steps from the one to the other; pure |

pub mod action;
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
pub mod table;
pub mod targets;
pub mod verdict;
pub mod vips;
