//! The state directory. It holds the changes made at run time, the secret, and the lock that admits
//! one agent.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::overlay::{Overlay, VERSION};
use lb_net::handover::FdStore;

/// The reasons why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation.
    #[error("{what} {}", path.display())]
    Io {
        /// The operation that failed, such as "open".
        what: &'static str,
        /// The file or directory of the operation.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file of run-time changes is damaged. It is left as it is.
    #[error(
        "read the run-time changes in {}: {reason} (the kernel goes on with what it has; mend the \
         file, or move it away to start from the configuration alone)",
        path.display()
    )]
    Damaged {
        /// The damaged file of run-time changes.
        path: PathBuf,
        /// The defect that was found.
        reason: String,
    },
    /// The secret is damaged. It is left as it is.
    #[error(
        "read the secret in {}: it is not 32 hexadecimal digits (restore the file, or remove it for \
         a new secret: clients that are not remembered may then change their backend)",
        path.display()
    )]
    Secret {
        /// The damaged file of the secret.
        path: PathBuf,
    },
    /// Another user could write files that the agent trusts.
    #[error("use {}: {problem} ({remedy})", path.display())]
    Exposed {
        /// The directory or file that is exposed.
        path: PathBuf,
        /// The exposure, such as a foreign owner or a writable mode.
        problem: String,
        /// The step that removes the problem, most often a command.
        remedy: String,
    },
    /// Another agent uses the directory.
    #[error(
        "another lb-agent uses {} (stop it first, or give this one a state_dir, control and \
         pin_dir of its own)",
        path.display()
    )]
    Locked {
        /// The directory that is locked.
        path: PathBuf,
    },
}

/// The version of a file of run-time changes, whatever else is in it.
#[derive(serde::Deserialize)]
struct Version {
    version: u32,
}

/// The names of the files that the agent reads and writes in the directory.
const FILES: [&str; 4] = ["lock", "secret", "state.json", "state.new"];

/// Refuses a directory or a file that another user may write.
fn check(path: &Path) -> Result<(), StoreError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", path)(error)),
    };
    // The directory itself may be a symbolic link, as root or the agent has put it there.
    let link = found.is_symlink();
    let target = if link { fs::metadata(path) } else { Ok(found) };
    let target = target.map_err(io_error("look at", path))?;
    let own = rustix::process::geteuid().as_raw();
    let trusted = [Some(own), Some(0), service_user().filter(|_| own == 0)];
    let shown = path.display();
    let exposed = |problem: String, remedy: String| {
        Err(StoreError::Exposed {
            path: path.to_owned(),
            problem,
            remedy,
        })
    };
    if !trusted.contains(&Some(target.uid())) {
        let problem = format!(
            "it belongs to user {}, and lb-agent is user {own}",
            target.uid()
        );
        return exposed(
            problem,
            format!("chown {own} {shown}, if its content is to be trusted"),
        );
    }
    if target.mode() & 0o022 != 0 {
        let mode = target.mode() & 0o7777;
        let problem = format!("others than its owner may write it (mode {mode:04o})");
        return exposed(
            problem,
            format!("chmod go-w {shown}, if its content is to be trusted"),
        );
    }
    if link && target.is_file() {
        let problem = "it is a symbolic link".to_owned();
        return exposed(
            problem,
            format!("put the file itself there, or remove {shown}"),
        );
    }
    Ok(())
}

/// The user id of the agent under systemd. Root trusts this user with the agent's own files.
fn service_user() -> Option<u32> {
    let user = nix::unistd::User::from_name("lb-agent").ok().flatten()?;
    Some(user.uid.as_raw())
}

