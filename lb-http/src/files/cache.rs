//! The files that a worker knows, each looked at again after a second. What is not asked for is forgotten, so a file
//! that was deleted takes no space for long.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::fast::RandomState;
use lru::LruCache;

use super::file::{File, Source};
use super::open::{self, Found, How, Opened, Stamp};
use crate::clock;

/// How long a file is known, milliseconds.
const FRESH_MS: u64 = 1000;
/// A file that nobody has asked for is forgotten after so long.
const IDLE_MS: u64 = 10_000;
/// Names that are known at most.
const MOST: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Bytes of their contents. A file that is not small has a descriptor, which counts as 128 KiB.
const MOST_BYTES: usize = 16 << 20;

/// Why it is not known what a name stands for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// The root cannot be opened.
    #[error("the root cannot be opened: {0}")]
    Root(#[source] io::Error),
    /// The file cannot be opened, or is written to all the time.
    #[error("{0}")]
    File(#[source] io::Error),
}

/// The thing that has a name below a root.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// Nothing that is served.
    Missing,
    /// It may not be read.
    Denied,
    Directory,
    File(Rc<File>),
}

/// A worker's files.
pub(crate) struct Cache {
    /// By their paths as bytes: paths are compared and hashed segment by segment.
    roots: RefCell<HashMap<Box<OsStr>, Root, RandomState>>,
    entries: RefCell<LruCache<Box<[u8]>, Known>>,
    /// The key that is looked up.
    key: RefCell<Vec<u8>>,
    /// The id of the next root.
    next: Cell<u64>,
    weight: Cell<usize>,
}

struct Root {
    /// Begins the keys of its files.
    id: u64,
    opened: Arc<Opened>,
    looked_ms: u64,
}

struct Known {
    entry: Entry,
    looked_ms: u64,
    weight: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            roots: RefCell::default(),
            entries: RefCell::new(LruCache::new(MOST)),
            key: RefCell::default(),
            next: Cell::new(0),
            weight: Cell::new(0),
        }
    }
}

impl Cache {
    /// The thing called `name` below `root`.
    pub(crate) async fn find(&self, root: &Arc<Path>, name: &[u8]) -> Result<Entry, FindError> {
        match self.fresh(root, name) {
            Some(entry) => Ok(entry),
            None => self.look_up(root, name).await,
        }
    }

    /// The same, if it was looked at within the last second.
    fn fresh(&self, root: &Path, name: &[u8]) -> Option<Entry> {
        let now_ms = clock::now_ms();
        let roots = self.roots.borrow();
        let root = roots
            .get(root.as_os_str())
            .filter(|root| now_ms < root.looked_ms + FRESH_MS)?;
        let mut entries = self.entries.borrow_mut();
        let known = self.with_key(root.id, name, |key| entries.get(key))?;
        (now_ms < known.looked_ms + FRESH_MS).then(|| known.entry.clone())
    }

    fn with_key<T>(&self, root: u64, name: &[u8], look: impl FnOnce(&[u8]) -> T) -> T {
        let mut key = self.key.borrow_mut();
        key.clear();
        key.extend_from_slice(&root.to_ne_bytes());
        key.extend_from_slice(name);
        look(&key)
    }

    async fn look_up(&self, root: &Arc<Path>, name: &[u8]) -> Result<Entry, FindError> {
        let (id, opened) = self.root(root).await?;
        let known = self.known(id, name);
        let stamp = known.as_ref().map(|file| file.stamp);
        let found = find(&opened, name, stamp).await.map_err(FindError::File)?;
        let entry = match (found, known) {
            (Found::Missing, _) | (Found::Same, None) => Entry::Missing,
            (Found::Denied, _) => Entry::Denied,
            (Found::Directory, _) => Entry::Directory,
            (Found::Same, Some(file)) => Entry::File(file),
            (Found::Small(stamp, content), _) => file(name, Source::Memory(content.into()), stamp),
            (Found::Large(opened), _) => {
                let stamp = opened.stamp;
                file(name, Source::Disk(Arc::new(opened)), stamp)
            }
        };
        self.keep(id, name, entry.clone());
        Ok(entry)
    }

