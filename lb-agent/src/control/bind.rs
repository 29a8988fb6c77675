//! Making the control socket, and telling a dead agent's from a living one's.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixSocket};

use super::peer;

/// The owner and the group may use the socket, unless the configuration lets others read.
const MODE: u32 = 0o660;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long another agent may take for its own start in the same directory.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent answers on the socket.
    #[error(
        "another lb-agent is running and answers at {} (stop it with \"lb-agent stop\", or give \
         this one a control socket, state_dir and pin_dir of its own)",
        path.display()
    )]
    Taken {
        /// Path of the socket.
        path: PathBuf,
    },
    /// Something else is there, and is left alone.
    #[error(
        "make the control socket {}: there is a file that is not a socket (move it away, or name \
         another socket with --control)",
        path.display()
    )]
    NotASocket {
        /// Path of the file.
        path: PathBuf,
    },
    /// The operating system refused an operation.
    #[error("{what} {}", path.display())]
    Io {
        /// The attempted operation.
        what: &'static str,
        /// File of the operation.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// Listens at `path`, which then belongs to the group `lb-agent`, if there is one, and has `mode`,
/// 0660 if not given. The directory is made if need be; the socket of an
/// agent that has died is replaced.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn bind(path: &Path, mode: Option<u32>) -> Result<UnixListener, BindError> {
    let failed = |what| {
        move |source| BindError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    make_directory(directory)?;
    // Two agents that start together must not both take the place of a third that has died.
    let _lock = lock(directory);
    match occupant(path).map_err(failed("look for an agent at"))? {
        Occupant::Nobody => {}
        Occupant::Dead => fs::remove_file(path).map_err(failed("remove the old socket"))?,
        Occupant::Alive => {
            return Err(BindError::Taken {
                path: path.to_owned(),
            });
        }
        Occupant::NotASocket => {
            return Err(BindError::NotASocket {
                path: path.to_owned(),
            });
        }
    }
    listen(path, mode.unwrap_or(MODE)).map_err(failed("make the control socket"))
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // The file takes its mode from the socket, less the umask, so no other user can connect in between.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode & MODE))?;
    socket.bind(path)?;
    if let Some(group) = peer::group()
        && let Err(error) = std::os::unix::fs::chown(path, None, Some(group))
    {
        let group = peer::GROUP;
        tracing::warn!(%error, "the control socket cannot be given to the group {group}");
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)
}

/// Makes this process the one that clients see behind a socket that another has opened: SO_PEERCRED (unix(7)) names the
/// process that called listen(2) last.
///
/// # Errors
/// The socket is not one that listens.
pub fn appear_behind(listener: &UnixListener) -> io::Result<()> {
    Ok(rustix::net::listen(listener, BACKLOG as i32)?)
}

fn make_directory(directory: &Path) -> Result<(), BindError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|source| BindError::Io {
            what: "make the directory",
            path: directory.to_owned(),
            source,
        })
}

/// Locks `directory` for as long as the result lives. If the lock fails, the agent continues without it:
/// that is better than no agent.
fn lock(directory: &Path) -> Option<File> {
    const STEP: Duration = Duration::from_millis(10);
    let file = File::open(directory).ok()?;
    let mut waited = Duration::ZERO;
    while file.try_lock().is_err() && waited < PATIENCE {
        thread::sleep(STEP);
        waited += STEP;
    }
    Some(file)
}

enum Occupant {
    Nobody,
    Dead,
    Alive,
    NotASocket,
}

/// Finds the occupant of `path` by connecting to it.
fn occupant(path: &Path) -> io::Result<Occupant> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nobody),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Ok(Occupant::NotASocket),
        Ok(_) => {}
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        // A full backlog belongs to a living process.
        Ok(()) | Err(Errno::AGAIN) => Ok(Occupant::Alive),
        Err(Errno::CONNREFUSED) => Ok(Occupant::Dead),
        Err(Errno::NOENT) => Ok(Occupant::Nobody),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_owner_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/for/it/control.sock");
        let _listener = bind(&path, None).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[tokio::test]
    async fn a_living_agents_socket_is_left_alone_and_a_dead_ones_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let first = bind(&path, None).unwrap();
        let error = bind(&path, None).unwrap_err();
        assert!(matches!(error, BindError::Taken { .. }), "{error}");
        assert!(error.to_string().starts_with("another lb-agent is running"));
        drop(first);
        let _second = bind(&path, None).unwrap();
        assert!(matches!(occupant(&path), Ok(Occupant::Alive)));
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            bind(&path, None),
            Err(BindError::NotASocket { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn of_agents_that_start_together_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(bind(&path, None).unwrap());
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                tokio::task::spawn_blocking(move || bind(&path, None))
            })
            .collect();
        let mut listeners = Vec::new();
        for start in starts {
            listeners.extend(start.await.unwrap().ok());
        }
        assert_eq!(listeners.len(), 1);
    }
}
