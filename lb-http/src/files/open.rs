//! Files below a root: opened by openat2(2), which follows no link out of it, and read.
//!
//! Each call is made twice at most. The first ([`How::Cached`]) fails with `WouldBlock` where it would wait for a
//! disk (RESOLVE_CACHED, Linux 5.12; RWF_NOWAIT, 4.14). The second is for a thread that may wait.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// Files of at most so many bytes are kept in memory.
pub(super) const SMALL: u64 = 64 * 1024;
/// How often a name is looked up again that changes at the same time.
const ATTEMPTS: usize = 8;

/// Whether a call may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It fails with `WouldBlock` in place of that.
    Cached,
    /// It may.
    Blocking,
}

/// The identity of a file, and of its content at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Seconds since 1970, and nanoseconds.
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
}

impl Stamp {
    fn new(stat: &fs::Stat) -> Self {
        let nanoseconds = |value| u32::try_from(value).unwrap_or_default();
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    /// Whether the file has the same content. A new name for it, or the loss of one, changes `changed` alone.
    fn has_content_of(&self, other: &Self) -> bool {
        (self.size, self.modified) == (other.size, other.modified)
    }
}

/// An open file, and how it was then.
#[derive(Debug)]
pub(crate) struct Opened {
    fd: OwnedFd,
    pub(super) stamp: Stamp,
}

/// The thing that has a name below a root.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or nothing that is below the root.
    Missing,
    /// It may not be read.
    Denied,
    Directory,
    /// The file that is known already.
    Same,
    /// A small file with its content.
    Small(Stamp, Vec<u8>),
    /// Another file.
    Large(Opened),
}

fn resolve(flags: ResolveFlags, how: How) -> ResolveFlags {
    match how {
        How::Cached => flags | ResolveFlags::CACHED,
        How::Blocking => flags,
    }
}

/// `WouldBlock` for errors that say no more than that. Kernels before 5.12 do not know RESOLVE_CACHED.
fn is_unsure(error: Errno, how: How) -> bool {
    let may_wait = matches!(error, Errno::AGAIN | Errno::INVAL | Errno::OPNOTSUPP);
    how == How::Cached && may_wait
}

/// Opens the directory at `path`.
pub(super) fn open_root(path: &Path, how: How) -> io::Result<Opened> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = fs::openat2(
        fs::CWD,
        path,
        flags,
        Mode::empty(),
        resolve(ResolveFlags::empty(), how),
    );
    let fd = match opened {
        Err(error) if is_unsure(error, how) => return Err(io::ErrorKind::WouldBlock.into()),
        opened => opened?,
    };
    let stamp = Stamp::new(&fs::fstat(&fd)?);
    Ok(Opened { fd, stamp })
}

/// Looks up `name` below `root`. A small file is read, unless its stamp is that of `known`.
pub(super) fn find(
    root: &Opened,
    name: &[u8],
    known: Option<Stamp>,
    how: How,
) -> io::Result<Found> {
    let fd = match open(root, name, how) {
        Ok(fd) => fd,
        Err(error) if is_unsure(error, how) => return Err(io::ErrorKind::WouldBlock.into()),
        Err(
            Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG
            // Sockets and devices without a driver; names that the file system does not take.
            | Errno::NXIO | Errno::NODEV | Errno::INVAL | Errno::ILSEQ,
        ) => return Ok(Found::Missing),
        Err(Errno::ACCESS | Errno::PERM) => return unreadable(root, name, how),
        Err(error) => return Err(error.into()),
    };
    let stat = fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Found::Directory),
        _ => return Ok(Found::Missing),
    }
    let opened = Opened {
        fd,
        stamp: Stamp::new(&stat),
    };
    if known == Some(opened.stamp) {
        return Ok(Found::Same);
    }
    if opened.stamp.size > SMALL {
        return Ok(Found::Large(opened));
    }
    whole(opened, how)
}

/// A directory whose entries may not be read is one all the same: its files are found by their names.
fn unreadable(root: &Opened, name: &[u8], how: How) -> io::Result<Found> {
    match open_as(root, name, OFlags::PATH | OFlags::DIRECTORY, how) {
        Ok(_) => Ok(Found::Directory),
        Err(error) if is_unsure(error, how) => Err(io::ErrorKind::WouldBlock.into()),
        Err(_) => Ok(Found::Denied),
    }
}

