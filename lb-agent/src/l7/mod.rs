//! `mode = "http"`: requests read and forwarded in user space.
//!
//! | module | owns |
//! | --- | --- |
//! | `access_log` | a line for each request |
//! | [`compress`] | answers made smaller on their way |
//! | [`tls`] | TLS for clients: certificates, server names, session tickets |

mod access_log;
pub mod compress;
pub mod tls;
