//! `auth` of a service or a route: who may ask.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ::http::HeaderName;

use super::sections::file_path;
use super::value::{self, bad};
use crate::BackendAddress;
use crate::error::{Line, Problems};
use crate::reader::Value;
use crate::schema::fields::{Found, OnlyIf};
use crate::schema::kinds::{Given, List, Made, Sound, Text, path, sub, text, time};
use crate::schema::{Kind, Shape, Show, section};
use crate::value::{BadValue, quoted};

const EXAMPLE: &str = "{ users = \"/etc/lb-agent/users\" }";
const USERS: Text<PathBuf, String> = path("path of a file", "\"/etc/lb-agent/users\"", file_path);
const REALM: Text<String, String> = text("text", "\"Staff\"", realm);
const URL: Text<AuthUrl, BadValue> = text(
    "URL of `http://`",
    "\"http://127.0.0.1:4180/auth\"",
    auth_url,
);
const SET: Text<HeaderName, BadValue> = text("name of a header", "\"X-Auth-User\"", told);
const TIMEOUT: Text<Duration, BadValue> = time("\"5s\"", value::some_time);
const USUAL_REALM: &str = "Restricted";
const USUAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The authentication of a service.
pub(super) fn auth() -> impl Kind<Value = Auth> {
    Sound(Made {
        of: sub(EXAMPLE),
        make: made,
        back: Written::of,
    })
}

/// Who decides about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// A file of users.
    Basic(BasicAuth),
    /// Another server.
    Forward(ForwardAuth),
}

/// Basic authentication (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// File of users with the hashes of their passwords.
    pub users: PathBuf,
    /// Name that browsers show when they ask for the password.
    pub realm: String,
    /// The line of the configuration that names the file, for messages.
    pub line: Line,
}

/// Forward authentication: a server is asked about each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuth {
    /// The server, and the path of its answer.
    pub url: AuthUrl,
    /// Headers of its answer that the request gets. No two of them are alike for an application.
    pub set: Vec<HeaderName>,
    /// Time until the end of its answer.
    pub timeout: Duration,
}

/// `http://`, an address and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthUrl {
    /// The address of the server.
    pub address: BackendAddress,
    /// Path and query.
    pub target: String,
}

section! {
    Reload, "0.1";
    /// Who may ask: the users of a file (basic authentication, RFC 7617), or those that another server lets in (forward
    /// authentication). One of `users` and `url` is given.
    struct Written {
        /// File of users with the hashes of their passwords, as `htpasswd -B` writes it: bcrypt, or argon2id. It is read
        /// again when it changes.
        users: Option<Option<PathBuf>> = None, Given(USERS);
        /// Name that browsers show when they ask for the password.
        realm: String = USUAL_REALM.to_owned(), OnlyIf {
            key: REALM,
            why_not: |table| table.has("url").then_some("only users have a realm (leave it out)"),
            written: |table| table.contains_key("users"),
        };
        /// Server that is asked about each request by a GET: `http://`, an address or `unix:/path/of.sock:`, and a path. A
        /// status of 2xx lets the request in. Every other answer goes to the client.
        url: Option<Option<AuthUrl>> = None, Given(URL);
        /// Headers of the server's answer that the request gets. Those of the client are dropped.
        set: Vec<HeaderName> = Vec::new(), of_url(List("[\"X-Auth-User\"]", SET));
        /// Time that the server has for its answer. After it the request gets 504.
        timeout: Duration = USUAL_TIMEOUT, of_url(TIMEOUT);
        /// The line in the file.
        line: Line = Line(0), Found(|table, problems| {
            Line(table.place.offset.map_or(0, |offset| problems.line(offset)))
        });
    }
}

/// A key that is allowed beside `url` only.
const fn of_url<K>(key: K) -> OnlyIf<K> {
    OnlyIf {
        key,
        why_not: |table| (!table.has("url")).then_some("only a url has this (leave it out)"),
        written: |table| table.contains_key("url"),
    }
}

