//! Files that are sent: found below a root, described by their validators, read without blocking a worker.
//!
//! The handler (`serve_files`) makes answers of them. Nothing here knows a request as a whole.
//!
//! | file | owns |
//! | --- | --- |
//! | `target` | the name of a file from the path of a request |
//! | `open` | files below a root, by openat2(2); reads |
//! | `cache` | files that a worker knows, looked at again after a second |
//! | `file` | a file that is known: its validators and its type |
//! | `kinds` | media types |
//! | `conditional` | `If-Match` and its relatives |
//! | `ranges` | `Range` |
//! | `body` | a file on its way to a client |
//! | `listing` | a directory as a page |
//! | `check` | whether roots can be read, for `lb-agent check` |

mod body;
mod cache;
mod check;
mod conditional;
mod file;
mod kinds;
mod listing;
mod open;
mod ranges;
mod target;

use std::path::Path;
use std::sync::Arc;

use lb_config::http::Files;

pub(crate) use body::{FileBody, Part, PartError};
pub(crate) use cache::{Cache, Entry, FindError};
pub use check::check_config;
pub(crate) use conditional::{Verdict, judge};
pub(crate) use file::{File, Source, suffix_of};
pub(crate) use listing::page as listing_page;
pub(crate) use ranges::{Ranges, ranges};
pub(crate) use target::{Target, encoded, sound};

/// The files of a route.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) root: Arc<Path>,
    /// The beginning of a path that is no part of the name of a file.
    prefix: String,
    pub(crate) settings: Files,
}

impl Site {
    /// Those of a route for paths below `path`.
    pub(crate) fn new(settings: &Files, path: &str) -> Self {
        Self {
            root: Arc::from(settings.root.as_path()),
            prefix: if settings.strip { path } else { "" }.to_owned(),
            settings: settings.clone(),
        }
    }

    /// The file that the path of a request names; `None` if no file can have that name, or none that is served.
    pub(crate) fn target(&self, path: &str) -> Option<Target> {
        target::target(path, &self.prefix, self.settings.hidden)
    }

    /// `Cache-Control` of the file called `name`.
    pub(crate) fn cache_control(&self, name: &[u8]) -> Option<&str> {
        if self.settings.cache_control.is_empty() {
            return None;
        }
        let path = [b"/", name].concat();
        let mut rules = self.settings.cache_control.iter();
        let rule = rules.find(|rule| rule.path.iter().any(|pattern| pattern.fits(&path)))?;
        Some(&rule.value)
    }
}