    /// The directory at `path`, which may be another one than a second ago.
    async fn root(&self, path: &Arc<Path>) -> Result<(u64, Arc<Opened>), FindError> {
        let now_ms = clock::now_ms();
        if let Some(root) = self.roots.borrow().get(path.as_os_str())
            && now_ms < root.looked_ms + FRESH_MS
        {
            return Ok((root.id, Arc::clone(&root.opened)));
        }
        let opened = match open::open_root(path, How::Cached) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let path = Arc::clone(path);
                waiting(move || open::open_root(&path, How::Blocking)).await
            }
            opened => opened,
        };
        let opened = Arc::new(opened.map_err(FindError::Root)?);
        let mut roots = self.roots.borrow_mut();
        let is_same = |root: &&Root| {
            let (a, b) = (&root.opened.stamp, &opened.stamp);
            (a.device, a.inode) == (b.device, b.inode)
        };
        let id = match roots.get(path.as_os_str()).filter(is_same) {
            Some(root) => root.id,
            None => self.next.replace(self.next.get() + 1),
        };
        let root = Root {
            id,
            opened: Arc::clone(&opened),
            looked_ms: now_ms,
        };
        roots.insert(path.as_os_str().into(), root);
        Ok((id, opened))
    }

    /// A directory of a root, for reading its entries.
    pub(super) async fn directory(
        &self,
        root: &Arc<Path>,
        name: &[u8],
    ) -> Result<std::os::fd::OwnedFd, FindError> {
        let (_, opened) = self.root(root).await?;
        let name = name.to_vec();
        let directory = waiting(move || open::open_directory(&opened, &name)).await;
        directory.map_err(FindError::File)
    }

    /// The file that had a name, if any change of it since would show in its stamp.
    fn known(&self, root: u64, name: &[u8]) -> Option<Rc<File>> {
        let entries = self.entries.borrow();
        let known = self.with_key(root, name, |key| entries.peek(key))?;
        match &known.entry {
            Entry::File(file) if file.is_settled => Some(Rc::clone(file)),
            _ => None,
        }
    }

    fn keep(&self, root: u64, name: &[u8], entry: Entry) {
        const OWN: usize = 256;
        let key: Box<[u8]> = self.with_key(root, name, |key| key.into());
        let of_file = match &entry {
            Entry::File(file) => file.weight(),
            Entry::Missing | Entry::Denied | Entry::Directory => 0,
        };
        let known = Known {
            entry,
            looked_ms: clock::now_ms(),
            weight: OWN + key.len() + of_file,
        };
        let mut weight = self.weight.get() + known.weight;
        let mut entries = self.entries.borrow_mut();
        if let Some((_, before)) = entries.push(key, known) {
            weight -= before.weight;
        }
        self.weight.set(weight);
        self.make_room(&mut entries);
    }

    fn make_room(&self, entries: &mut LruCache<Box<[u8]>, Known>) {
        while self.weight.get() > MOST_BYTES {
            let Some((_, last)) = entries.pop_lru() else {
                return;
            };
            self.weight.set(self.weight.get() - last.weight);
        }
    }

    /// Forgets files that nobody has asked for, and counts the others again: they grow by what they are coded in.
    pub(crate) fn tidy(&self) {
        let now_ms = clock::now_ms();
        let is_idle = |looked_ms: u64| now_ms >= looked_ms + IDLE_MS;
        self.roots
            .borrow_mut()
            .retain(|_, root| !is_idle(root.looked_ms));
        let mut entries = self.entries.borrow_mut();
        while entries
            .peek_lru()
            .is_some_and(|(_, known)| is_idle(known.looked_ms))
        {
            entries.pop_lru();
        }
        let mut weight = 0;
        for (_, known) in entries.iter_mut() {
            if let Entry::File(file) = &known.entry {
                known.weight = known.weight.max(file.weight());
            }
            weight += known.weight;
        }
        self.weight.set(weight);
        self.make_room(&mut entries);
    }
}

