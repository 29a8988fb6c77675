//! What the paths through the agent have in common, TCP, UDP and HTTP alike: sockets for clients, and the room for
//! them. Nothing here knows requests, nor how the kernel moves connections.
//!
//! | module | owns |
//! | --- | --- |
//! | [`clock`] | the clocks that times in tables are of |
//! | [`seldom`] | lines of the log that come every now and then |
//! | [`sockopt`] | socket options that the crates do not know |
//! | [`clients`] | the memory of clients, behind a trait |
//! | [`proxy_protocol`] | the PROXY protocol: read and written |
//! | [`bind`] | listening sockets, and the reasons why one cannot be opened |
//! | [`handover`] | listening sockets that outlive an agent |
//! | [`admission`] | how many clients are let in, and who makes room |

pub mod admission;
pub mod bind;
pub mod clients;
pub mod clock;
pub mod handover;
pub mod proxy_protocol;
pub mod seldom;
pub mod sockopt;

pub use clients::Clients;
