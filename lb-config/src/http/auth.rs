//! `auth` of a service or a route: who may ask.

use std::path::PathBuf;

use super::sections::file_path;
use crate::error::{Line, Problems};
use crate::reader::Value;
use crate::schema::fields::{Found, Required};
use crate::schema::kinds::{Sound, Sub, Text, path, sub, text};
use crate::schema::{Kind, Shape, Show, section};
use crate::value::quoted;

const EXAMPLE: &str = "{ users = \"/etc/lb-agent/users\" }";
const USERS: Text<PathBuf, String> = path("path of a file", "\"/etc/lb-agent/users\"", file_path);
const REALM: Text<String, String> = text("text", "\"Staff\"", realm);
const TABLE: Sound<Sub<Auth>> = Sound(sub(EXAMPLE));

section! {
    Reload, "0.1";
    /// Basic authentication (RFC 7617).
    #[derive(Eq)]
    pub struct Auth {
        /// File of users with the hashes of their passwords, as `htpasswd -B` writes it: bcrypt, or argon2id. It is read
        /// again when it changes.
        pub users: PathBuf = PathBuf::new(), Required("\"/etc/lb-agent/users\"", USERS);
        /// Name that browsers show when they ask for the password.
        pub realm: String = "Restricted".to_owned(), REALM;
        /// The line of the configuration that names the file, for messages.
        pub line: Line = Line(0), Found(|table, problems| {
            Line(table.place.offset.map_or(0, |offset| problems.line(offset)))
        });
    }
}

/// The authentication of a service.
pub(super) fn auth() -> impl Kind<Value = Auth> {
    TABLE
}

/// The authentication of a route, or `false` for none.
pub(super) struct AuthOrNone;

impl Kind for AuthOrNone {
    type Value = Option<Auth>;

    fn read(&self, value: &Value<'_, '_>, problems: &mut Problems) -> Option<Option<Auth>> {
        if value.is_table() {
            return TABLE.read(value, problems).map(Some);
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
            Some(auth) => TABLE.write(auth, show),
            None => Some(false.into()),
        }
    }

    fn shape(&self) -> Shape {
        Shape::Either(vec![TABLE.shape(), Shape::Flag])
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
