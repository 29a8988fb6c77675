//! `mode = "http"`: requests read and forwarded in user space.
//!
//! | module | owns |
//! | --- | --- |
//! | [`compress`] | answers made smaller on their way |
//! | [`tls`] | TLS for clients: certificates, server names, session tickets |

pub mod compress;
pub mod tls;
