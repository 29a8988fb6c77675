//! The names of a certificate, and which certificate a client's server name (SNI) leads to.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

/// A host name that a certificate is for, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Name {
    /// One host.
    Exact(String),
    /// `*.` and this: hosts with one more label (RFC 9525, section 6.3).
    Wildcard(String),
}

impl Name {
    /// Reads a name as certificates have it; a dot at the end counts for nothing.
    pub(super) fn new(text: &str) -> Self {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(domain) => Self::Wildcard(domain.to_owned()),
            None => Self::Exact(text),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// Certificates of one name, in the order of the configuration: one for each kind of key.
type Candidates = Vec<Arc<CertifiedKey>>;

/// All certificates of a service by their names.
#[derive(Debug)]
pub(super) struct NameTable {
    exact: HashMap<String, Candidates>,
    wildcard: HashMap<String, Candidates>,
    first: Arc<CertifiedKey>,
}

impl NameTable {
    /// A table of certificates with their names; `None` without any certificate.
    pub(super) fn new<'a>(
        certificates: impl Iterator<Item = (&'a Arc<CertifiedKey>, &'a [Name])>,
    ) -> Option<Self> {
        let mut first = None;
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for (key, names) in certificates {
            first.get_or_insert_with(|| Arc::clone(key));
            for name in names {
                let candidates: &mut Candidates = match name {
                    Name::Exact(name) => exact.entry(name.clone()).or_default(),
                    Name::Wildcard(domain) => wildcard.entry(domain.clone()).or_default(),
                };
                candidates.push(Arc::clone(key));
            }
        }
        Some(Self {
            exact,
            wildcard,
            first: first?,
        })
    }

    /// The certificate for a client that asks for `name` and knows these signatures: an exact name
    /// before a wildcard, a wildcard before the first of all.
    pub(super) fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Arc<CertifiedKey> {
        let candidates = name.and_then(|name| {
            let parent = || name.split_once('.').map(|(_, parent)| parent);
            self.exact
                .get(name)
                .or_else(|| self.wildcard.get(parent()?))
        });
        let Some(candidates) = candidates else {
            return Arc::clone(&self.first);
        };
        let fitting = candidates
            .iter()
            .find(|key| key.key.choose_scheme(schemes).is_some());
        Arc::clone(fitting.unwrap_or(&candidates[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Kind, Made};

    const ALL: &[SignatureScheme] = &[
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ED25519,
    ];

    fn table(made: &[&Made]) -> NameTable {
        let keys: Vec<_> = made
            .iter()
            .map(|made| (made.certified(), made.names()))
            .collect();
        NameTable::new(keys.iter().map(|(key, names)| (key, names.as_slice()))).unwrap()
    }

    fn is(chosen: &Arc<CertifiedKey>, made: &Made) -> bool {
        chosen.cert[0].as_ref() == made.der()
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard_and_a_wildcard_before_the_first() {
        let first = Made::new(&["first.test"]);
        let wild = Made::new(&["*.example.com"]);
        let exact = Made::new(&["www.example.com", "example.com"]);
        let table = table(&[&first, &wild, &exact]);
        let chosen = |name| table.choose(name, ALL);
        assert!(is(&chosen(Some("www.example.com")), &exact));
        assert!(is(&chosen(Some("example.com")), &exact));
        assert!(is(&chosen(Some("api.example.com")), &wild));
        assert!(is(&chosen(Some("a.b.example.com")), &first));
        assert!(is(&chosen(Some("com")), &first));
        assert!(is(&chosen(None), &first));
    }

    #[test]
    fn of_two_certificates_of_one_name_the_client_gets_the_one_whose_signature_it_knows() {
        let ecdsa = Made::new(&["a.test"]);
        let ed25519 = Made::of_kind(Kind::Ed25519, &["a.test"]);
        let table = table(&[&ecdsa, &ed25519]);
        let chosen = |schemes: &[SignatureScheme]| table.choose(Some("a.test"), schemes);
        assert!(is(&chosen(ALL), &ecdsa));
        assert!(is(&chosen(&[SignatureScheme::ED25519]), &ed25519));
        assert!(is(&chosen(&[SignatureScheme::RSA_PKCS1_SHA256]), &ecdsa));
    }

    #[test]
    fn names_are_read_without_regard_to_case_and_a_dot_at_the_end() {
        assert_eq!(Name::new("WWW.Example.com."), Name::new("www.example.com"));
        assert_eq!(Name::new("*.a.test"), Name::Wildcard("a.test".into()));
        assert_eq!(Name::new("*.a.test").to_string(), "*.a.test");
    }
}