fn file(name: &[u8], source: Source, stamp: Stamp) -> Entry {
    Entry::File(Rc::new(File::new(name, source, stamp, SystemTime::now())))
}

/// Looks up a name by this thread, or by one that may wait.
async fn find(root: &Arc<Opened>, name: &[u8], known: Option<Stamp>) -> io::Result<Found> {
    match open::find(root, name, known, How::Cached) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        found => return found,
    }
    let (root, name) = (Arc::clone(root), name.to_vec());
    waiting(move || open::find(&root, &name, known, How::Blocking)).await
}

/// Has a thread do `work` that may wait for a disk.
async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(entry: &Entry) -> Bytes {
        match entry {
            Entry::File(file) => match &file.source {
                Source::Memory(content) => content.clone(),
                Source::Disk(_) => panic!("a large file"),
            },
            other => panic!("{other:?}"),
        }
    }
    use hyper::body::Bytes;

    #[tokio::test]
    async fn file_is_known_until_nobody_has_asked_for_it_for_long() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "one").unwrap();
        let root: Arc<Path> = Arc::from(dir.path());
        let cache = Cache::default();
        assert!(cache.fresh(&root, b"a").is_none());
        let entry = cache.find(&root, b"a").await.unwrap();
        assert_eq!(content(&entry), "one");
        assert!(cache.fresh(&root, b"a").is_some());
        assert!(matches!(cache.find(&root, b"b").await, Ok(Entry::Missing)));
        cache.tidy();
        assert_eq!(cache.entries.borrow().len(), 2);
        assert!(cache.weight.get() > 2 * 256);
        cache.entries.borrow_mut().clear();
        cache.tidy();
        assert_eq!(cache.weight.get(), 0);
    }

    #[tokio::test]
    async fn contents_are_bounded_in_bytes_and_names_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let root: Arc<Path> = Arc::from(dir.path());
        let cache = Cache::default();
        let content = vec![b'x'; 64 * 1024];
        for number in 0..300 {
            let name = format!("f{number}");
            std::fs::write(dir.path().join(&name), &content).unwrap();
            cache.find(&root, name.as_bytes()).await.unwrap();
        }
        assert!(cache.weight.get() <= MOST_BYTES);
        assert!(cache.entries.borrow().len() < 256);
        for number in 0..2000 {
            let name = format!("none{number}");
            cache.find(&root, name.as_bytes()).await.unwrap();
        }
        assert_eq!(cache.entries.borrow().len(), MOST.get());
        assert!(cache.weight.get() < 1 << 20);
    }

    #[tokio::test]
    async fn root_that_is_another_directory_has_other_files() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["1", "2"] {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            std::fs::write(dir.path().join(version).join("a"), version).unwrap();
        }
        let current = dir.path().join("current");
        std::os::unix::fs::symlink("1", &current).unwrap();
        let root: Arc<Path> = Arc::from(current.as_path());
        let cache = Cache::default();
        assert_eq!(content(&cache.find(&root, b"a").await.unwrap()), "1");
        std::fs::remove_file(&current).unwrap();
        std::os::unix::fs::symlink("2", &current).unwrap();
        // As after a second.
        cache
            .roots
            .borrow_mut()
            .values_mut()
            .for_each(|root| root.looked_ms = 0);
        let later = clock::now_ms() < FRESH_MS;
        assert!(later, "the clock of a test stands still");
        cache.roots.borrow_mut().clear();
        assert_eq!(content(&cache.find(&root, b"a").await.unwrap()), "2");
        let gone: Arc<Path> = Arc::from(Path::new("/nonexistent-root"));
        assert!(matches!(
            cache.find(&gone, b"a").await,
            Err(FindError::Root(_))
        ));
    }
}
