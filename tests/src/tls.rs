//! Certificates of an authority of one's own, and the usual programs as clients that trust it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};

use crate::agent::Outcome;
use crate::process::Process;
use crate::topology::hosts::Host;

/// Signs certificates; its own is in a file for clients.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key in two files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one with its files in `dir`.
    pub fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = "authority of a test";
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        fs::write(dir.join("authority.pem"), own.pem()).unwrap();
        Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The certificate authority that clients trust.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("authority.pem")
    }

    /// A certificate for these names, in files called `label`. Existing files are replaced, each by one
    /// rename.
    pub fn issue(&self, label: &str, names: &[&str]) -> Files {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        self.issue_for(label, names, now - day, now + 60 * day)
    }

    /// The same, valid between these times.
    pub fn issue_for(
        &self,
        label: &str,
        names: &[&str],
        from: SystemTime,
        until: SystemTime,
    ) -> Files {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (from.into(), until.into());
        self.sign(label, params)
    }

    /// A certificate of a client with this serial number.
    pub fn issue_numbered(&self, label: &str, serial: u8) -> Files {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(vec![serial]));
        self.sign(label, params)
    }

    /// A revocation list with these serial numbers, in a file that it replaces by one rename.
    pub fn revoke(&self, serials: &[u8]) -> PathBuf {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: (now - day).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - day).into(),
            next_update: (now + day).into(),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        let path = self.dir.join("authority.crl");
        replace(&path, &list.pem().unwrap());
        path
    }

    fn sign(&self, label: &str, mut params: CertificateParams) -> Files {
        params.distinguished_name.push(DnType::CommonName, label);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            certificate: self.dir.join(format!("{label}.pem")),
            key: self.dir.join(format!("{label}.key")),
        };
        replace(&files.key, &key.serialize_pem());
        replace(&files.certificate, &certificate.pem());
        files
    }
}

/// Writes a file by one rename.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

impl Files {
    /// As an entry of `certificates`.
    pub fn toml(&self) -> String {
        format!(
            "{{ certificate = '{}', key = '{}' }}",
            self.certificate.display(),
            self.key.display()
        )
    }
}

/// `curl ARGUMENTS` on `host`, quiet but for errors, for at most a minute. Names that end in
/// `.test` are at `to`.
pub fn curl(host: &Host, to: SocketAddr, arguments: &[&str]) -> Outcome {
    let mut command = curl_command(host, to);
    command.args(arguments);
    command.output().expect("start curl").into()
}

/// The same, running.
pub fn curl_command(host: &Host, to: SocketAddr) -> Command {
    let mut command = host.command("curl");
    command
        .args(["-sS", "--max-time", "60", "--connect-to"])
        .arg(format!("::{}:", to.ip()))
        .stdin(Stdio::null());
    command
}

/// The certificate, as PEM, that a server at `to` shows to clients that ask for `name`; with the other
/// output of `openssl s_client`.
pub fn shown(host: &Host, to: SocketAddr, name: &str, arguments: &[&str]) -> (String, String) {
    let mut command = s_client(host, to, name);
    command.args(arguments).stdin(Stdio::null());
    let outcome = Outcome::from(command.output().expect("start openssl"));
    let begin = outcome.stdout.find("-----BEGIN CERTIFICATE-----");
    let end = outcome.stdout.find("-----END CERTIFICATE-----");
    let pem = match (begin, end) {
        (Some(begin), Some(end)) => outcome.stdout[begin..end].replace(['\r', '\n'], ""),
        _ => String::new(),
    };
    (pem, outcome.stdout + &outcome.stderr)
}

/// Whether the certificate in a file is the one that was shown.
pub fn is_same(shown: &str, files: &Files) -> bool {
    let text = fs::read_to_string(&files.certificate).unwrap();
    let file = text.replace(['\r', '\n'], "");
    !shown.is_empty() && file.starts_with(shown)
}

/// `openssl s_client` to a server, for less than [`crate::wait::PATIENCE`].
pub fn s_client(host: &Host, to: SocketAddr, name: &str) -> Command {
    let mut command = host.command("timeout");
    command.args(["50", "openssl", "s_client", "-servername", name, "-connect"]);
    command.arg(to.to_string());
    command
}

/// A connection that stays, for one request after the other.
pub struct Kept(Process);

impl Kept {
    /// Opens it; the server's certificate is checked.
    pub fn open(host: &Host, to: SocketAddr, name: &str, authority: &Authority) -> Self {
        let mut command = host.command("openssl");
        command
            .args([
                "s_client",
                "-quiet",
                "-verify_return_error",
                "-servername",
                name,
            ])
            .arg("-CAfile")
            .arg(authority.certificate())
            .arg("-connect")
            .arg(to.to_string());
        let log = authority.dir.join(format!("kept-{name}.log"));
        Self(Process::start(command, &log))
    }

    /// Sends a request for `/id`.
    #[track_caller]
    pub fn ask(&mut self, name: &str) {
        self.0
            .tell(&format!("GET /id HTTP/1.1\r\nHost: {name}\r\n\r"));
        self.0.wait_for("HTTP/1.1 200");
    }
}
