//! The report of `lb-agent check` on certificates, also made before a start or a reload.

use std::collections::HashMap;
use std::time::SystemTime;

use super::load::{Loaded, Validity, load};
use super::names::Name;
use lb_config::Config;
use lb_config::http::CertificateFiles;

/// The findings on all certificates of a configuration, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Certificates that cannot be used at all: with one, a configuration is not put in force.
    pub unusable: Vec<String>,
    /// Certificates that clients will refuse, now or for the time being.
    pub refused: Vec<String>,
    /// Certificates that work, but perhaps not as expected.
    pub warnings: Vec<String>,
}

/// Reads all certificates of `config` and tells everything that is wrong with them at `now`.
pub fn check_config(config: &Config, now: SystemTime) -> Findings {
    let mut findings = Findings::default();
    let source = config.source.as_deref().unwrap_or(std::path::Path::new(""));
    // Services inside others stand in no place of their own.
    let written = config
        .services
        .iter()
        .filter(|service| !service.is_inside());
    for (index, service) in written.enumerate() {
        let tls = service.http.as_ref().and_then(|http| http.tls.as_ref());
        let files = tls.map_or(&[][..], |tls| &tls.certificates);
        for finding in check(files, now) {
            let line = format!(
                "{}:{}: service[{index}].tls.certificates[{}]: {}",
                source.display(),
                files[finding.index].line,
                finding.index,
                finding.message
            );
            let list = match finding.severity {
                Severity::Unusable => &mut findings.unusable,
                Severity::Refused => &mut findings.refused,
                Severity::Warning => &mut findings.warnings,
            };
            list.push(line);
        }
    }
    findings
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// It cannot be used at all.
    Unusable,
    /// Clients will refuse it.
    Refused,
    /// It works, and not as one may think.
    Warning,
}

/// Something to know about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// Which of the pairs, from 0.
    index: usize,
    /// How bad it is.
    severity: Severity,
    /// The problem and its remedy.
    message: String,
}

/// Reads all pairs and tells everything that is wrong with them at `now`.
fn check(pairs: &[CertificateFiles], now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut owners = Owners::new();
    for (index, pair) in pairs.iter().enumerate() {
        let mut add = |severity, message| {
            findings.push(Finding {
                index,
                severity,
                message,
            });
        };
        let loaded = match load(pair) {
            Ok(loaded) => loaded,
            Err(error) => {
                add(Severity::Unusable, error.to_string());
                continue;
            }
        };
        let file = pair.certificate.display();
        match loaded.validity(now) {
            Validity::Valid => {}
            Validity::ExpiresSoon(text) => add(Severity::Warning, format!("{file}: {text}")),
            Validity::Invalid(text) => add(Severity::Refused, format!("{file}: {text}")),
        }
        if loaded.names.is_empty() {
            let message = format!(
                "{file}: has no host name in it, so browsers refuse it (request it anew with the \
                 names of the site)"
            );
            add(Severity::Warning, message);
        }
        for name in taken(&loaded, index, &mut owners) {
            let message = format!(
                "{file}: {name} is in an earlier certificate too, which is the one that is used \
                 (remove one of them)"
            );
            add(Severity::Warning, message);
        }
    }
    findings
}

/// Names and kinds of keys (RFC 5246, section 7.4.1.4.1) with the first certificate that has both.
type Owners = HashMap<(Name, u8), usize>;

/// The names that an earlier certificate with the same kind of key has.
fn taken<'a>(loaded: &'a Loaded, index: usize, owners: &mut Owners) -> Vec<&'a Name> {
    let kind = u8::from(loaded.key.key.algorithm());
    let mut is_taken =
        |name: &&Name| *owners.entry(((*name).clone(), kind)).or_insert(index) != index;
    loaded.names.iter().filter(|name| is_taken(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tls::testing::{Kind, Made, Written};

    #[test]
    fn everything_wrong_is_told_at_once_with_its_certificate() {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let good = Written::new(&Made::new(&["a.test"]));
        let expired = Made::new(&["b.test"]).valid(now - 3 * day, now - day);
        let expired = Written::new(&expired);
        let missing = CertificateFiles {
            key: "/nowhere/key.pem".into(),
            ..good.pair()
        };
        let nameless = Written::new(&Made::new(&[]));
        let pairs = [good.pair(), expired.pair(), missing, nameless.pair()];
        let found = check(&pairs, now);
        let short: Vec<_> = found
            .iter()
            .map(|finding| (finding.index, finding.severity))
            .collect();
        assert_eq!(
            short,
            [
                (1, Severity::Refused),
                (2, Severity::Unusable),
                (3, Severity::Warning)
            ],
            "{found:?}"
        );
        assert!(found[0].message.contains("expired on"));
        assert!(found[1].message.contains("/nowhere/key.pem"));
    }

    #[test]
    fn a_name_in_two_certificates_is_told_unless_their_keys_are_of_two_kinds() {
        let one = Written::new(&Made::new(&["a.test", "b.test"]));
        let other = Written::new(&Made::new(&["b.test"]));
        let ed25519 = Written::new(&Made::of_kind(Kind::Ed25519, &["b.test"]));
        let found = check(
            &[one.pair(), other.pair(), ed25519.pair()],
            SystemTime::now(),
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0]
                .message
                .contains("b.test is in an earlier certificate")
        );
    }
}
