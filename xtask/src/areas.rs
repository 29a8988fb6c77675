//! The areas of end-to-end tests: each is a directory of `tests`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::sh;

/// Directories of `tests`, one for each area.
const AREAS: [&str; 5] = ["faults", "http", "kernel", "operations", "packets"];

/// All test files in order: `AREA/NAME.rs`, or `AREA/NAME/main.rs` of a test with several files.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for area in AREAS {
        let dir = sh::workspace().join("tests").join(area);
        let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
        files.extend(entries.flatten().map(|entry| match entry.path() {
            path if path.is_dir() => path.join("main.rs"),
            path => path,
        }));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files.sort();
    Ok(files)
}

/// The test's area and name, if `path` (in the workspace) is a test file: `kernel` and `sticky` for
/// `tests/kernel/sticky.rs`.
pub(crate) fn of(path: &str) -> Option<(&str, &str)> {
    let (area, file) = path.strip_prefix("tests/")?.split_once('/')?;
    let name = file.strip_suffix(".rs")?;
    let name = name.strip_suffix("/main").unwrap_or(name);
    (AREAS.contains(&area) && !name.contains('/')).then_some((area, name))
}

/// Cargo's name of a test: its file's name, or that of its directory if it has several files.
pub(crate) fn name(file: &Path) -> String {
    let stem = file.file_stem().filter(|stem| *stem != "main");
    let name = stem.or_else(|| file.parent()?.file_name());
    name.unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_file_has_an_area_and_a_name() {
        assert_eq!(of("tests/kernel/sticky.rs"), Some(("kernel", "sticky")));
        assert_eq!(of("tests/faults/soak/main.rs"), Some(("faults", "soak")));
        for other in [
            "tests/faults/soak/mood.rs",
            "tests/src/topology/hosts.rs",
            "xtask/src/main.rs",
        ] {
            assert_eq!(of(other), None);
        }
        assert_eq!(name(Path::new("tests/kernel/sticky.rs")), "sticky");
        assert_eq!(name(Path::new("tests/faults/soak/main.rs")), "soak");
    }
}
