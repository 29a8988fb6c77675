//! The running agent's side.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use lb_net::handover::{FdStore, pass};
use tokio::net::UnixListener;

use super::{MESSAGE_TIME, OUTPUTS, Ready, START_TIME, Said, VERSION, socket_in, supervisor};

/// The socket at which the next agent asks.
pub struct Successors(Option<UnixListener>);

impl Successors {
    /// Listens in `state_dir`, whose lock this agent has. Without the socket no other agent can take over.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn listen(state_dir: &Path) -> Self {
        let path = socket_in(state_dir);
        // Whoever listened there has no lock any more.
        let removed = match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let listener = removed.and_then(|()| UnixListener::bind(&path));
        Self(
            listener
                .inspect_err(|error| {
                    let path = path.display();
                    tracing::warn!(%error, %path, "no other agent can take over from this one");
                })
                .ok(),
        )
    }

    /// The next agent that asks, if it is of root or of this agent's own user.
    pub async fn next(&self) -> UnixStream {
        let Some(listener) = &self.0 else {
            return std::future::pending().await;
        };
        loop {
            let accepted = match listener.accept().await {
                Ok((stream, _)) => permitted(stream),
                Err(error) => Err(error),
            };
            match accepted {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "another agent cannot take over");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn permitted(stream: tokio::net::UnixStream) -> io::Result<UnixStream> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        let problem = format!("uid {uid} is neither root nor the agent's user");
        return Err(io::Error::new(ErrorKind::PermissionDenied, problem));
    }
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(START_TIME))?;
    stream.set_write_timeout(Some(MESSAGE_TIME))?;
    Ok(stream)
}

/// Hands copies of all descriptors in `kept` to the agent at the other end, and waits until it is ready. It blocks for
/// the time of a start.
///
/// # Errors
/// The other agent has not come so far. This one has to go on.
pub fn hand_over(stream: &UnixStream, kept: &FdStore) -> io::Result<()> {
    if let Some(reason) = supervisor::obstacle() {
        say(
            stream,
            &Said::Refused {
                reason: reason.clone(),
            },
            &[],
        )?;
        return Err(io::Error::other(reason));
    }
    let outputs = [
        io::stdout().as_fd().try_clone_to_owned()?,
        io::stderr().as_fd().try_clone_to_owned()?,
    ];
    let outputs = OUTPUTS.map(str::to_owned).into_iter().zip(outputs);
    let (names, descriptors): (Vec<String>, Vec<OwnedFd>) =
        kept.held()?.into_iter().chain(outputs).unzip();
    let offer = Said::Offered {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        names,
    };
    say(stream, &offer, &descriptors)?;
    let Ready { version: _ } = serde_json::from_slice(&pass::receive(stream)?)?;
    say(stream, &Said::Yours, &[])
}

fn say(stream: &UnixStream, said: &Said, descriptors: &[OwnedFd]) -> io::Result<()> {
    pass::send(stream, &serde_json::to_vec(said)?, descriptors)
}
