//! Certificates made on the spot, for the tests of this module.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::names::Name;
use lb_config::http::CertificateFiles;

/// The permitted use of the key.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Ecdsa,
    Ed25519,
}

/// A certificate that signed itself, and its key.
pub(crate) struct Made {
    names: Vec<String>,
    key: KeyPair,
    certificate: rcgen::Certificate,
}

impl Made {
    pub(crate) fn new(names: &[&str]) -> Self {
        Self::of_kind(Kind::Ecdsa, names)
    }

    pub(crate) fn of_kind(kind: Kind, names: &[&str]) -> Self {
        let algorithm = match kind {
            Kind::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            Kind::Ed25519 => &PKCS_ED25519,
        };
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params(&names).self_signed(&key).unwrap();
        Self {
            names,
            key,
            certificate,
        }
    }

    /// The same, with another time in which it is valid.
    pub(crate) fn valid(mut self, from: SystemTime, until: SystemTime) -> Self {
        let mut params = params(&self.names);
        (params.not_before, params.not_after) = (from.into(), until.into());
        self.certificate = params.self_signed(&self.key).unwrap();
        self
    }

    pub(crate) fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    pub(in crate::tls) fn names(&self) -> Vec<Name> {
        self.names.iter().map(|name| Name::new(name)).collect()
    }

    pub(crate) fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem().as_bytes()).unwrap();
        let chain = vec![CertificateDer::from(self.der().to_vec())];
        Arc::new(CertifiedKey::from_der(chain, key, super::provider()).unwrap())
    }
}

fn params(names: &[String]) -> CertificateParams {
    CertificateParams::new(names.to_vec()).unwrap()
}

/// A certificate in two files, gone when dropped.
pub(crate) struct Written {
    dir: tempfile::TempDir,
}

impl Written {
    pub(crate) fn new(made: &Made) -> Self {
        let written = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        written.replace(made);
        written
    }

    pub(crate) fn replace(&self, made: &Made) {
        let pair = self.pair();
        std::fs::write(pair.certificate, made.certificate_pem()).unwrap();
        std::fs::write(pair.key, made.key_pem()).unwrap();
    }

    pub(crate) fn pair(&self) -> CertificateFiles {
        CertificateFiles {
            certificate: self.dir.path().join("fullchain.pem"),
            key: self.dir.path().join("privkey.pem"),
            line: lb_config::Line(1),
        }
    }
}
