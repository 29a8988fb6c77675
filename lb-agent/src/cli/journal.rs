//! Lines of standard error that systemd passes to the journal: how they are known, and their priority.

use std::os::fd::AsFd;

use tracing::Level;

/// Names device and inode of the journal's stream, systemd.exec(5).
const STREAM: &str = "JOURNAL_STREAM";

/// Whether `stream` is the one by which systemd passes lines of this process to the journal.
pub(super) fn is_journal(stream: impl AsFd) -> bool {
    let named = std::env::var(STREAM).unwrap_or_default();
    rustix::fs::fstat(stream).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The prefix with the priority of a line, sd-daemon(3).
pub(super) const fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}
