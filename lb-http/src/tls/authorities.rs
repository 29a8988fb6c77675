//! The authorities that sign the certificates of clients, and their revocation lists (RFC 5280), read from files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::client_cert::{self, TermsId};
use lb_config::http::{ClientCertificates, ClientPolicy};

/// Authorities and revocation lists that fit together.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Verifies the certificates of clients by them.
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Tells them from all others, in whatever files they are.
    pub(super) id: TermsId,
    /// The revocation lists.
    pub(super) lists: Vec<List>,
    authorities: Vec<Authority>,
}

#[derive(Debug)]
struct Authority {
    /// The subject in DER, by which revocation lists name it.
    subject: Vec<u8>,
    name: String,
    not_after: SystemTime,
}

/// A revocation list.
#[derive(Debug)]
pub(super) struct List {
    /// The file that it is in.
    pub(super) file: PathBuf,
    /// Until when it says anything, if it says that.
    pub(super) next_update: Option<SystemTime>,
    issuer: Vec<u8>,
    name: String,
}

/// A finding on authorities that can be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Clients are refused.
    Refused(String),
    /// They work, and not as one may think.
    Warning(String),
}

impl Authorities {
    /// Reads the files; the error is a line for people, with the way out.
    pub(super) fn load(settings: &ClientCertificates) -> Result<Self, String> {
        let mut content = Content::default();
        let certificates = certificates(&settings.ca)?;
        let mut roots = RootCertStore::empty();
        let mut authorities = Vec::new();
        for certificate in certificates {
            content.add(&certificate);
            authorities.push(Authority::new(&settings.ca, &certificate)?);
            roots
                .add(certificate)
                .map_err(|error| no_certificate(&settings.ca, &error))?;
        }
        let (mut lists, mut revoked) = (Vec::new(), Vec::new());
        for file in &settings.crl {
            for list in revocation_lists(file)? {
                content.add(&list);
                lists.push(List::new(file, &list)?);
                revoked.push(list);
            }
        }
        let provider = Arc::clone(super::provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
            .with_crls(revoked)
            .enforce_revocation_expiration();
        if settings.policy == ClientPolicy::Optional {
            builder = builder.allow_unauthenticated();
        }
        Ok(Self {
            verifier: builder.build().map_err(|error| error.to_string())?,
            id: content.id(settings.policy),
            lists,
            authorities,
        })
    }

    /// Everything that is wrong with them at `now`.
    pub(super) fn findings(&self, now: SystemTime) -> Vec<Finding> {
        let date = |time| humantime::format_rfc3339_seconds(time);
        let mut findings = Vec::new();
        for list in &self.lists {
            let file = list.file.display();
            if let Some(end) = list.next_update.filter(|end| *end < now) {
                findings.push(Finding::Refused(format!(
                    "{file}: the revocation list of {} expired on {}, so clients of this authority are refused (put the \
                     new one there)",
                    list.name,
                    date(end)
                )));
            }
            if !self
                .authorities
                .iter()
                .any(|one| one.subject == list.issuer)
            {
                findings.push(Finding::Warning(format!(
                    "{file}: the revocation list is of {}, which is not in client_ca",
                    list.name
                )));
            }
        }
        let listed: HashSet<&[u8]> = self.lists.iter().map(|list| &*list.issuer).collect();
        for authority in &self.authorities {
            if !listed.is_empty() && !listed.contains(&*authority.subject) {
                findings.push(Finding::Refused(format!(
                    "there is no revocation list of {} in crl, so its clients are refused (add the list of this \
                     authority)",
                    authority.name
                )));
            }
            if authority.not_after < now {
                findings.push(Finding::Warning(format!(
                    "the authority {} expired on {}",
                    authority.name,
                    date(authority.not_after)
                )));
            }
        }
        findings
    }
}

impl Authority {
    fn new(file: &Path, certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| no_certificate(file, &error))?;
        Ok(Self {
            subject: parsed.subject().as_raw().to_vec(),
            name: client_cert::name(parsed.subject()),
            not_after: client_cert::time(parsed.validity().not_after.timestamp()),
        })
    }
}

impl List {
    fn new(file: &Path, list: &CertificateRevocationListDer<'_>) -> Result<Self, String> {
        let (_, parsed) =
            CertificateRevocationList::from_der(list).map_err(|error| no_list(file, &error))?;
        let end = parsed.next_update();
        Ok(Self {
            file: file.to_owned(),
            next_update: end.map(|end| client_cert::time(end.timestamp())),
            issuer: parsed.issuer().as_raw().to_vec(),
            name: client_cert::name(parsed.issuer()),
        })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| no_certificate(file, &error))?;
    if all.is_empty() {
        return Err(format!(
            "{}: there is no certificate in it (name the file of the authority that begins with -----BEGIN \
             CERTIFICATE-----)",
            file.display()
        ));
    }
    Ok(all)
}

/// The lists in a file: PEM, or one in DER, as authorities publish it.
fn revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    const SEQUENCE: u8 = 0x30;
    let text = read(file)?;
    if text.first() == Some(&SEQUENCE) {
        return Ok(vec![CertificateRevocationListDer::from(text)]);
    }
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| no_list(file, &error))?;
    if all.is_empty() {
        return Err(format!(
            "{}: there is no revocation list in it (name the file that begins with -----BEGIN X509 CRL-----)",
            file.display()
        ));
    }
    Ok(all)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| {
        format!(
            "{}: cannot be read: {error} (lb-agent has to be able to read it)",
            file.display()
        )
    })
}

fn no_certificate(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "{}: not a certificate: {error} (write it anew from where it came)",
        file.display()
    )
}

fn no_list(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!(
        "{}: not a revocation list: {error} (write it anew from where it came)",
        file.display()
    )
}

/// Everything that a verification depends on beside the time.
#[derive(Default)]
struct Content(Vec<u8>);

impl Content {
    fn add(&mut self, part: &[u8]) {
        self.0.extend_from_slice(&part.len().to_le_bytes());
        self.0.extend_from_slice(part);
    }

    fn id(mut self, policy: ClientPolicy) -> TermsId {
        self.0.push(u8::from(policy == ClientPolicy::Optional));
        let digest = digest::digest(&digest::SHA256, &self.0);
        let mut id = [0; 32];
        id.copy_from_slice(digest.as_ref());
        TermsId(id)
    }
}
