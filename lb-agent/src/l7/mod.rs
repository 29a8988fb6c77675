//! `mode = "http"`: requests read and forwarded in user space.
//!
//! | module | owns |
//! | --- | --- |
//! | [`tls`] | TLS for clients: certificates, server names, session tickets |

pub mod tls;
