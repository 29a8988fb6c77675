//! One certificate with its key, read from two PEM files, and whether they are any good.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::names::Name;
use lb_config::http::CertificateFiles;

/// A certificate and key that fit together.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// As rustls wants it.
    pub key: Arc<CertifiedKey>,
    /// The host names that it is for; those of its subject if it has no others.
    pub names: Vec<Name>,
    /// It is valid from here
    pub not_before: SystemTime,
    /// to here.
    pub not_after: SystemTime,
}

/// Why a pair cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// A file is not there, as before the first certificate of an ACME client.
    #[error("{}: does not exist yet", .0.display())]
    Absent(PathBuf),
    /// A file cannot be read.
    #[error("{}: cannot be read: {cause} (lb-agent has to be able to read it)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// No certificate in the file.
    #[error(
        "{}: there is no certificate in it (name the file that begins with \
         -----BEGIN CERTIFICATE-----, often called fullchain.pem)", .0.display()
    )]
    NoCertificate(PathBuf),
    /// Something in it is malformed.
    #[error("{}: not a certificate: {cause} (write it anew from where it came)", path.display())]
    NotACertificate {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        cause: String,
    },
    /// No key in the file.
    #[error(
        "{}: there is no private key in it (name the file that begins with \
         -----BEGIN PRIVATE KEY-----, often called privkey.pem)", .0.display()
    )]
    NoKey(PathBuf),
    /// The key is encrypted.
    #[error(
        "{}: the key is encrypted, and there is nobody to ask for its password (write it \
         without: openssl pkey -in encrypted.pem -out plain.pem)", .0.display()
    )]
    EncryptedKey(PathBuf),
    /// Not a key, or of a kind that no client takes.
    #[error("{}: not a key that can be used: {cause} (RSA from 2048 bits, ECDSA P-256 or P-384, \
             or Ed25519)", path.display())]
    UnusableKey {
        /// The file.
        path: PathBuf,
        /// The library's error.
        cause: String,
    },
    /// The key belongs to another certificate.
    #[error("{}: does not fit the key in {} ({remedy})", certificate.display(), key.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The remedy.
        remedy: &'static str,
    },
}

impl Loaded {
    /// Whether it is valid at `now`; if not, the sentence to say.
    pub(super) fn validity(&self, now: SystemTime) -> Validity {
        let date = |time| humantime::format_rfc3339_seconds(time);
        if now > self.not_after {
            let text = format!("expired on {} (renew it)", date(self.not_after));
            return Validity::Invalid(text);
        }
        if now < self.not_before {
            let text = format!(
                "not valid before {} (use the one of before, or mend this host's clock)",
                date(self.not_before)
            );
            return Validity::Invalid(text);
        }
        match self.not_after.duration_since(now) {
            Ok(left) if left < SOON => {
                let text = format!("expires on {} (renew it)", date(self.not_after));
                Validity::ExpiresSoon(text)
            }
            _ => Validity::Valid,
        }
    }
}

/// How long before its end a certificate is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Whether a certificate is in its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    /// It is.
    Valid,
    /// For less than two weeks.
    ExpiresSoon(String),
    /// No longer or not yet.
    Invalid(String),
}

/// Reads a pair and sees that both fit together. A certificate out of its time is read too.
pub(super) fn load(pair: &CertificateFiles) -> Result<Loaded, LoadError> {
    let chain = certificates(&pair.certificate)?;
    let signing = key(&pair.key)?;
    let not_a_certificate = |cause: String| LoadError::NotACertificate {
        path: pair.certificate.clone(),
        cause,
    };
    let end_entity = chain[0].clone();
    let (_, parsed) = X509Certificate::from_der(&end_entity)
        .map_err(|error| not_a_certificate(error.to_string()))?;
    if !fits(&end_entity, &signing) {
        let later = chain[1..].iter().any(|other| fits(other, &signing));
        return Err(LoadError::Mismatch {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            remedy: if later {
                "it is further down in the file: put the server's own certificate first"
            } else {
                "name the key that the certificate was requested with"
            },
        });
    }
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    Ok(Loaded {
        names: names(&parsed),
        not_before: at(parsed.validity().not_before),
        not_after: at(parsed.validity().not_after),
        key: Arc::new(CertifiedKey::new(chain, signing)),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(LoadError::NoCertificate(path.to_owned())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(LoadError::NotACertificate {
            path: path.to_owned(),
            cause: error.to_string(),
        }),
    }
}

fn key(path: &Path) -> Result<Arc<dyn SigningKey>, LoadError> {
    let text = read(path)?;
    let has = |label: &[u8]| text.windows(label.len()).any(|part| part == label);
    let unusable = |cause: String| LoadError::UnusableKey {
        path: path.to_owned(),
        cause,
    };
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(LoadError::EncryptedKey(path.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => LoadError::NoKey(path.to_owned()),
        other => unusable(other.to_string()),
    })?;
    super::provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| unusable(error.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => LoadError::Absent(path.to_owned()),
        _ => LoadError::Unreadable {
            path: path.to_owned(),
            cause,
        },
    })
}

/// Whether the key is that of the certificate. A key that does not tell its public half passes.
fn fits(certificate: &CertificateDer<'static>, key: &Arc<dyn SigningKey>) -> bool {
    use rustls::{Error, InconsistentKeys};
    let both = CertifiedKey::new(vec![certificate.clone()], Arc::clone(key));
    matches!(
        both.keys_match(),
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown))
    )
}

