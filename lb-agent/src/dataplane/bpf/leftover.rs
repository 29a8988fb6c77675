//! Detects pinned programs of an earlier agent that still steer connections, for an agent that loads no
//! programs itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lb_common::abi::META_MAGIC;

use super::{link, load, maps};
use crate::errors::chain;

/// The reason for which a user-space agent must not serve beside the pins of an earlier agent.
#[derive(Debug, thiserror::Error)]
pub enum Leftover {
    /// Pinned programs are attached and serve this network namespace.
    #[error("programs that an earlier agent pinned in {} go on steering by their old tables", .0.display())]
    InForce(PathBuf),
    /// The pins cannot be read.
    #[error("programs that an earlier agent pinned in {dir} may go on steering by their old tables ({why})", dir = dir.display())]
    Unknown {
        /// Directory of the pins.
        dir: PathBuf,
        /// Text of the error.
        why: String,
    },
}

/// Looks for programs that are pinned in `pin_dir` and attached to this network namespace.
///
/// The kernel never reuses a namespace cookie. Pins with another cookie therefore do not concern this
/// namespace, whether theirs still exists or not.
///
/// # Errors
/// Such programs exist, or their absence cannot be verified.
pub fn check(pin_dir: &Path) -> Result<(), Leftover> {
    let unknown = |why: String| Leftover::Unknown {
        dir: pin_dir.to_owned(),
        why,
    };
    let links = links(pin_dir).map_err(|error| unknown(error.to_string()))?;
    if links.is_empty() {
        return Ok(());
    }
    let own = load::netns_cookie().map_err(|error| unknown(error.to_string()))?;
    let meta = maps::pinned_meta(pin_dir).map_err(|error| unknown(chain(&error)))?;
    if meta.is_some_and(|meta| meta.magic == META_MAGIC && meta.netns_cookie != own) {
        return Ok(());
    }
    // A link without permission to open counts as attached.
    let attached = |pin: &PathBuf| link::target(pin).map_or(true, |target| target != 0);
    if links.iter().any(attached) {
        Err(Leftover::InForce(pin_dir.to_owned()))
    } else {
        Ok(())
    }
}

fn links(pin_dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(pin_dir.join("links")) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_pins_nothing_steers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path()).is_ok());
        assert!(check(&dir.path().join("none")).is_ok());
        fs::create_dir(dir.path().join("links")).unwrap();
        assert!(check(dir.path()).is_ok());
    }

    #[test]
    fn pins_that_cannot_be_opened_are_taken_for_attached_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("links")).unwrap();
        fs::write(dir.path().join("links/lb_steer"), "").unwrap();
        let found = check(dir.path()).unwrap_err();
        assert!(matches!(found, Leftover::InForce(_)), "{found}");
        fs::create_dir(dir.path().join("maps")).unwrap();
        fs::write(dir.path().join("maps/META"), "").unwrap();
        let found = check(dir.path()).unwrap_err();
        assert!(matches!(found, Leftover::Unknown { .. }), "{found}");
    }
}
