//! The control socket: HTTP/1.1 with JSON on a unix socket.
pub mod message;
