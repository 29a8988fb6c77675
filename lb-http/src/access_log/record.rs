//! A request under way, whose line is written at its end.

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use hyper::Version;

use super::entry::{End, Entry, LogFields};
use super::format;
use super::sink::Sink;

/// A request under way. Its line is written once: by [`Record::finish`], else when it is dropped.
pub(crate) struct Record {
    sink: Arc<Sink>,
    entry: Entry,
    is_written: bool,
}

impl Record {
    /// A request that begins now, as the client sent it.
    pub(crate) fn begin(
        sink: &Arc<Sink>,
        client: IpAddr,
        version: Version,
        log_fields: &LogFields<'_>,
    ) -> Self {
        Self {
            sink: Arc::clone(sink),
            entry: Entry::begin(client, version, log_fields),
            is_written: false,
        }
    }

    /// Writes the line.
    pub(crate) fn finish(mut self, end: End) {
        self.write(end);
    }

    fn write(&mut self, end: End) {
        if !std::mem::replace(&mut self.is_written, true) {
            let (format, entry) = (self.sink.format(), &self.entry);
            let total = entry.age();
            self.sink
                .write(|out| format::line(format, entry, total, end, out));
        }
    }
}

impl Deref for Record {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut Entry {
        &mut self.entry
    }
}

impl Drop for Record {
    /// A request that ends early is logged too.
    fn drop(&mut self) {
        self.write(End::Aborted);
    }
}
