//! The users files of all services: each is read once, and again when it changes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use lb_config::http;

use super::BasicAuth;
use super::hasher::Hasher;
use super::users::UsersFile;
use crate::tables::Confine;
use crate::watch::{Watched, Watcher};

/// The files in use, with the threads that belong to them.
pub(crate) struct UsersFiles {
    confine: Confine,
    files: HashMap<PathBuf, Arc<UsersFile>>,
    /// Made with the first file.
    hasher: Option<Arc<Hasher>>,
    watcher: Option<Watcher>,
}

impl UsersFiles {
    /// Without any; threads are confined by `confine`.
    pub(crate) fn new(confine: Confine) -> Self {
        Self {
            confine,
            files: HashMap::new(),
            hasher: None,
            watcher: None,
        }
    }

    /// The authentication of a route.
    pub(crate) fn auth(&mut self, auth: &http::BasicAuth) -> BasicAuth {
        if self.hasher.is_none() {
            self.hasher = Hasher::start(self.confine)
                .inspect_err(|error| tracing::error!(%error, "no thread for hashes of passwords"))
                .ok();
        }
        let file = self.file(&auth.users);
        BasicAuth::new(auth, file, self.hasher.clone())
    }

    fn file(&mut self, path: &Path) -> Arc<UsersFile> {
        if let Some(known) = self.files.get(path) {
            return Arc::clone(known);
        }
        let file = UsersFile::new(path);
        if self.watcher.is_none() {
            self.watcher = Watcher::start(self.confine, "users")
                .inspect_err(|error| tracing::error!(%error, "files of users are not watched"))
                .ok();
        }
        if let Some(watcher) = &self.watcher {
            let files: Weak<dyn Watched> = Arc::<UsersFile>::downgrade(&file);
            watcher.watch(files);
        }
        self.files.insert(path.to_owned(), Arc::clone(&file));
        file
    }

    /// Forgets all files but these.
    pub(crate) fn keep_only(&mut self, paths: &HashSet<&Path>) {
        self.files.retain(|path, _| paths.contains(path.as_path()));
    }

    /// Files that are not in force.
    pub(crate) fn problems(&self) -> impl Iterator<Item = String> {
        self.files.values().filter_map(|file| file.problem())
    }
}
