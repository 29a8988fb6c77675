//! HTTP/2 to backends (`protocol = "h2c"`): prior knowledge over TCP and unix sockets (RFC 9113, section
//! 3.3). One connection carries the streams of many requests.
//!
//! | file | owns |
//! | --- | --- |
//! | `connections` | the connections of a thread, shared by its requests |
//! | `connection` | one connection, and its life in a task of its own |
//! | `call` | one stream: a request and its answer, frame by frame |
//! | `head` | heads and trailers, from and to the form of the crate `h2` |

mod call;
mod connection;
mod connections;
mod head;

pub(super) use call::{Call, Received, Unanswered};
pub(super) use connections::Connections;
pub(super) use head::{fields_of, headers_of, is_grpc, is_grpc_type};
