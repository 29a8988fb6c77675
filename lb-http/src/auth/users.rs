//! A users file: lines of `name:hash`, as `htpasswd -B` writes them. It is read again when it changes. A file that
//! cannot be used leaves the users in force.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use super::answers::{Answers, Digest};
use super::hash::Hash;
use crate::watch::Watched;

/// Bytes of a users file at most.
const MOST_BYTES: u64 = 16 << 20;

/// The users of one file, kept fresh.
pub(super) struct UsersFile {
    path: PathBuf,
    /// `None` until there is a good file.
    users: ArcSwapOption<Users>,
    state: Mutex<State>,
}

/// The state of the watcher.
struct State {
    /// Of the last file that was tried.
    tried: Fingerprint,
    /// Of the last look. A file is tried when it is seen twice.
    seen: Fingerprint,
    problem: Option<String>,
}

/// The users at one time, with the answers to the credentials that came.
pub(super) struct Users {
    hashes: HashMap<String, Hash>,
    /// The names in their order, for the hash of an unknown user.
    names: Vec<String>,
    pub(super) answers: Answers,
}

impl Users {
    /// Reads a users file. The error is a line.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let meta = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
        if !meta.is_file() || meta.len() > MOST_BYTES {
            return Err(format!(
                "{shown}: is no file of users (make one with htpasswd -B -c {shown} NAME)"
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        Self::parse(&text).map_err(|(line, problem)| format!("{shown}:{line}: {problem}"))
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let (mut hashes, mut names) = (HashMap::new(), Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((name, hash)) = line.split_once(':') else {
                return Err((
                    number,
                    "is not NAME:HASH (write it with htpasswd -B)".to_owned(),
                ));
            };
            // htpasswd allows a comment after another colon.
            let hash = hash.split(':').next().unwrap_or_default();
            let hash = Hash::parse(hash).map_err(|problem| {
                let message = format!("the hash of {name} {problem} (make it with htpasswd -B)");
                (number, message)
            })?;
            if hashes.insert(name.to_owned(), hash).is_some() {
                return Err((number, format!("{name} is there twice (remove one)")));
            }
            names.push(name.to_owned());
        }
        Ok(Self {
            hashes,
            names,
            answers: Answers::new(),
        })
    }

    /// Whether it is the password of the user. It takes as long for an unknown user, by the hash of another.
    pub(super) fn verify(&self, digest: &Digest, name: &str, password: &[u8]) -> bool {
        if let Some(hash) = self.hashes.get(name) {
            return hash.is_of(password);
        }
        let place = u64::from_le_bytes(*digest.first_chunk().unwrap_or(&[0; 8]));
        let another = self.names.get(place as usize % self.names.len().max(1));
        if let Some(hash) = another.and_then(|name| self.hashes.get(name)) {
            let _ = hash.is_of(password);
        }
        false
    }
}

impl UsersFile {
    /// Reads the file. If that cannot be used, nobody is let in before it can.
    pub(super) fn new(path: &Path) -> Arc<Self> {
        // Before reading: a write meanwhile is seen as a change.
        let seen = Fingerprint::of(path);
        let (users, problem) = match Users::load(path) {
            Ok(users) => (Some(Arc::new(users)), None),
            Err(problem) => (None, Some(problem)),
        };
        Arc::new(Self {
            path: path.to_owned(),
            users: ArcSwapOption::new(users),
            state: Mutex::new(State {
                tried: seen,
                seen,
                problem,
            }),
        })
    }

    /// The users in force.
    pub(super) fn users(&self) -> Option<Arc<Users>> {
        self.users.load_full()
    }

    /// Why the file is not in force.
    pub(super) fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for UsersFile {
    /// A change is taken up at the second look that finds it the same, so that no half-written file is read.
    fn look(&self) {
        let mut state = self.state();
        let now = Fingerprint::of(&self.path);
        let is_settled = std::mem::replace(&mut state.seen, now) == now;
        if !is_settled || state.tried == now {
            return;
        }
        state.tried = now;
        match Users::load(&self.path) {
            Ok(users) => {
                tracing::info!("the users in {} are new, and in force", self.path.display());
                self.users.store(Some(Arc::new(users)));
                state.problem = None;
            }
            Err(problem) => {
                tracing::error!("{problem}; the users before stay in force");
                state.problem = Some(problem);
            }
        }
    }
}

/// The identity of a file's content; `None` without a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint(Option<(u64, u64, u64, SystemTime)>);

impl Fingerprint {
    fn of(path: &Path) -> Self {
        let meta = std::fs::metadata(path).ok();
        Self(meta.and_then(|meta| {
            let modified = meta.modified().ok()?;
            Some((meta.dev(), meta.ino(), meta.len(), modified))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_that_is_no_user_is_named() {
        let bcrypt = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
        let good = format!("# users\n\nann:{bcrypt}\r\nbob:{bcrypt}:a comment\n");
        assert_eq!(
            Users::parse(&good).map(|users| users.names.len()).ok(),
            Some(2)
        );
        for (text, line, message) in [
            ("ann".to_owned(), 1, "is not NAME:HASH"),
            (
                format!("ann:{bcrypt}\nbob:$apr1$x$y"),
                2,
                "the hash of bob is apr1",
            ),
            (format!("ann:{bcrypt}\nann:{bcrypt}"), 2, "is there twice"),
        ] {
            let error = Users::parse(&text).err().unwrap();
            assert_eq!(error.0, line, "{error:?}");
            assert!(error.1.contains(message), "{error:?}");
        }
    }

    #[test]
    fn changed_file_is_taken_at_the_second_look_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let file = UsersFile::new(&path);
        assert!(file.users().is_none() && file.problem().is_some());
        let count = || file.users().map(|users| users.names.len());
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            file.look();
            file.look();
        };
        write("ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n");
        assert_eq!((count(), file.problem()), (Some(1), None));
        write("ann:plain\nbob:plain\n");
        assert_eq!(count(), Some(1));
        assert!(file.problem().unwrap().contains("the hash of ann"));
        std::fs::remove_file(&path).unwrap();
        file.look();
        file.look();
        assert_eq!(count(), Some(1));
    }
}
