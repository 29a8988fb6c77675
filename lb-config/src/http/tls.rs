//! `[service.tls]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::route::hosts;
use super::sections::file_path;
use super::value::HostPattern;
use crate::choice::choice;
use crate::error::{Line, Located, Place, Problems};
use crate::lists::{self, Texts};
use crate::schema::fields::{Found, PLACE, Required};
use crate::schema::kinds::{
    Flag, List, Made, Maybe, NonEmpty, OneOrMore, Placed, Short, Sound, Text, one_of, path, sub,
    time,
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
const CLIENT_CA: Text<PathBuf, String> =
    path("path of a file", "\"/etc/lb-agent/ca.pem\"", file_path);
const CRL: Text<PathBuf, String> = path("path of a file", "\"/etc/lb-agent/ca.crl\"", file_path);
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
    /// The certificates that clients show, if they are asked for one.
    pub client: Option<ClientCertificates>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The certificates of the authorities, PEM.
    pub ca: PathBuf,
    /// Whether a client without a certificate is served.
    pub policy: ClientPolicy,
    /// Files of revocation lists.
    pub crl: Vec<PathBuf>,
    /// The server names whose clients are asked; all if there is none.
    pub hosts: Vec<HostPattern>,
    /// The line of the configuration, for messages.
    pub line: Line,
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
        /// Certificates of the authorities that sign the certificates of clients, PEM. With it clients are asked for a
        /// certificate. The file is read again when it changes.
        pub(super) client_ca: Option<Located<PathBuf>> = None, Maybe(Placed(CLIENT_CA));
        /// Whether a client without a certificate is served; `"require"` by default. A certificate that is not good is
        /// refused in both cases.
        pub(super) client_certificates: Option<Located<ClientPolicy>> = None, Maybe(Placed(one_of()));
        /// Certificate revocation lists, PEM or DER: a file or a list of files, read again when they change. Every authority
        /// in a client's chain needs one.
        pub(super) crl: Vec<Located<PathBuf>> = Vec::new(), OneOrMore(List("[\"/etc/lb-agent/ca.crl\"]", Placed(CRL)), Placed(CRL));
        /// Server names whose clients are asked for a certificate, as in `host` of a route. Without the key all are.
        pub(super) client_hosts: Vec<Located<HostPattern>> = Vec::new(), hosts();
    }
}

choice! {
    /// Whether clients need a certificate.
    pub enum ClientPolicy {
        /// A client without one is refused.
        Require = "require",
        /// A client without one is served.
        Optional = "optional",
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

impl RawTls {
    /// The checked values, of a service that takes plain requests at `plain`.
    pub(super) fn check(self, plain: &[SocketAddr], problems: &mut Problems) -> Tls {
        if self.redirect_http.value && plain.is_empty() {
            problems.add(
                &self.redirect_http.place,
                "there is no plain request to redirect (add listen = [\"0.0.0.0:80\", \"[::]:80\"] to the service)",
            );
        }
        let client = self.client(plain, problems);
        let Self {
            place: _,
            listen,
            certificates,
            min_version,
            http2,
            redirect_http,
            hsts,
            // In `client`.
            client_ca: _,
            client_certificates: _,
            crl: _,
            client_hosts: _,
        } = self;
        Tls {
            listen: listen.into_iter().map(|listen| listen.value).collect(),
            certificates,
            min_version,
            http2,
            redirect_http: redirect_http.value,
            hsts,
            client,
        }
    }

    fn client(&self, plain: &[SocketAddr], problems: &mut Problems) -> Option<ClientCertificates> {
        let Some(ca) = &self.client_ca else {
            let policy = self
                .client_certificates
                .as_ref()
                .map(|policy| &policy.place);
            let of_lists = self.crl.first().map(|file| &file.place);
            let of_hosts = self.client_hosts.first().map(|host| &host.place);
            if let Some(place) = policy.or(of_lists).or(of_hosts) {
                problems.add(place, NO_CLIENT_CA);
            }
            return None;
        };
        let policy = self.client_certificates.as_ref();
        let policy = policy.map_or(ClientPolicy::Require, |policy| policy.value);
        if policy == ClientPolicy::Require && !plain.is_empty() && !self.redirect_http.value {
            problems.add(&ca.place, PLAIN_BESIDE_REQUIRED);
        }
        Some(ClientCertificates {
            ca: ca.value.clone(),
            policy,
            crl: self.crl.iter().map(|file| file.value.clone()).collect(),
            hosts: self
                .client_hosts
                .iter()
                .map(|host| host.value.clone())
                .collect(),
            line: Line(ca.place.offset.map_or(0, |at| problems.line(at))),
        })
    }
}

const NO_CLIENT_CA: &str =
    "no client is asked for a certificate (add client_ca = \"/etc/lb-agent/ca.pem\")";
const PLAIN_BESIDE_REQUIRED: &str = "plain requests come without a certificate (add redirect_http = true, \
                                     or remove listen of the service)";
