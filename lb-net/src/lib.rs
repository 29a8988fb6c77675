//! The common ground of the TCP, UDP and HTTP paths: sockets for clients, and the room for them.
//! Nothing here knows requests, nor how the kernel moves connections.
//!
//! | module | owns |
//! | --- | --- |
//! | [`clock`] | the clocks that times in tables are of |
//! | [`seldom`] | rate-limited lines of the log |
//! | [`sockopt`] | socket options that the crates do not know |
//! | [`clients`] | the memory of clients, behind a trait |
//! | [`proxy_protocol`] | the PROXY protocol: read and written |
//! | [`bind`] | listening sockets, and the reasons when one cannot be opened |
//! | [`handover`] | listening sockets that outlive an agent |
//! | [`admission`] | how many clients are let in, and which idle ones are cut off |

pub mod admission;
pub mod bind;
pub mod clients;
pub mod clock;
pub mod handover;
pub mod proxy_protocol;
pub mod seldom;
pub mod sockopt;

pub use clients::Clients;