/// The state directory of this agent. The lock lasts as long as this value.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Locks the directory, and makes it with mode 0700 if it is missing. A directory that others
    /// may write, or with files of others, is refused. Its writers would decide the backends of
    /// clients. The lock may come from `kept`.
    pub fn open(dir: &Path, kept: &FdStore) -> Result<Self, StoreError> {
        let mut make = DirBuilder::new();
        make.recursive(true).mode(0o700);
        make.create(dir).map_err(io_error("make directory", dir))?;
        check(dir)?;
        for name in FILES {
            check(&dir.join(name))?;
        }
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match kept.lock("lock", lock) {
            Ok(lock) => Ok(Self {
                dir: dir.to_owned(),
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked {
                path: dir.to_owned(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
        }
    }

    /// The changes made at run time; none if there is no file yet.
    pub fn overlay(&self) -> Result<Overlay, StoreError> {
        let path = self.overlay_path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Overlay::default()),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let damaged = |reason: String| StoreError::Damaged {
            path: path.clone(),
            reason,
        };
        // The version comes first: a later one has other fields.
        let Version { version } =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version != VERSION {
            return Err(damaged(format!(
                "it is of version {version}, this agent knows {VERSION}"
            )));
        }
        serde_json::from_slice(&text).map_err(|error| {
            let reason = error.to_string();
            damaged(match reason.starts_with("unknown field") {
                true => format!("{reason}: perhaps a later lb-agent has written it"),
                false => reason,
            })
        })
    }

    /// Stores the changes made at run time atomically. After a failure the old ones remain.
    pub fn keep(&self, overlay: &Overlay) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(overlay).unwrap_or_default();
        self.replace(&self.overlay_path(), &text)
    }

    /// The secret of the client hash. The first call makes it.
    pub fn secret(&self) -> Result<[u8; 16], StoreError> {
        let path = self.dir.join("secret");
        match fs::read_to_string(&path) {
            Ok(text) => parse_secret(text.trim()).ok_or(StoreError::Secret { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; 16];
                getrandom::fill(&mut secret)
                    .map_err(|error| io_error("make", &path)(io::Error::other(error)))?;
                let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
                self.replace(&path, format!("{text}\n").as_bytes())?;
                Ok(secret)
            }
            // A file that is not UTF-8 is not a valid secret either.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(StoreError::Secret { path })
            }
            Err(error) => Err(io_error("read", &path)(error)),
        }
    }

    fn overlay_path(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// Replaces a file by a temporary file, fsync, rename, and fsync of the directory. After a
    /// power cut the file has its old content or its new one.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io_error("open", &temporary))?;
        file.write_all(content)
            .map_err(io_error("write", &temporary))?;
        file.sync_all().map_err(io_error("sync", &temporary))?;
        fs::rename(&temporary, path).map_err(io_error("rename to", path))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io_error("sync directory", &self.dir))
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

fn parse_secret(text: &str) -> Option<[u8; 16]> {
    let valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid
        .then(|| u128::from_str_radix(text, 16).ok())?
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::overlay::Target;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &FdStore::default()).unwrap();
        (dir, store)
    }

    fn some_changes() -> Overlay {
        let target = Target {
            service: "web".to_owned(),
            address: "127.0.0.1:5001".parse().unwrap(),
        };
        let mut overlay = Overlay::default();
        overlay.add(target.clone(), 3);
        overlay.drain(target.clone(), 1_700_000_000_000);
        overlay.removed.push(target);
        overlay
    }

    #[test]
    fn changes_come_back_as_they_were_kept() {
        let (_dir, store) = store();
        assert_eq!(store.overlay().unwrap(), Overlay::default());
        store.keep(&some_changes()).unwrap();
        assert_eq!(store.overlay().unwrap(), some_changes());
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_and_left_alone() {
        let (dir, store) = store();
        store.keep(&some_changes()).unwrap();
        let path = dir.path().join("state.json");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = store.overlay().unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{length} bytes: {error}"
            );
            assert_eq!(fs::read(&path).unwrap(), &whole[..length]);
        }
    }

    #[test]
    fn file_of_a_later_agent_is_refused_by_its_version_or_its_fields() {
        let (dir, store) = store();
        let refusal = |text: &str| {
            fs::write(dir.path().join("state.json"), text).unwrap();
            store.overlay().unwrap_err().to_string()
        };
        let later = refusal("{\"version\": 2, \"news\": []}");
        assert!(
            later.contains("it is of version 2, this agent knows 1"),
            "{later}"
        );
        let fields = "\"added\": [], \"removed\": [], \"drained\": [], \"news\": []";
        let unknown = refusal(&format!("{{\"version\": 1, {fields}}}"));
        assert!(unknown.contains("unknown field `news`"), "{unknown}");
        assert!(
            unknown.contains("perhaps a later lb-agent has written it (the kernel goes on"),
            "{unknown}"
        );
    }

    #[test]
    fn a_half_written_temporary_file_does_no_harm() {
        let (dir, store) = store();
        store.keep(&some_changes()).unwrap();
        fs::write(dir.path().join("state.new"), "{\"version\"").unwrap();
        assert_eq!(store.overlay().unwrap(), some_changes());
        store.keep(&Overlay::default()).unwrap();
        assert_eq!(store.overlay().unwrap(), Overlay::default());
    }

    #[test]
    fn the_secret_is_made_once_and_a_cut_one_is_refused() {
        let (dir, store) = store();
        let secret = store.secret().unwrap();
        assert_ne!(secret, [0; 16]);
        assert_eq!(store.secret().unwrap(), secret);
        let path = dir.path().join("secret");
        let text = fs::read_to_string(&path).unwrap();
        for length in 0..32 {
            fs::write(&path, &text[..length]).unwrap();
            assert!(
                matches!(store.secret(), Err(StoreError::Secret { .. })),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn what_others_may_write_is_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/state");
        drop(Store::open(&dir, &FdStore::default()).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&parent.path().join("a"))), (0o700, 0o700));
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let refused = |remedy: &str| {
            let error = Store::open(&dir, &FdStore::default()).unwrap_err();
            assert!(matches!(error, StoreError::Exposed { .. }), "{error}");
            assert!(error.to_string().contains(remedy), "{error}");
        };
        for mode in [0o777, 0o720, 0o1702] {
            set(&dir, mode);
            refused("chmod go-w");
        }
        set(&dir, 0o755);
        let file = dir.join("state.json");
        fs::write(&file, "{}").unwrap();
        set(&file, 0o666);
        refused("chmod go-w");
        set(&file, 0o644);
        drop(Store::open(&dir, &FdStore::default()).unwrap());
        fs::rename(&file, parent.path().join("other")).unwrap();
        std::os::unix::fs::symlink(parent.path().join("other"), &file).unwrap();
        refused("put the file itself there");
    }

    #[test]
    fn files_of_somebody_else_are_refused() {
        let (dir, store) = store();
        drop(store);
        let secret = dir.path().join("secret");
        fs::write(&secret, "").unwrap();
        for path in [secret.as_path(), dir.path()] {
            let before = fs::metadata(path).unwrap().uid();
            // Only root can change the owner of a file.
            if std::os::unix::fs::chown(path, Some(54_321), None).is_err() {
                return;
            }
            let error = Store::open(dir.path(), &FdStore::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains("belongs to user 54321"), "{error}");
            std::os::unix::fs::chown(path, Some(before), None).unwrap();
        }
        assert!(Store::open(dir.path(), &FdStore::default()).is_ok());
    }

    #[test]
    fn a_second_agent_is_refused() {
        let (dir, _store) = store();
        assert!(matches!(
            Store::open(dir.path(), &FdStore::default()),
            Err(StoreError::Locked { .. })
        ));
    }
}
