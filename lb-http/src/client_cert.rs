//! The certificate of a client: its subject in the form of RFC 4514, its serial number, its fingerprint.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Names the terms that a certificate was verified by: authorities, revocation lists and policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TermsId(pub(crate) [u8; 32]);

/// The reply of a client that was asked for a certificate.
#[derive(Debug)]
pub(crate) struct Presented {
    /// The certificate, if the client has shown one.
    pub(crate) certificate: Option<ClientCertificate>,
    /// The terms that it was last verified by. `None` for one that came out of a session ticket, which TLS does not
    /// verify again.
    pub(crate) verified_by: Cell<Option<TermsId>>,
}

/// A certificate of a client.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    /// The chain, the client's own certificate first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The subject (RFC 4514), in ASCII.
    pub(crate) subject: String,
    /// The issuer (RFC 4514), in ASCII.
    pub(crate) issuer: String,
    /// The serial number in hexadecimal, upper case.
    pub(crate) serial: String,
    /// SHA-256 of the certificate in hexadecimal, lower case.
    pub(crate) fingerprint: String,
    /// When it ends.
    pub(crate) not_after: SystemTime,
}

impl ClientCertificate {
    /// Reads a chain, the client's own certificate first. `None` if that is empty or no certificate.
    pub(crate) fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let own = chain.first()?;
        let (_, parsed) = X509Certificate::from_der(own).ok()?;
        Some(Self {
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            serial: hex(parsed.raw_serial(), true),
            fingerprint: hex(digest::digest(&digest::SHA256, own).as_ref(), false),
            not_after: time(parsed.validity().not_after.timestamp()),
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
        })
    }

    /// The certificate as `Client-Cert` has it: a byte sequence (RFC 9440, section 2.2).
    pub(crate) fn field(&self) -> String {
        let own = self.chain.first().map_or(&[][..], |own| own);
        format!(":{}:", STANDARD.encode(own))
    }
}

/// A time of a certificate, in seconds since 1970.
pub(crate) fn time(seconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        _ = if upper {
            write!(text, "{byte:02X}")
        } else {
            write!(text, "{byte:02x}")
        };
    }
    text
}

/// A distinguished name (RFC 4514): the last part first, special characters escaped. Everything but visible ASCII is
/// escaped too, so that the text can be the value of a header.
pub(crate) fn name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (place, part) in parts.into_iter().rev().enumerate() {
        if place > 0 {
            text.push(',');
        }
        for (place, attribute) in part.iter().enumerate() {
            if place > 0 {
                text.push('+');
            }
            put_attribute(&mut text, attribute);
        }
    }
    text
}

/// Short names of attributes: those of RFC 4514, section 3, and those that OpenSSL has beside them.
const ATTRIBUTES: [(&str, &str); 14] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

fn put_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let id = attribute.attr_type().to_id_string();
    let short = ATTRIBUTES.iter().find(|(known, _)| *known == id);
    match (short, attribute.as_str()) {
        (Some((_, short)), Ok(value)) => {
            text.push_str(short);
            text.push('=');
            put_value(text, value);
        }
        // The encoding itself (RFC 4514, section 2.4).
        _ => {
            text.push_str(short.map_or(&id, |(_, short)| short));
            text.push_str("=#");
            let value = attribute.attr_value();
            let tag = [value.header.tag().0 as u8];
            let mut encoded = tag.to_vec();
            put_length(&mut encoded, value.data.len());
            encoded.extend_from_slice(value.data);
            text.push_str(&hex(&encoded, false));
        }
    }
}

/// The length of a value in DER.
fn put_length(encoded: &mut Vec<u8>, length: usize) {
    let bytes = length.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = &bytes[zeros..];
    if length < 0x80 {
        encoded.push(length as u8);
    } else {
        encoded.push(0x80 | bytes.len() as u8);
        encoded.extend_from_slice(bytes);
    }
}

/// RFC 4514, section 2.4.
fn put_value(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let is_outer_space = byte == b' ' && (at == 0 || at == last);
        let is_first_hash = byte == b'#' && at == 0;
        if is_outer_space || is_first_hash || b"\"+,;<>\\=".contains(&byte) {
            text.push('\\');
            text.push(char::from(byte));
        } else if (b' '..=b'~').contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('\\');
            text.push_str(&hex(&[byte], true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SerialNumber};

    fn subject(parts: Vec<(DnType, DnValue)>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind, value);
        }
        params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xff]));
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        ClientCertificate::new(&[made.der().clone()]).unwrap()
    }

    #[test]
    fn subject_has_its_last_part_first() {
        let made = subject(vec![
            (DnType::CountryName, "DE".into()),
            (DnType::OrganizationName, "Example Org".into()),
            (DnType::CommonName, "ann".into()),
        ]);
        assert_eq!(made.subject, "CN=ann,O=Example Org,C=DE");
        assert_eq!(made.issuer, made.subject);
        assert_eq!(made.serial, "0AFF");
        let digest = digest::digest(&digest::SHA256, &made.chain[0]);
        assert_eq!(made.fingerprint, hex(digest.as_ref(), false));
        assert!(made.field().starts_with(":MII") && made.field().ends_with(':'));
    }

    #[test]
    fn value_cannot_be_taken_for_another_part_or_another_header() {
        let said = |value: &str| subject(vec![(DnType::CommonName, value.into())]).subject;
        assert_eq!(said("a,O=b"), "CN=a\\,O\\=b");
        assert_eq!(
            said("a\r\nSSL-Client-Verify: x"),
            "CN=a\\0D\\0ASSL-Client-Verify: x"
        );
        assert_eq!(said("# \"+;<>\\ "), "CN=\\# \\\"\\+\\;\\<\\>\\\\\\ ");
        assert_eq!(said("é"), "CN=\\C3\\A9");
        assert_eq!(said(" "), "CN=\\ ");
    }

    #[test]
    fn unknown_attribute_is_given_by_its_number_and_its_encoding() {
        let kind = DnType::CustomDnType(vec![1, 2, 3, 4]);
        assert_eq!(
            subject(vec![(kind, "ab".into())]).subject,
            "1.2.3.4=#0c026162"
        );
        let long = "x".repeat(200);
        let kind = DnType::CustomDnType(vec![1, 2, 3, 4]);
        let said = subject(vec![(kind, long.as_str().into())]).subject;
        assert!(said.starts_with("1.2.3.4=#0c81c87878"), "{said}");
    }

    #[test]
    fn chain_without_a_certificate_is_none() {
        assert!(ClientCertificate::new(&[]).is_none());
        assert!(ClientCertificate::new(&[CertificateDer::from(vec![0x30, 0])]).is_none());
    }
}
