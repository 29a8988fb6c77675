//! `[service.tls]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::sections::file_path;
use crate::choice::choice;
use crate::error::{Line, Located, Place};
use crate::lists::{self, Texts};
use crate::schema::fields::{Found, PLACE, Required};
use crate::schema::kinds::{
    Flag, List, Made, Maybe, NonEmpty, Placed, Short, Sound, Text, one_of, path, sub, time,
};
use crate::schema::{Kind, section};
use crate::value;

const LISTEN: &str = "[\"0.0.0.0:443\", \"[::]:443\"]";
const CERTIFICATES: &str =
    "[{ certificate = \"/etc/lb-agent/fullchain.pem\", key = \"/etc/lb-agent/privkey.pem\" }]";
const CERTIFICATE: &str =
    "{ certificate = \"/etc/lb-agent/fullchain.pem\", key = \"/etc/lb-agent/privkey.pem\" }";
const CHAIN: Text<PathBuf, String> = path(
    "path of a file",
    "\"/etc/lb-agent/fullchain.pem\"",
    file_path,
);
const KEY: Text<PathBuf, String> =
    path("path of a file", "\"/etc/lb-agent/privkey.pem\"", file_path);
const MAX_AGE: Texts<Duration> = time("\"180d\"", value::duration);

/// The checked values of `[service.tls]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// Addresses that take HTTPS; at least one.
    pub listen: Vec<SocketAddr>,
    /// The certificates, at least one. The first is for clients that name no server, or an unknown
    /// one.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest accepted version of TLS.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is offered to clients.
    pub http2: bool,
    /// Whether plain requests are answered with 308 to https.
    pub redirect_http: bool,
    /// `Strict-Transport-Security`, if it is sent.
    pub hsts: Option<Hsts>,
}

section! {
    Reload, "0.1";
    /// HTTPS, for `mode = "http"`.
    pub(crate) struct RawTls {
        /// Where it is in the file.
        pub(super) place: Place = Place::FILE, PLACE;
        /// Addresses to listen on for HTTPS.
        pub(crate) listen: Vec<Located<SocketAddr>> = Vec::new(), Required(LISTEN, lists::listen(LISTEN));
        /// Certificates. The server name of the client picks one by the names in them: an exact one, a wildcard, else
        /// the first. Renewed files are in force within seconds, without a reload. So are files that did not exist.
        pub(super) certificates: Vec<CertificateFiles> = Vec::new(), Required(CERTIFICATES, certificates());
        /// The oldest version of TLS that is spoken.
        pub(super) min_version: TlsVersion = TlsVersion::V1_2, one_of();
        /// Whether HTTP/2 is offered.
        pub(super) http2: bool = true, Flag;
        /// Whether plain requests are redirected to HTTPS, by 308. HTTP challenges of ACME, as certbot has them, are not.
        pub(super) redirect_http: Located<bool> = Located { value: false, place: Place::FILE }, Placed(Flag);
        /// `Strict-Transport-Security`: a duration, or a table. Without the key the header is not sent.
        pub(super) hsts: Option<Hsts> = None, Maybe(hsts());
    }
}

section! {
    Reload, "0.1";
    /// A certificate chain and its key, both PEM.
    #[derive(Eq, Hash)]
    pub struct CertificateFiles {
        /// The chain, the server's own certificate first.
        pub certificate: PathBuf = PathBuf::new(), Required(CHAIN.example, CHAIN);
        /// Its private key.
        pub key: PathBuf = PathBuf::new(), Required(KEY.example, KEY);
        /// The line of the configuration, for messages.
        pub line: Line = Line(0), Found(|table, problems| {
            Line(table.place.offset.map_or(0, |at| problems.line(at)))
        });
    }
}

choice! {
    /// Versions of TLS.
    #[derive(PartialOrd, Ord)]
    pub enum TlsVersion {
        /// RFC 5246.
        V1_2 = "1.2",
        /// RFC 8446.
        V1_3 = "1.3",
    }
}

section! {
    Reload, "0.1";
    /// `Strict-Transport-Security` (RFC 6797).
    #[derive(Copy, Eq)]
    pub struct Hsts {
        /// For how long a browser remembers it.
        pub max_age: Duration = Duration::ZERO, Required(MAX_AGE.example, MAX_AGE);
        /// Whether it is for the names below this one too.
        pub include_subdomains: bool = false, Flag;
        /// Whether the name may be entered in the browsers' own lists.
        pub preload: bool = false, Flag;
    }
}

fn certificates() -> impl Kind<Value = Vec<CertificateFiles>> {
    NonEmpty {
        empty: format!("no certificate (write certificates = {CERTIFICATES})"),
        list: List(CERTIFICATES, Sound(sub(CERTIFICATE))),
    }
}

/// A duration, or a table.
fn hsts() -> impl Kind<Value = Hsts> {
    Short {
        text: Made {
            of: MAX_AGE,
            make: |max_age, _, _| {
                Some(Hsts {
                    max_age,
                    ..Hsts::default()
                })
            },
            back: |hsts: &Hsts| hsts.max_age,
        },
        table: Sound(sub("\"180d\"")),
        brief: |hsts: &Hsts| !hsts.include_subdomains && !hsts.preload,
        else_text: false,
    }
}
