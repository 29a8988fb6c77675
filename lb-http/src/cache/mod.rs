//! The response cache: answers of backends in memory, shared by the workers (RFC 9111 as a shared cache). The handler is
//! `serve_cached`; nothing in here does I/O.
//!
//! | file | owns |
//! | --- | --- |
//! | `control` | `Cache-Control`, and its targeted form |
//! | `policy` | the rules: what may be stored, and what may be sent again |
//! | `key` | the parts of a request that tell answers apart by the configuration |
//! | `vary` | the request fields that answers vary on |
//! | `object` | one stored answer, and what a 304 changes of it |
//! | `store` | all of them, bounded by bytes |
//! | `figures` | what is told of it, and what is purged |
//! | `flights` | requests that wait for the same answer |
//! | `fill` | an answer on its way from a backend, as the cache sees it |

mod control;
mod figures;
mod fill;
mod flights;
mod key;
mod object;
mod policy;
mod store;
mod vary;

pub(crate) use control::Control;
pub use figures::{CacheFigures, Purge, StoredObject};
pub(crate) use fill::{Copying, Fill, Purpose, Seen, Taken};
pub(crate) use flights::{Flight, Joined, State};
pub(crate) use key::add_target;
pub(crate) use object::Object;
pub(crate) use policy::Reuse;
pub(crate) use store::{Found, Store};
