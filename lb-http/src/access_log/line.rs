//! The line of a request under way, which is written at its end.

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use hyper::Version;

use super::entry::{Ended, Entry, LogFields};
use super::format;
use super::sink::Sink;

/// The line of a request under way.
pub(crate) struct Line {
    sink: Arc<Sink>,
    entry: Entry,
}

impl Line {
    /// That of a request as the client sent it.
    pub(crate) fn begin(
        sink: &Arc<Sink>,
        client: IpAddr,
        version: Version,
        log_fields: &LogFields<'_>,
    ) -> Self {
        Self {
            sink: Arc::clone(sink),
            entry: Entry::begin(client, version, log_fields),
        }
    }

    /// Writes it.
    pub(crate) fn write(self, ended: &Ended) {
        let (format, entry) = (self.sink.format(), &self.entry);
        self.sink
            .write(|out| format::line(format, entry, ended, out));
    }
}

impl Deref for Line {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl DerefMut for Line {
    fn deref_mut(&mut self) -> &mut Entry {
        &mut self.entry
    }
}
