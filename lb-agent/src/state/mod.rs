//! What should be, what is, and the steps from the one to the other.
//!
//! `desired` puts the configuration and the changes made at run time (`overlay`, kept by `store`)
//! together; `observed` is what a data plane has in force; `plan` compares the two and is pure.

pub mod desired;
pub mod judge;
mod loops;
pub mod observed;
pub mod overlay;
pub mod packets;
pub mod plan;
pub mod preview;
pub mod rename;
pub mod route;
pub mod store;
