//! The certificates of one service, kept fresh. Good files on disk are taken over; with bad ones the
//! certificate in force stays. Files that do not exist yet are waited for: without any certificate in force,
//! handshakes fail.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::load::{LoadError, Loaded, Validity, load};
use super::names::NameTable;
use crate::watch::Watched;
use lb_config::http::CertificateFiles;

/// The certificates of a service. Handshakes read them without a lock.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// `None` while no certificate is in force.
    table: ArcSwapOption<NameTable>,
    slots: Mutex<Vec<Slot>>,
}

/// A pair of files, and the certificate that was last read from it.
#[derive(Debug)]
struct Slot {
    pair: CertificateFiles,
    /// `None` until there are good files.
    loaded: Option<Loaded>,
    /// The fingerprint of the last files that were tried, good or not.
    tried: Fingerprint,
    /// The fingerprint of the last look; files are tried when it is seen twice.
    seen: Fingerprint,
    problem: Option<String>,
}

/// The status of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// Its file.
    pub certificate: String,
    /// The names in it.
    pub names: Vec<String>,
    /// When the one in force ends; `None` without one.
    pub not_after: Option<SystemTime>,
    /// Why the files' present content is not in force, or that the certificate is out of its time.
    pub problem: Option<String>,
}

/// The result of a change of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The new certificate in this file is in force.
    Taken(String),
    /// The old one stays, for this reason.
    Refused(String),
}

impl Certificates {
    /// Reads all pairs; every one that cannot be used is reported. At least one pair is needed. One that does not
    /// exist is waited for.
    pub(crate) fn load(pairs: &[CertificateFiles]) -> Result<Arc<Self>, Vec<LoadError>> {
        let (mut slots, mut errors) = (Vec::new(), Vec::new());
        for pair in pairs {
            // Before reading: a write meanwhile is seen as a change.
            let fingerprint = Fingerprint::of(pair);
            match load(pair) {
                Err(error) if !matches!(error, LoadError::Absent(_)) => errors.push(error),
                read => slots.push(Slot::new(pair.clone(), read, fingerprint)),
            }
        }
        if !errors.is_empty() || slots.is_empty() {
            return Err(errors);
        }
        Ok(Arc::new(Self {
            table: ArcSwapOption::new(table(&slots).map(Arc::new)),
            slots: Mutex::new(slots),
        }))
    }

    /// Whether a certificate from these files is in force.
    pub(crate) fn has(&self, pair: &CertificateFiles) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_force = slots.iter().filter(|slot| slot.loaded.is_some());
        in_force.any(|slot| slot.pair == *pair)
    }

    /// Looks whether files have changed, and takes over the good ones. A change is taken up at the second
    /// look that finds it the same, so that no half-written pair is read.
    pub(crate) fn refresh(&self) -> Vec<Change> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let changes: Vec<Change> = slots.iter_mut().filter_map(Slot::refresh).collect();
        if changes
            .iter()
            .any(|change| matches!(change, Change::Taken(_)))
            && let Some(table) = table(&slots)
        {
            self.table.store(Some(Arc::new(table)));
        }
        changes
    }

    /// The status of each certificate, in the order of the configuration.
    pub(crate) fn status(&self) -> Vec<CertificateStatus> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        slots.iter().map(|slot| slot.status(now)).collect()
    }
}

impl Watched for Certificates {
    fn look(&self) {
        for change in self.refresh() {
            match change {
                Change::Taken(file) => {
                    tracing::info!("the certificate in {file} is new, and in force");
                }
                Change::Refused(problem) => tracing::error!("{problem}"),
            }
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let chosen =
            |table: &Arc<NameTable>| table.choose(hello.server_name(), hello.signature_schemes());
        table.as_ref().map(chosen)
    }
}

fn table(slots: &[Slot]) -> Option<NameTable> {
    let in_force = slots.iter().filter_map(|slot| slot.loaded.as_ref());
    NameTable::new(in_force.map(|loaded| (&loaded.key, loaded.names.as_slice())))
}

impl Slot {
    fn new(
        pair: CertificateFiles,
        read: Result<Loaded, LoadError>,
        fingerprint: Fingerprint,
    ) -> Self {
        let (loaded, problem) = match read {
            Ok(loaded) => (Some(loaded), None),
            Err(error) => (None, Some(format!("{error}; {NONE_IN_FORCE}"))),
        };
        Self {
            pair,
            loaded,
            tried: fingerprint,
            seen: fingerprint,
            problem,
        }
    }

    fn refresh(&mut self) -> Option<Change> {
        let now = Fingerprint::of(&self.pair);
        let settled = std::mem::replace(&mut self.seen, now) == now;
        if now == self.tried || !settled {
            return None;
        }
        self.tried = now;
        match load(&self.pair) {
            Ok(loaded) => {
                self.loaded = Some(loaded);
                self.problem = None;
                Some(Change::Taken(self.pair.certificate.display().to_string()))
            }
            Err(error) => {
                let in_force = match self.loaded {
                    Some(_) => "the certificate of before stays in force",
                    None => NONE_IN_FORCE,
                };
                let problem = format!("{error}; {in_force}");
                self.problem = Some(problem.clone());
                Some(Change::Refused(problem))
            }
        }
    }

