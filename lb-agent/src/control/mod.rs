//! The control socket: HTTP/1.1 with JSON on a unix socket.
//!
//! | file | owns |
//! | --- | --- |
//! | `message` | commands, answers and refusals, and their JSON |
//! | `cache` | the response cache, and its JSON |
//! | `explain` | the answer to `lookup` in words |
//! | `facts` | the parts of a request that `lookup` is asked about |
//! | `status` | the state of everything, and its JSON |
//! | `stats` | every figure, and its JSON |
//! | `peer` | the client's credentials and permissions |
//! | `bind` | making the socket, and telling a dead agent's from a living one's |
//! | `api` | from an HTTP request to a command |
//! | `server` | connections, their limits and deadlines |
//! | `quota` | limits on the commands a user has under way |
//! | `queue` | calls on their way to the task that answers them |
//! | `client` | the other end |
//!
//! No file here changes state: commands go through a queue to the one task that does.

mod api;
mod bind;
pub mod cache;
pub mod client;
pub mod explain;
pub mod facts;
pub mod message;
pub mod peer;
pub mod queue;
mod quota;
pub mod server;
pub mod stats;
pub mod status;

pub use api::lookup_command;

#[cfg(test)]
mod tests;