fn open(root: &Opened, name: &[u8], how: How) -> Result<OwnedFd, Errno> {
    // Opening a pipe does not wait for its other end, and a terminal does not become ours.
    open_as(
        root,
        name,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        how,
    )
}

fn open_as(root: &Opened, name: &[u8], flags: OFlags, how: How) -> Result<OwnedFd, Errno> {
    let name = if name.is_empty() { b"." } else { name };
    let flags = flags | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let opened = fs::openat2(&root.fd, name, flags, Mode::empty(), resolve(beneath, how));
        match opened {
            // A directory above it was renamed at the same time (openat2(2)).
            Err(Errno::AGAIN) if how == How::Blocking && attempts < ATTEMPTS => {}
            opened => return opened,
        }
    }
}

/// The directory called `name`, for reading its entries.
pub(super) fn open_directory(root: &Opened, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(open(root, name, How::Blocking)?)
}

/// Reads a small file. One that is written to at the same time is read again.
fn whole(mut opened: Opened, how: How) -> io::Result<Found> {
    for _ in 0..ATTEMPTS {
        let stamp = opened.stamp;
        let size = usize::try_from(stamp.size).map_err(io::Error::other)?;
        let mut content = vec![0; size];
        let mut length = 0;
        while length < size {
            match opened.read(length as u64, &mut content[length..], how)? {
                0 => break,
                more => length += more,
            }
        }
        let now = opened.look()?;
        if length == size && now.has_content_of(&stamp) {
            return Ok(Found::Small(stamp, content));
        }
        opened.stamp = now;
        if now.size > SMALL {
            return Ok(Found::Large(opened));
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

impl Opened {
    /// Its descriptor.
    pub(super) const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn look(&self) -> io::Result<Stamp> {
        Ok(Stamp::new(&fs::fstat(&self.fd)?))
    }

    /// Reads bytes at `offset`; 0 at the end.
    pub(super) fn read(&self, offset: u64, into: &mut [u8], how: How) -> io::Result<usize> {
        let flags = match how {
            How::Cached => ReadWriteFlags::NOWAIT,
            How::Blocking => ReadWriteFlags::empty(),
        };
        loop {
            let mut parts = [IoSliceMut::new(&mut *into)];
            match rustix::io::preadv2(&self.fd, &mut parts, offset, flags) {
                Err(Errno::INTR) => {}
                Err(error) if is_unsure(error, how) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                read => return Ok(read?),
            }
        }
    }

    /// Whether the file still has the content that it had when it was opened. Its clock may tick every 10 ms only.
    pub(super) fn is_unchanged(&self) -> io::Result<bool> {
        Ok(self.look()?.has_content_of(&self.stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn found(root: &Path, name: &str) -> Found {
        let root = open_root(root, How::Blocking).unwrap();
        find(&root, name.as_bytes(), None, How::Blocking).unwrap()
    }

    #[test]
    fn links_out_of_the_root_lead_nowhere_and_those_inside_do() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("www");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("a"), "content").unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        symlink("..", root.join("out")).unwrap();
        symlink("../a", root.join("sub/a")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for name in [
            "up",
            "absolute",
            "out/secret",
            "../secret",
            "none",
            "a/b",
            "loop",
            "sub/../../secret",
        ] {
            assert!(matches!(found(&root, name), Found::Missing), "{name}");
        }
        assert!(matches!(found(&root, ""), Found::Directory));
        assert!(matches!(found(&root, "sub"), Found::Directory));
        let Found::Small(_, content) = found(&root, "sub/a") else {
            panic!("a link inside");
        };
        assert_eq!(content, b"content");
    }

    #[test]
    fn pipes_and_sockets_are_no_files_and_are_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        fs::mknodat(fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for name in ["pipe", "socket"] {
            assert!(matches!(found(dir.path(), name), Found::Missing), "{name}");
        }
    }

    #[test]
    fn file_that_was_written_to_is_seen_to_have_changed_and_a_renamed_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let Found::Large(opened) = found(dir.path(), "a") else {
            panic!("a large file");
        };
        std::fs::rename(&path, dir.path().join("b")).unwrap();
        assert!(opened.is_unchanged().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(dir.path().join("b"), vec![2; 100_000]).unwrap();
        assert!(!opened.is_unchanged().unwrap());
    }
}
