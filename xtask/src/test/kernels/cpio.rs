//! Writes cpio archives ("newc"), of which a kernel unpacks one after the other as its first root.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const DEVICE: u32 = 0o020_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive. Directories are added with the files in them. All entries belong to root.
pub(super) struct Archive<W: Write> {
    out: W,
    entries: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            entries: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a directory and its parents. Paths have no slash in front.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.parent(path)?;
        self.entry(path, DIRECTORY | 0o755, &[], [0, 0])
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parent(path)?;
        self.entry(path, FILE | mode, content, [0, 0])
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parent(path)?;
        self.entry(path, LINK | 0o777, target.as_bytes(), [0, 0])
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, number: [u32; 2]) -> Result<()> {
        self.parent(path)?;
        self.entry(path, DEVICE | 0o600, &[], number)
    }

    /// A file of this machine, with its mode, or all that is in a directory.
    pub(super) fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        let meta = fs::metadata(from).with_context(|| format!("read {}", from.display()))?;
        if !meta.is_dir() {
            let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
            return self.file(path, meta.permissions().mode() & 0o777, &content);
        }
        self.directory(path)?;
        let entries = fs::read_dir(from).with_context(|| format!("read {}", from.display()))?;
        for entry in entries {
            let name = entry.context("read a directory")?.file_name();
            let name = name.to_string_lossy();
            self.tree(&format!("{path}/{name}"), &from.join(&*name))?;
        }
        Ok(())
    }

    /// Writes the end of the archive.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[], [0, 0])?;
        Ok(self.out)
    }

    fn parent(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8], device: [u32; 2]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).context("a file of more than 4 GiB")?;
        let name_size = path.len() as u32 + 1;
        let fields = [
            self.entries,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            size,
            0, // device of the file system
            0,
            device[0],
            device[1],
            name_size,
            0, // checksum
        ];
        let mut head = b"070701".to_vec();
        for field in fields {
            write!(head, "{field:08x}")?;
        }
        head.extend(path.as_bytes());
        head.push(0);
        pad(&mut head);
        self.out.write_all(&head)?;
        self.out.write_all(content)?;
        let rest = content.len().next_multiple_of(4) - content.len();
        self.out.write_all(&[0; 4][..rest])?;
        Ok(())
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_parents_come_first() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/file", 0o755, b"hello").unwrap();
        archive.link("a/link", "b/file").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let heads: Vec<usize> = (0..bytes.len() - 5)
            .filter(|at| &bytes[*at..at + 6] == b"070701")
            .collect();
        assert!(heads.iter().all(|at| at % 4 == 0), "{heads:?}");
        let name = |at: &usize| {
            let rest = &bytes[at + 110..];
            String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap()).into_owned()
        };
        let names: Vec<String> = heads.iter().map(name).collect();
        assert_eq!(names, ["a", "a/b", "a/b/file", "a/link", "TRAILER!!!"]);
        let file = String::from_utf8_lossy(&bytes[heads[2]..heads[3]]).into_owned();
        assert!(file.starts_with("07070100000003000081ed"), "{file:?}");
        assert!(file.contains("hello"), "{file:?}");
    }
}