    fn status(&self, now: SystemTime) -> CertificateStatus {
        let loaded = self.loaded.as_ref();
        let out_of_time = match loaded.map(|loaded| loaded.validity(now)) {
            None | Some(Validity::Valid) => None,
            Some(Validity::ExpiresSoon(text) | Validity::Invalid(text)) => Some(text),
        };
        let names = loaded.into_iter().flat_map(|loaded| &loaded.names);
        CertificateStatus {
            certificate: self.pair.certificate.display().to_string(),
            names: names.map(ToString::to_string).collect(),
            not_after: loaded.map(|loaded| loaded.not_after),
            problem: self.problem.clone().or(out_of_time),
        }
    }
}

/// Said of a pair of files whose certificate has never been read.
const NONE_IN_FORCE: &str = "no certificate of these files is in force";

/// Tells the contents of two files apart without reading them: device, inode, size, time of change.
/// Symbolic links are followed. Certbot and Kubernetes renew by changing a link's target, which a watch on
/// the file itself would not notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint([Option<FileMark>; 2]);

/// Device, inode, size and time of change of a file.
pub(super) type FileMark = (u64, u64, u64, i64, i64);

/// The mark of the file at `path`; `None` if there is none.
pub(super) fn mark(path: &Path) -> Option<FileMark> {
    let meta = std::fs::metadata(path).ok()?;
    let changed = (meta.ctime(), meta.ctime_nsec());
    Some((meta.dev(), meta.ino(), meta.size(), changed.0, changed.1))
}

impl Fingerprint {
    fn of(pair: &CertificateFiles) -> Self {
        Self([mark(&pair.certificate), mark(&pair.key)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Made, Written};

    fn in_force(certificates: &Certificates, made: &Made) -> bool {
        let table = certificates.table.load();
        let chosen = table
            .as_ref()
            .map(|table| table.choose(Some("a.test"), &[]));
        chosen.is_some_and(|chosen| chosen.cert[0].as_ref() == made.der())
    }

    #[test]
    fn a_new_certificate_is_taken_at_the_second_look_and_only_once() {
        let (old, new) = (Made::new(&["a.test"]), Made::new(&["a.test"]));
        let files = Written::new(&old);
        let certificates = Certificates::load(&[files.pair()]).unwrap();
        assert_eq!(certificates.refresh(), []);
        files.replace(&new);
        assert_eq!(certificates.refresh(), []);
        assert!(in_force(&certificates, &old));
        let taken = Change::Taken(files.pair().certificate.display().to_string());
        assert_eq!(certificates.refresh(), [taken]);
        assert!(in_force(&certificates, &new));
        assert_eq!(certificates.refresh(), []);
    }

    #[test]
    fn a_broken_certificate_leaves_the_old_one_in_force_and_says_so_until_it_is_mended() {
        let (old, new) = (Made::new(&["a.test"]), Made::new(&["a.test"]));
        let files = Written::new(&old);
        let certificates = Certificates::load(&[files.pair()]).unwrap();
        std::fs::write(files.pair().certificate, new.certificate_pem()).unwrap();
        certificates.refresh();
        let changes = certificates.refresh();
        assert!(
            matches!(&changes[..], [Change::Refused(text)] if text.contains("does not fit the key")),
            "{changes:?}"
        );
        assert!(in_force(&certificates, &old));
        assert!(certificates.status()[0].problem.is_some());
        assert_eq!(certificates.refresh(), [], "said once");
        std::fs::write(files.pair().key, new.key_pem()).unwrap();
        certificates.refresh();
        certificates.refresh();
        assert!(in_force(&certificates, &new));
        assert_eq!(certificates.status()[0].problem, None);
    }

    #[test]
    fn files_that_do_not_exist_yet_are_waited_for() {
        let made = Made::new(&["a.test"]);
        let files = Written::new(&made);
        let pair = files.pair();
        let hidden = pair.key.with_extension("hidden");
        std::fs::rename(&pair.key, &hidden).unwrap();
        let certificates = Certificates::load(std::slice::from_ref(&pair)).unwrap();
        assert!(!in_force(&certificates, &made) && !certificates.has(&pair));
        let status = &certificates.status()[0];
        assert_eq!(status.not_after, None);
        let problem = status.problem.as_deref().unwrap();
        assert!(problem.contains("does not exist yet"), "{problem}");
        std::fs::rename(&hidden, &pair.key).unwrap();
        certificates.refresh();
        certificates.refresh();
        assert!(in_force(&certificates, &made) && certificates.has(&pair));
        assert_eq!(certificates.status()[0].problem, None);
        // Gone again, it stays in force.
        std::fs::remove_file(&pair.key).unwrap();
        certificates.refresh();
        let changes = certificates.refresh();
        assert!(
            matches!(&changes[..], [Change::Refused(text)] if text.contains("stays in force")),
            "{changes:?}"
        );
        assert!(in_force(&certificates, &made));
    }

    #[test]
    fn a_changed_symbolic_link_is_a_change() {
        let (old, new) = (Made::new(&["a.test"]), Made::new(&["a.test"]));
        let (old_files, new_files) = (Written::new(&old), Written::new(&new));
        let dir = tempfile::tempdir().unwrap();
        let pair = CertificateFiles {
            certificate: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            line: lb_config::Line(1),
        };
        let lead_to = |to: CertificateFiles| {
            for (link, file) in [(&pair.certificate, to.certificate), (&pair.key, to.key)] {
                let _ = std::fs::remove_file(link);
                std::os::unix::fs::symlink(file, link).unwrap();
            }
        };
        lead_to(old_files.pair());
        let certificates = Certificates::load(std::slice::from_ref(&pair)).unwrap();
        lead_to(new_files.pair());
        certificates.refresh();
        certificates.refresh();
        assert!(in_force(&certificates, &new));
    }

    #[test]
    fn every_pair_that_cannot_be_used_is_reported() {
        let good = Written::new(&Made::new(&["a.test"]));
        let broken = CertificateFiles {
            certificate: good.pair().key,
            ..good.pair()
        };
        let errors = Certificates::load(&[broken.clone(), good.pair(), broken]).unwrap_err();
        assert_eq!(errors.len(), 2);
        assert!(Certificates::load(&[]).unwrap_err().is_empty());
    }
}
