//! The verification of clients' certificates for one service, kept fresh. Good files on disk are taken over; with bad
//! ones those before stay in force.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;

use super::authorities::{Authorities, Finding};
use super::store::{FileMark, mark};
use super::tickets::TicketKeys;
use crate::client_cert::{ClientCertificate, Presented, TermsId};
use crate::watch::Watched;
use lb_config::http::{ClientCertificates, ClientPolicy, HostPattern};

/// The verification of clients' certificates for one service. Handshakes read it without a lock.
#[derive(Debug)]
pub(crate) struct ClientAuth {
    settings: ClientCertificates,
    terms: ArcSwap<Terms>,
    files: Mutex<Files>,
}

/// The terms in force. Sessions are resumed under the same terms alone: rustls takes the certificate of a ticket
/// without a look at authorities and revocation lists.
#[derive(Debug)]
pub(super) struct Terms {
    authorities: Authorities,
    /// The keys of session tickets, for these terms only.
    pub(super) tickets: TicketKeys,
}

#[derive(Debug)]
struct Files {
    /// The files that were last tried, good or not.
    tried: Vec<Option<FileMark>>,
    /// The files at the last look; they are tried when they are seen twice.
    seen: Vec<Option<FileMark>>,
    problem: Option<String>,
}

/// The status of the verification of clients' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthStatus {
    /// The file of the authorities.
    pub authorities: String,
    /// The files of the revocation lists in force, with the end of each.
    pub revocation_lists: Vec<(String, Option<SystemTime>)>,
    /// Why the files' present content is not in force, or why clients are refused.
    pub problems: Vec<String>,
}

impl ClientAuth {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be used, in a line for people.
    pub(crate) fn load(settings: &ClientCertificates) -> Result<Arc<Self>, String> {
        // Before reading: a write meanwhile is seen as a change.
        let marks = marks(settings);
        let terms = Terms::load(settings)?;
        Ok(Arc::new(Self {
            settings: settings.clone(),
            terms: ArcSwap::from_pointee(terms),
            files: Mutex::new(Files {
                tried: marks.clone(),
                seen: marks,
                problem: None,
            }),
        }))
    }

    /// Whether it is for these settings.
    pub(crate) fn is_of(&self, settings: &ClientCertificates) -> bool {
        let ClientCertificates {
            ca,
            policy,
            crl,
            hosts,
            line: _,
        } = settings;
        let own = &self.settings;
        (&own.ca, own.policy, &own.crl, &own.hosts) == (ca, *policy, crl, hosts)
    }

    /// Whether clients that ask for `name` are asked for a certificate; without a name only if all are.
    pub(crate) fn asks(&self, name: Option<&str>) -> bool {
        let hosts = &self.settings.hosts;
        let matches = |name: &str| hosts.iter().any(|host| is_match(host, name));
        hosts.is_empty() || name.is_some_and(matches)
    }

    /// Whether clients without a certificate are refused.
    pub(crate) fn is_required(&self) -> bool {
        self.settings.policy == ClientPolicy::Require
    }

    /// Whether all names of the service are asked.
    pub(super) fn asks_all(&self) -> bool {
        self.settings.hosts.is_empty()
    }

    /// The terms in force.
    pub(super) fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Whether a client that was asked may go on now. Its certificate is verified again if the terms have changed since,
    /// or if it came out of a session ticket.
    pub(crate) fn admits(&self, presented: &Presented) -> bool {
        let terms = self.terms.load();
        let Some(certificate) = &presented.certificate else {
            return !self.is_required();
        };
        if certificate.not_after < SystemTime::now() {
            return false;
        }
        let id = terms.authorities.id;
        if presented.verified_by.get() == Some(id) {
            return true;
        }
        let is_good = terms.verifies(certificate);
        if is_good {
            presented.verified_by.set(Some(id));
        }
        is_good
    }

    /// Looks whether files have changed, and takes over the good ones. A change is taken up at the second look that finds
    /// it the same, or at once if that is `urgent`. The result is that of a change.
    pub(crate) fn refresh(&self, urgent: bool) -> Option<Result<(), String>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let now = marks(&self.settings);
        let is_settled = std::mem::replace(&mut files.seen, now.clone()) == now;
        if now == files.tried || !(is_settled || urgent) {
            return None;
        }
        files.tried = now;
        match Terms::load(&self.settings) {
            Ok(terms) => {
                if terms.authorities.id != self.terms.load().authorities.id {
                    self.terms.store(Arc::new(terms));
                }
                files.problem = None;
                Some(Ok(()))
            }
            Err(error) => {
                let problem = format!("{error}; the one of before stays in force");
                files.problem = Some(problem.clone());
                Some(Err(problem))
            }
        }
    }

    /// Its status.
    pub(crate) fn status(&self) -> ClientAuthStatus {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let terms = self.terms.load();
        let findings = terms.authorities.findings(SystemTime::now());
        let refused = findings.into_iter().filter_map(|finding| match finding {
            Finding::Refused(text) => Some(text),
            Finding::Warning(_) => None,
        });
        let lists = terms.authorities.lists.iter();
        ClientAuthStatus {
            authorities: self.settings.ca.display().to_string(),
            revocation_lists: lists
                .map(|list| (list.file.display().to_string(), list.next_update))
                .collect(),
            problems: files.problem.iter().cloned().chain(refused).collect(),
        }
    }
}

impl Watched for ClientAuth {
    fn look(&self) {
        match self.refresh(false) {
            None => {}
            Some(Ok(())) => {
                let ca = self.settings.ca.display();
                tracing::info!("authorities and revocation lists of {ca} are new, and in force");
            }
            Some(Err(problem)) => tracing::error!("{problem}"),
        }
    }
}

impl Terms {
    fn load(settings: &ClientCertificates) -> Result<Self, String> {
        Ok(Self {
            authorities: Authorities::load(settings)?,
            tickets: TicketKeys::new().map_err(|error| error.to_string())?,
        })
    }

    /// Names them.
    pub(super) const fn id(&self) -> TermsId {
        self.authorities.id
    }

    /// Verifies certificates by them.
    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.authorities.verifier)
    }

    fn verifies(&self, certificate: &ClientCertificate) -> bool {
        let Some((own, others)) = certificate.chain.split_first() else {
            return false;
        };
        let verifier = &self.authorities.verifier;
        verifier
            .verify_client_cert(own, others, UnixTime::now())
            .is_ok()
    }
}

fn marks(settings: &ClientCertificates) -> Vec<Option<FileMark>> {
    let files = std::iter::once(&settings.ca).chain(&settings.crl);
    files
        .map(|file: &std::path::PathBuf| mark(Path::new(file)))
        .collect()
}

/// Whether a name, in any case, is the one of a pattern or below it.
fn is_match(host: &HostPattern, name: &str) -> bool {
    match host {
        HostPattern::Exact(exact) => exact.eq_ignore_ascii_case(name),
        HostPattern::Wildcard(end) => {
            let (name, end) = (name.as_bytes(), end.as_bytes());
            let rest = name.len().checked_sub(end.len());
            rest.is_some_and(|at| at > 0 && name[at..].eq_ignore_ascii_case(end))
        }
    }
}