fn made(written: Written, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Auth> {
    let Written {
        users,
        realm,
        url,
        set,
        timeout,
        line,
    } = written;
    match (users, url) {
        (Some(users), None) => Some(Auth::Basic(BasicAuth {
            users: users?,
            realm,
            line,
        })),
        (None, Some(url)) => {
            for (place, name) in set.iter().enumerate() {
                let is_alike = |other: &&HeaderName| {
                    value::is_alike(other.as_str().as_bytes(), name.as_str().as_bytes())
                };
                if let Some(other) = set[..place].iter().find(is_alike) {
                    let message =
                        format!("{other} and {name} are the same to applications (leave one out)");
                    problems.add(&value.place, message);
                }
            }
            Some(Auth::Forward(ForwardAuth {
                url: url?,
                set,
                timeout,
            }))
        }
        _ => {
            let message = format!(
                "not one of users and url (write {EXAMPLE}, or {{ url = \"http://127.0.0.1:4180/auth\" }})"
            );
            problems.add(&value.place, message);
            None
        }
    }
}

impl Written {
    fn of(auth: &Auth) -> Self {
        match auth.clone() {
            Auth::Basic(BasicAuth { users, realm, line }) => Self {
                users: Some(Some(users)),
                realm,
                line,
                ..Self::default()
            },
            Auth::Forward(ForwardAuth { url, set, timeout }) => Self {
                url: Some(Some(url)),
                set,
                timeout,
                ..Self::default()
            },
        }
    }
}

/// The authentication of a route, or `false` for none.
pub(super) struct AuthOrNone;

impl Kind for AuthOrNone {
    type Value = Option<Auth>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Option<Auth>> {
        if value.is_table() {
            return auth().read(value, problems).map(Some);
        }
        if value.is_string() {
            let message = format!("expected a table or false (write auth = {EXAMPLE})");
            problems.add(&value.place, message);
            return None;
        }
        if value.boolean(problems)? {
            let message = format!("true names no users (write auth = {EXAMPLE})");
            problems.add(&value.place, message);
            return None;
        }
        Some(None)
    }

    fn write(&self, value: &Option<Auth>, show: Show) -> Option<toml::Value> {
        match value {
            Some(written) => auth().write(written, show),
            None => Some(false.into()),
        }
    }

    fn shape(&self) -> Shape {
        Shape::Either(vec![auth().shape(), Shape::Flag])
    }
}

impl fmt::Display for AuthUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.address.unix().is_some() {
            ":"
        } else {
            ""
        };
        write!(f, "http://{}{colon}{}", self.address, self.target)
    }
}

/// A text that a header can have in quotes (RFC 9110, section 5.6.4).
fn realm(text: &str) -> Result<String, String> {
    let plain = |c: char| (' '..='~').contains(&c) && !matches!(c, '"' | '\\');
    if text.is_empty() || !text.chars().all(plain) {
        return Err(format!(
            "{} is not the name of a realm (use visible ASCII without quotes)",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

fn auth_url(text: &str) -> Result<AuthUrl, BadValue> {
    http_url(text, "\"http://127.0.0.1:4180/auth\"")
}

/// The URL of a server without TLS; `example` is one, in quotes.
pub(crate) fn http_url(text: &str, example: &str) -> Result<AuthUrl, BadValue> {
    let remedy = || format!("write it like {example}");
    if text.starts_with("https://") {
        return bad(
            format!(
                "{} needs TLS, which is not used towards servers",
                quoted(text)
            ),
            "run the server on this host or in a trusted network, and write \"http://\"",
        );
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return bad(format!("{} is not a URL", quoted(text)), remedy());
    };
    let (authority, target) = match rest.strip_prefix("unix:") {
        Some(of_socket) => {
            let end = of_socket
                .find(':')
                .map_or(rest.len(), |at| at + "unix:".len());
            (&rest[..end], rest.get(end + 1..).unwrap_or_default())
        }
        None => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
    };
    let target = if target.is_empty() { "/" } else { target };
    let is_plain = target
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !target.starts_with('/') || !is_plain {
        return bad(
            format!("{} is not a path", quoted(target)),
            "begin it with \"/\", and write visible ASCII without \"#\"",
        );
    }
    Ok(AuthUrl {
        address: authority_address(authority)?,
        target: target.to_owned(),
    })
}

/// The address of a server; port 80 if it names none.
fn authority_address(authority: &str) -> Result<BackendAddress, BadValue> {
    let is_bare = !authority.starts_with("unix:")
        && match authority.strip_prefix('[') {
            Some(_) => authority.ends_with(']'),
            None => !authority.contains(':'),
        };
    if is_bare {
        return format!("{authority}:80").parse();
    }
    authority.parse()
}

/// A header that a request can get from the server's answer.
fn told(text: &str) -> Result<HeaderName, BadValue> {
    use ::http::header;
    let name = value::header_name(text)?;
    let fixed = [
        header::HOST,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::SET_COOKIE,
        header::DATE,
        header::VIA,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    if fixed.contains(&name) {
        return bad(
            format!("{name} of an answer is not for the request"),
            "name a header like \"X-Auth-User\"",
        );
    }
    Ok(name)
}
