//! Certificates of clients: a request is served by a connection alone that was asked for a certificate if the request's
//! host wants that. Others get 421 (RFC 9110, section 15.5.20). The backend is told about the certificate, and nothing
//! that the client says about itself under such a name.

use std::sync::Arc;

use hyper::StatusCode;
use lb_http1::{Fields, Name};

use super::https::is_acme_challenge;
use super::{Filter, Refusal, Verdict};
use crate::forwarded::Origin;
use crate::request::{Backends, Request};
use crate::routes::hostname;
use crate::rules;
use crate::tls::ClientAuth;
use lb_config::http::{HeaderRule, Operation};

struct ClientCertificates {
    /// `None` for a service that asks for no certificates.
    auth: Option<Arc<ClientAuth>>,
    /// Names of the fields that tell about the certificate, as variables: lower case, with `_` for all but letters and
    /// digits.
    names: Vec<String>,
}

/// Fields that the backend gets by themselves.
const VERIFY: &str = "SSL-Client-Verify";
const SUBJECT: &str = "SSL-Client-Subject";
const ISSUER: &str = "SSL-Client-Issuer";
const SERIAL: &str = "SSL-Client-Serial";
const FINGERPRINT: &str = "SSL-Client-Fingerprint";

/// Beginnings of names that proxies use for the certificate, written as variables: ours, those of mod_ssl and of many
/// examples, and those of RFC 9440.
const STARTS: [&[u8]; 3] = [b"ssl_client_", b"x_ssl_client_", b"client_cert"];

pub(super) fn filter<'a>(
    auth: Option<Arc<ClientAuth>>,
    rules: impl Iterator<Item = &'a HeaderRule>,
) -> Option<Box<dyn Filter>> {
    let tells = |rule: &&HeaderRule| match &rule.operation {
        Operation::Set(value) | Operation::Add(value) => value.names_client_certificate(),
        Operation::Remove => false,
    };
    let variable = |byte| char::from(as_variable(byte));
    let name = |rule: &HeaderRule| rule.name.as_str().bytes().map(variable).collect();
    let names: Vec<String> = rules.filter(tells).map(name).collect();
    let is_needed = auth.is_some() || !names.is_empty();
    is_needed.then(|| Box::new(ClientCertificates { auth, names }) as Box<dyn Filter>)
}

impl Filter for ClientCertificates {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        self.drop_claims(&mut request.head.fields);
        if let Some(auth) = &self.auth {
            admit(auth, request)?;
            tell(&mut request.head.fields, &request.origin);
        }
        Ok(None)
    }
}

impl ClientCertificates {
    /// Drops fields of the client that an application may take for ours. CGI and the like make a variable of each, with
    /// `_` for everything but letters and digits.
    fn drop_claims(&self, fields: &mut Fields) {
        let is_ours = |name: &[u8]| {
            let begins = |start: &&[u8]| {
                let bytes = name.iter().map(|byte| as_variable(*byte));
                name.len() >= start.len() && bytes.zip(*start).all(|(a, b)| a == *b)
            };
            let is_same = |known: &String| known.len() == name.len() && begins(&known.as_bytes());
            STARTS.iter().any(begins) || self.names.iter().any(is_same)
        };
        fields.retain(|name, known| known != Name::Other || !is_ours(name));
    }
}

/// A byte of a header's name in the name of a variable.
fn as_variable(byte: u8) -> u8 {
    match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'_',
    }
}

/// Whether the connection may carry the request.
fn admit(auth: &ClientAuth, request: &Request) -> Result<(), Refusal> {
    let host = std::str::from_utf8(request.head.host()).unwrap_or_default();
    let is_good = match (auth.asks(Some(hostname(host))), &request.origin.client) {
        (false, None) => true,
        (true, Some(presented)) => auth.admits(presented),
        (true, None) if !request.is_tls() => {
            if auth.is_required() && !is_acme_challenge(&request.head) {
                return Err(refusal(StatusCode::FORBIDDEN, "certificate"));
            }
            true
        }
        (true, None) | (false, Some(_)) => false,
    };
    match is_good {
        true => Ok(()),
        false => Err(refusal(StatusCode::MISDIRECTED_REQUEST, "misdirected")),
    }
}

fn refusal(status: StatusCode, why: &'static str) -> Refusal {
    Refusal {
        why: Some(why),
        ..status.into()
    }
}

/// Tells the backend about the certificate.
fn tell(fields: &mut Fields, origin: &Origin) {
    let mut put = |name: &str, value: &str| fields.append_called(name.as_bytes(), value.as_bytes());
    put(VERIFY, rules::verify(origin));
    let Some(certificate) = origin.certificate() else {
        return;
    };
    put(SUBJECT, &certificate.subject);
    put(ISSUER, &certificate.issuer);
    put(SERIAL, &certificate.serial);
    put(FINGERPRINT, &certificate.fingerprint);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_our_names_is_dropped() {
        let claims = ClientCertificates {
            auth: None,
            names: vec!["x_client_dn".to_owned()],
        };
        let is_kept = |name: &str| {
            let mut fields = Fields::new();
            fields.append_called(name.as_bytes(), b"CN=root");
            claims.drop_claims(&mut fields);
            fields.iter().next().is_some()
        };
        for name in [
            VERIFY,
            "ssl_client_subject",
            "SSL.Client|Serial",
            "X-SSL-Client-CN",
            "Client-Cert",
            "client.cert.chain",
            "X-Client-DN",
            "x!client~dn",
        ] {
            assert!(!is_kept(name), "{name}");
        }
        for name in [
            "SSL-Session",
            "X-Client-DN-2",
            "X-Client",
            "Client",
            "Cookie",
        ] {
            assert!(is_kept(name), "{name}");
        }
    }
}
