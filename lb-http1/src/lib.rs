//! HTTP/1.1 messages as bytes with an index: parsed once, edited in place, written once.
//!
//! Nothing in here does I/O, knows the time, or knows the peers. Bytes go in, messages and
//! bytes come out (RFC 9110 for the semantics, RFC 9112 for the syntax).
//!
//! | module | owns |
//! | --- | --- |
//! | [`name`] | field names that code depends on |
//! | [`fields`] | a header section |
//! | [`request`], [`response`] | heads: parse and write |
//! | [`framing`] | how long a body is: the one place that decides it |
//! | [`body`] | the bytes of a body: decoders and encoders |
//! | [`hop`] | hop-by-hop fields |
//! | [`host`], [`list`] | values that are parsed in more than one place |
//! | [`buffer_pool`] | buffers that a thread uses again |

#![forbid(unsafe_code)]

pub mod body;
pub mod buffer_pool;
pub mod fields;
pub mod framing;
pub mod hop;
pub mod host;
pub mod list;
pub mod name;
pub mod request;
pub mod response;

pub use fields::Fields;
pub use framing::Framing;
pub use name::Name;
pub use request::RequestHead;
pub use response::ResponseHead;
