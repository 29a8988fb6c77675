//! Authorities of clients made on the spot, with certificates and revocation lists, for tests.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use lb_config::Line;
use lb_config::http::{ClientCertificates, ClientPolicy};

const DAY: Duration = Duration::from_secs(86_400);

/// An authority that signs certificates of clients.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A client's certificate and its key.
pub(crate) struct Client {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate of `name` with this serial number.
    pub(crate) fn client(&self, name: &str, serial: u8) -> Client {
        self.client_until(name, serial, SystemTime::now() + 30 * DAY)
    }

    /// The same, which ends at `end`.
    pub(crate) fn client_until(&self, name: &str, serial: u8, end: SystemTime) -> Client {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(vec![serial]));
        (params.not_before, params.not_after) = ((end - 60 * DAY).into(), end.into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        Client {
            chain: vec![certificate.der().clone()],
            key,
        }
    }

    /// A revocation list, PEM, with these serial numbers, that is good until `end`.
    pub(crate) fn revoked(&self, serials: &[u8], end: SystemTime) -> String {
        let now = SystemTime::now();
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: (now - DAY).into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - 2 * DAY).into(),
            next_update: end.into(),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The same, good for long.
    pub(crate) fn revoked_now(&self, serials: &[u8]) -> String {
        self.revoked(serials, SystemTime::now() + DAY)
    }
}

/// Files of authorities and revocation lists, gone when dropped.
pub(crate) struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new(authorities: &str) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write("ca.pem", authorities);
        files
    }

    /// Writes a file by one rename.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Settings that require certificates, with these files of revocation lists.
    pub(crate) fn settings(&self, crl: &[PathBuf]) -> ClientCertificates {
        ClientCertificates {
            ca: self.path().join("ca.pem"),
            policy: ClientPolicy::Require,
            crl: crl.to_vec(),
            hosts: Vec::new(),
            line: Line(1),
        }
    }
}
