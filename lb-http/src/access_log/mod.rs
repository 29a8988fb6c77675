//! The access log: a line for each request and each WebSocket, written off the request's way.
//!
//! | file | owns |
//! | --- | --- |
//! | `line` | the line of a request under way, which is written at its end |
//! | `entry` | the log fields of a request |
//! | `format` | the line of it: combined or JSON |
//! | `stamp` | the time, put into words once a second |
//! | `sink` | a thread's buffer of lines, on its way to the writer |
//! | `writer` | the one thread that writes, and opens files anew |
//!
//! A request costs a copy of the few texts that the line needs, and the formatting of the line into
//! a buffer of its thread. A full buffer, and every buffer ten times a second, goes to the writer.
//! When the disk cannot keep up, lines are dropped and counted: requests never wait for the log.

mod entry;
mod format;
mod line;
mod sink;
mod stamp;
mod writer;

pub(super) use entry::{End, Ended, LogFields};
pub(super) use line::Line;
pub(super) use sink::{Sink, flush_thread};
pub(super) use writer::Writer;
