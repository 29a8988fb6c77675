//! The live page: the state of the agent for a browser, read-only, from one snapshot a second.
//!
//! | file | owns |
//! | --- | --- |
//! | `server` | connections, paths and answers |
//! | `guard` | names and origins of requests that are refused |
//! | `assets` | HTML, style and script, and the headers of every answer |
//! | `live` | the snapshots, for as long as somebody watches |
//! | `events` | the stream of events to one watcher |
//! | `counts` | the counters behind the rates |
//! | `rates` | rates between two snapshots |
//! | `history` | the plots of the last hour |
//!
//! All watchers share a snapshot. Without watchers the agent takes none.

mod assets;
mod counts;
mod events;
mod guard;
mod history;
mod live;
mod rates;
mod server;

pub use server::serve;

/// Key of the address in `[agent]`, and name of the socket among those that the next agent gets.
pub const NAME: &str = "page";