/// The names in the subjectAltName extension or, without it, the common names of the subject.
fn names(certificate: &X509Certificate<'_>) -> Vec<Name> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    match alternative {
        Some(extension) => extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(Name::new(name)),
                _ => None,
            })
            .collect(),
        None => certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .filter(|name| !name.contains(' '))
            .map(Name::new)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Made, Written};

    fn error(pair: &CertificateFiles) -> String {
        load(pair).unwrap_err().to_string()
    }

    #[test]
    fn a_pair_that_fits_is_read_with_its_names_and_its_time() {
        let files = Written::new(&Made::new(&["Example.com", "*.example.com"]));
        let loaded = load(&files.pair()).unwrap();
        assert_eq!(
            loaded.names,
            [Name::new("example.com"), Name::new("*.example.com")]
        );
        assert_eq!(loaded.validity(SystemTime::now()), Validity::Valid);
    }

    #[test]
    fn a_certificate_out_of_its_time_is_read_and_told() {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let told = |from, until| {
            let files = Written::new(&Made::new(&["a.test"]).valid(from, until));
            load(&files.pair()).unwrap().validity(now)
        };
        let Validity::Invalid(text) = told(now - 3 * day, now - day) else {
            panic!("an expired certificate");
        };
        assert!(text.starts_with("expired on 20"), "{text}");
        let Validity::Invalid(text) = told(now + day, now + 3 * day) else {
            panic!("a certificate of tomorrow");
        };
        assert!(text.starts_with("not valid before 20"), "{text}");
        assert!(matches!(
            told(now - day, now + day),
            Validity::ExpiresSoon(_)
        ));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (
            Written::new(&Made::new(&["a.test"])),
            Written::new(&Made::new(&["a.test"])),
        );
        let pair = CertificateFiles {
            key: other.pair().key,
            ..one.pair()
        };
        assert!(error(&pair).contains("name the key that the certificate was requested with"));
    }

    #[test]
    fn a_chain_in_the_wrong_order_is_recognised() {
        let (own, issuer) = (Made::new(&["a.test"]), Made::new(&["issuer"]));
        let files = Written::new(&own);
        let chain = format!("{}{}", issuer.certificate_pem(), own.certificate_pem());
        std::fs::write(files.pair().certificate, chain).unwrap();
        assert!(error(&files.pair()).contains("put the server's own certificate first"));
    }

    #[test]
    fn what_is_no_certificate_and_no_key_is_named_with_what_to_do() {
        let made = Made::new(&["a.test"]);
        let files = Written::new(&made);
        let pair = files.pair();
        std::fs::write(&pair.certificate, made.key_pem()).unwrap();
        assert!(error(&pair).contains("there is no certificate in it"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&pair.certificate, broken).unwrap();
        assert!(error(&pair).contains("not a certificate"));
        std::fs::write(&pair.certificate, made.certificate_pem()).unwrap();
        std::fs::write(&pair.key, made.certificate_pem()).unwrap();
        assert!(error(&pair).contains("there is no private key in it"));
        let encrypted = made.key_pem().replace("PRIVATE", "ENCRYPTED PRIVATE");
        std::fs::write(&pair.key, encrypted).unwrap();
        assert!(error(&pair).contains("openssl pkey -in"));
        let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        std::fs::write(&pair.key, broken).unwrap();
        assert!(error(&pair).contains("not a key that can be used"));
        std::fs::remove_file(&pair.key).unwrap();
        assert!(error(&pair).contains("does not exist yet"));
        std::fs::create_dir(&pair.key).unwrap();
        assert!(error(&pair).contains("cannot be read"));
    }
}
