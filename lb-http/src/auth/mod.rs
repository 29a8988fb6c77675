//! Authentication: basic (RFC 7617) against files of users, and forward, by another server.
//!
//! | file | owns |
//! | --- | --- |
//! | `hash` | the hash of one password |
//! | `answers` | answers to credentials that have come before |
//! | `users` | a users file, kept fresh |
//! | `files` | the users files of all services |
//! | `hasher` | the threads that compute hashes |
//! | `forward` | forward authentication of a request |
//! | `question` | a GET to its server, and the answer |
//! | `connections` | idle connections to its servers |

mod answers;
mod connections;
mod files;
mod forward;
mod hash;
mod hasher;
mod question;
mod users;

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lb_config::Config;
use lb_config::http::{self as config, Auth};

use answers::Known;
pub(crate) use connections::Connections;
pub(crate) use files::UsersFiles;
pub(crate) use forward::{AuthOutcome, Denial, ForwardAuth};
use hasher::Hasher;
pub(crate) use question::{Fault, Incoming, Servers};
use users::{Users, UsersFile};

use crate::forwarded::Via;

/// The authentication of one route.
pub(crate) enum RouteAuth {
    Basic(BasicAuth),
    Forward(ForwardAuth),
}

/// Basic authentication.
pub(crate) struct BasicAuth {
    file: Arc<UsersFile>,
    hasher: Option<Arc<Hasher>>,
    /// The value of `WWW-Authenticate`.
    challenge: String,
}

/// The verdict on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Granted,
    /// There are no credentials, or wrong ones.
    Denied,
    /// There are no users, or too many passwords wait.
    Unknown,
}

impl RouteAuth {
    /// That of `auth`, with the `users` of all services. `via` marks GETs to servers.
    pub(crate) fn new(auth: &Auth, users: &mut UsersFiles, via: impl FnOnce() -> Via) -> Self {
        match auth {
            Auth::Basic(basic) => Self::Basic(users.auth(basic)),
            Auth::Forward(forward) => Self::Forward(ForwardAuth::new(forward, via())),
        }
    }
}

impl BasicAuth {
    /// That of `auth`; without a hasher nobody is let in.
    fn new(auth: &config::BasicAuth, file: Arc<UsersFile>, hasher: Option<Arc<Hasher>>) -> Self {
        Self {
            file,
            hasher,
            challenge: format!("Basic realm=\"{}\", charset=\"UTF-8\"", auth.realm),
        }
    }

    /// The value of `WWW-Authenticate` for a client without access.
    pub(crate) fn challenge(&self) -> &str {
        &self.challenge
    }

    /// Whether a request with this value of `Authorization` has access.
    pub(crate) async fn access(&self, authorization: Option<&[u8]>) -> Access {
        let Some(users) = self.file.users() else {
            return Access::Unknown;
        };
        let Some(credentials) = authorization.and_then(credentials) else {
            return Access::Denied;
        };
        let digest = users.answers.digest(&credentials);
        let answer = match users.answers.of(&digest) {
            Known::Answer(answer) => Ok(answer),
            Known::Awaited(answer, is_first) => {
                if is_first && !self.compute(&users, digest, credentials) {
                    users.answers.give_up(&digest);
                }
                answer.await
            }
        };
        match answer {
            Ok(true) => Access::Granted,
            Ok(false) => Access::Denied,
            Err(_) => Access::Unknown,
        }
    }

    /// Has the hash computed; `false` if it is not.
    fn compute(&self, users: &Arc<Users>, digest: [u8; 32], credentials: Vec<u8>) -> bool {
        let users = Arc::clone(users);
        let job = Box::new(move || {
            let is_good = split(&credentials)
                .is_some_and(|(name, password)| users.verify(&digest, name, password));
            users.answers.tell(&digest, is_good);
        });
        self.hasher
            .as_ref()
            .is_some_and(|hasher| hasher.submit(job))
    }
}

/// The name and the password in a value of `Authorization`.
fn credentials(authorization: &[u8]) -> Option<Vec<u8>> {
    let (scheme, coded) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = STANDARD.decode(coded.trim()).ok()?;
    split(&credentials)?;
    Some(credentials)
}

fn split(credentials: &[u8]) -> Option<(&str, &[u8])> {
    let colon = credentials.iter().position(|byte| *byte == b':')?;
    let (name, password) = credentials.split_at(colon);
    Some((std::str::from_utf8(name).ok()?, password.get(1..)?))
}

/// Reads all users files of a configuration, and tells those that cannot be used, a line each.
pub fn check_config(config: &Config) -> Vec<String> {
    let source = config.source.as_deref().unwrap_or(Path::new(""));
    let written = config.services.iter().filter(|it| !it.is_inside());
    let mut problems = Vec::new();
    for (index, service) in written.enumerate() {
        for auth in service.http.iter().flat_map(|http| http.users()) {
            if let Err(problem) = Users::load(&auth.users) {
                problems.push(format!(
                    "{}:{}: service[{index}]: auth: {problem}",
                    source.display(),
                    auth.line
                ));
            }
        }
    }
    problems
}
