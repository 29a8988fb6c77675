//! The next agent's side.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use lb_net::handover::{FdStore, pass};

use super::{MESSAGE_TIME, OUTPUTS, Ready, Said, VERSION, socket_in};

/// Why this agent cannot take the place of the running one, which goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The running agent refuses.
    #[error("the running agent goes on: {0}")]
    Refused(String),
    /// The running agent is of a version with other messages.
    #[error("the running agent, {0}, hands over in another way (restart it)")]
    Version(String),
    /// The messages broke off.
    #[error("the running agent at {path} goes on: {source}")]
    Io {
        /// Path of the socket.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The running agent, whose descriptors this one has got.
pub struct Predecessor {
    stream: UnixStream,
    path: String,
    outputs: [Option<OwnedFd>; 2],
    /// Process ID of the running agent.
    pub pid: u32,
    /// Version of the running agent.
    pub version: String,
}

impl Predecessor {
    /// Asks the agent of `state_dir` for its descriptors. `None` if none is running there. It blocks.
    ///
    /// # Errors
    /// An agent is running, and goes on.
    pub fn ask(state_dir: &Path) -> Result<Option<(Self, FdStore)>, TakeOverError> {
        let path = socket_in(state_dir);
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(source) => {
                let path = path.display().to_string();
                return Err(TakeOverError::Io { path, source });
            }
        };
        Self::of(stream, path.display().to_string()).map(Some)
    }

    pub(super) fn of(stream: UnixStream, path: String) -> Result<(Self, FdStore), TakeOverError> {
        let failed = |source| TakeOverError::Io {
            path: path.clone(),
            source,
        };
        stream
            .set_read_timeout(Some(MESSAGE_TIME))
            .and_then(|()| stream.set_write_timeout(Some(MESSAGE_TIME)))
            .map_err(failed)?;
        let (agent, pid, names) = match said(&stream).map_err(failed)? {
            Said::Offered {
                version: VERSION,
                agent,
                pid,
                names,
            } => (agent, pid, names),
            Said::Offered { agent, .. } => return Err(TakeOverError::Version(agent)),
            Said::Refused { reason } => return Err(TakeOverError::Refused(reason)),
            Said::Yours => return Err(failed(ErrorKind::InvalidData.into())),
        };
        let descriptors = pass::receive_descriptors(&stream, names.len()).map_err(failed)?;
        let store = FdStore::of(names.into_iter().zip(descriptors));
        let predecessor = Self {
            outputs: OUTPUTS.map(|name| store.other(name)),
            stream,
            path,
            pid,
            version: agent,
        };
        Ok((predecessor, store))
    }

    /// Tells the running agent that this one serves: it ends. With `takes_output` this one logs from now on where that
    /// one did. It blocks.
    ///
    /// # Errors
    /// The running agent has given up waiting, or is gone. If it goes on, this one must not.
    pub fn replace(self, takes_output: bool) -> Result<(), TakeOverError> {
        let ready = Ready { version: VERSION };
        let replaced = serde_json::to_vec(&ready)
            .map_err(io::Error::from)
            .and_then(|ready| pass::send::<OwnedFd>(&self.stream, &ready, &[]))
            .and_then(|()| said(&self.stream));
        let source = match replaced {
            Ok(Said::Yours) => {
                if takes_output {
                    take_outputs(self.outputs);
                }
                return Ok(());
            }
            Ok(_) => ErrorKind::InvalidData.into(),
            Err(error) => error,
        };
        Err(TakeOverError::Io {
            path: self.path,
            source,
        })
    }
}

fn said(stream: &UnixStream) -> io::Result<Said> {
    Ok(serde_json::from_slice(&pass::receive(stream)?)?)
}

fn take_outputs(outputs: [Option<OwnedFd>; 2]) {
    let [stdout, stderr] = outputs;
    let taken = stdout
        .map_or(Ok(()), rustix::stdio::dup2_stdout)
        .and_then(|()| stderr.map_or(Ok(()), rustix::stdio::dup2_stderr));
    if let Err(error) = taken {
        tracing::warn!(%error, "the log does not go where that of the earlier agent went");
    }
}
