//! The report of `lb-agent check` on certificates, also made before a start or a reload.

use std::collections::HashMap;
use std::time::SystemTime;

use super::authorities::{self, Authorities};
use super::load::{LoadError, Loaded, Validity, load};
use super::names::Name;
use lb_config::Config;
use lb_config::http::{CertificateFiles, ClientCertificates};

/// The findings on all certificates of a configuration, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Certificates that cannot be used at all: with one, a configuration is not put in force.
    pub unusable: Vec<String>,
    /// Certificates that do not exist yet; they are waited for.
    pub absent: Vec<Absent>,
    /// Certificates that clients will refuse, now or for the time being.
    pub refused: Vec<String>,
    /// Certificates that work, but perhaps not as expected.
    pub warnings: Vec<String>,
}

/// A pair of files of which one does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The service that it is for.
    pub service: String,
    /// The pair.
    pub files: CertificateFiles,
    /// Whether the service has no other certificate.
    pub leaves_none: bool,
    /// The file and the consequence, a line.
    pub text: String,
}

impl Findings {
    /// All findings with which a configuration is put in force nevertheless.
    pub fn tolerated(&self) -> impl Iterator<Item = &str> {
        let absent = self.absent.iter().map(|absent| absent.text.as_str());
        let others = self.refused.iter().chain(&self.warnings);
        absent.chain(others.map(String::as_str))
    }
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
        if let Some(client) = tls.and_then(|tls| tls.client.as_ref()) {
            let place = format!(
                "{}:{}: service[{index}].tls.client_ca",
                source.display(),
                client.line
            );
            check_clients(client, &place, now, &mut findings);
        }
        let files = tls.map_or(&[][..], |tls| &tls.certificates);
        for finding in check(files, now) {
            let pair = &files[finding.index];
            let line = format!(
                "{}:{}: service[{index}].tls.certificates[{}]: {}",
                source.display(),
                pair.line,
                finding.index,
                finding.message
            );
            let list = match finding.severity {
                Severity::Absent { leaves_none } => {
                    findings.absent.push(Absent {
                        service: service.name.clone(),
                        files: pair.clone(),
                        leaves_none,
                        text: line,
                    });
                    continue;
                }
                Severity::Unusable => &mut findings.unusable,
                Severity::Refused => &mut findings.refused,
                Severity::Warning => &mut findings.warnings,
            };
            list.push(line);
        }
    }
    findings
}

/// Reads the files for the certificates of clients, and tells everything that is wrong with them at `now`.
fn check_clients(client: &ClientCertificates, place: &str, now: SystemTime, all: &mut Findings) {
    let read = match Authorities::load(client) {
        Ok(read) => read,
        Err(error) => {
            all.unusable.push(format!("{place}: {error}"));
            return;
        }
    };
    for finding in read.findings(now) {
        match finding {
            authorities::Finding::Refused(text) => all.refused.push(format!("{place}: {text}")),
            authorities::Finding::Warning(text) => all.warnings.push(format!("{place}: {text}")),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// It cannot be used at all.
    Unusable,
    /// It does not exist yet.
    Absent {
        /// Whether no other one is there.
        leaves_none: bool,
    },
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
    let all: Vec<_> = pairs.iter().map(load).collect();
    let leaves_none = !all.iter().any(Result::is_ok);
    let mut findings = Vec::new();
    let mut owners = Owners::new();
    for (index, (pair, read)) in pairs.iter().zip(&all).enumerate() {
        let mut add = |(severity, message)| {
            findings.push(Finding {
                index,
                severity,
                message,
            });
        };
        match read {
            Ok(loaded) => {
                let file = pair.certificate.display();
                let names = taken(loaded, index, &mut owners);
                let problems = problems(loaded, &names, now).into_iter();
                problems.for_each(|(severity, text)| add((severity, format!("{file}: {text}"))));
            }
            Err(error @ LoadError::Absent(_)) => add(absent(error, leaves_none)),
            Err(error) => add((Severity::Unusable, error.to_string())),
        }
    }
    findings
}

fn absent(error: &LoadError, leaves_none: bool) -> (Severity, String) {
    let meanwhile = if leaves_none {
        "until then TLS handshakes fail"
    } else {
        "until then its clients are shown another certificate"
    };
    let severity = Severity::Absent { leaves_none };
    (severity, format!("{error}; {meanwhile}"))
}

/// What is wrong with a certificate of which an earlier one has the names `taken`.
fn problems(loaded: &Loaded, taken: &[&Name], now: SystemTime) -> Vec<(Severity, String)> {
    let mut problems = Vec::new();
    match loaded.validity(now) {
        Validity::Valid => {}
        Validity::ExpiresSoon(text) => problems.push((Severity::Warning, text)),
        Validity::Invalid(text) => problems.push((Severity::Refused, text)),
    }
    if loaded.names.is_empty() {
        let text = "has no host name in it, so browsers refuse it (request it anew with the names \
                    of the site)";
        problems.push((Severity::Warning, text.to_owned()));
    }
    problems.extend(taken.iter().map(|name| {
        let text = format!(
            "{name} is in an earlier certificate too, which is the one that is used (remove one of \
             them)"
        );
        (Severity::Warning, text)
    }));
    problems
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
    use crate::tls::testing_clients::{Authority, Files};

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
        let mixed = CertificateFiles {
            key: expired.pair().key,
            ..good.pair()
        };
        let nameless = Written::new(&Made::new(&[]));
        let pairs = [good.pair(), expired.pair(), missing, mixed, nameless.pair()];
        let found = check(&pairs, now);
        let short: Vec<_> = found
            .iter()
            .map(|finding| (finding.index, finding.severity))
            .collect();
        assert_eq!(
            short,
            [
                (1, Severity::Refused),
                (2, Severity::Absent { leaves_none: false }),
                (3, Severity::Unusable),
                (4, Severity::Warning)
            ],
            "{found:?}"
        );
        assert!(found[0].message.contains("expired on"));
        let absent =
            "/nowhere/key.pem: does not exist yet; until then its clients are shown another";
        assert!(found[1].message.starts_with(absent), "{found:?}");
        assert!(found[2].message.contains("does not fit the key"));
    }

    fn of_clients(settings: &ClientCertificates) -> Findings {
        let mut findings = Findings::default();
        check_clients(settings, "f:1", SystemTime::now(), &mut findings);
        findings
    }

    #[test]
    fn authorities_of_clients_that_cannot_be_used_are_told() {
        let ours = Authority::new("ours");
        let files = Files::new(ours.pem());
        let settings = files.settings(&[]);
        assert_eq!(of_clients(&settings), Findings::default());
        for (text, expected) in [
            ("", "there is no certificate in it"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                "not a certificate",
            ),
        ] {
            files.write("ca.pem", text);
            let found = of_clients(&settings).unusable;
            assert!(
                found[0].starts_with("f:1: /") && found[0].contains(expected),
                "{found:?}"
            );
        }
        std::fs::remove_file(&settings.ca).unwrap();
        let found = of_clients(&settings).unusable;
        assert!(found[0].contains("cannot be read"), "{found:?}");
        files.write("ca.pem", ours.pem());
        let list = files.write("a.crl", ours.pem());
        let found = of_clients(&files.settings(&[list])).unusable;
        assert!(
            found[0].contains("there is no revocation list in it"),
            "{found:?}"
        );
    }

    #[test]
    fn revocation_list_that_refuses_clients_is_told() {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let files = Files::new(ours.pem());
        let good = files.write("good.crl", &ours.revoked_now(&[1]));
        let foreign = files.write("foreign.crl", &theirs.revoked_now(&[]));
        let day = Duration::from_secs(86_400);
        let ended = SystemTime::now() - day;
        let ended = files.write("ended.crl", &ours.revoked(&[], ended));
        let of = |lists: &[std::path::PathBuf]| of_clients(&files.settings(lists));
        assert_eq!(of(std::slice::from_ref(&good)), Findings::default());
        let found = of(&[ended]);
        assert!(found.refused[0].contains("expired on"), "{found:?}");
        let found = of(std::slice::from_ref(&foreign));
        assert!(
            found.refused[0].contains("there is no revocation list of"),
            "{found:?}"
        );
        assert!(
            found.warnings[0].contains("which is not in client_ca"),
            "{found:?}"
        );
        let found = of(&[good, foreign]);
        assert!(
            found.refused.is_empty() && found.warnings.len() == 1,
            "{found:?}"
        );
    }

    #[test]
    fn without_any_certificate_handshakes_are_said_to_fail() {
        let missing = CertificateFiles {
            certificate: "/nowhere/fullchain.pem".into(),
            key: "/nowhere/privkey.pem".into(),
            line: lb_config::Line(1),
        };
        let found = check(&[missing.clone(), missing], SystemTime::now());
        let alone = Severity::Absent { leaves_none: true };
        assert_eq!([found[0].severity, found[1].severity], [alone, alone]);
        assert!(found[0].message.contains("TLS handshakes fail"));
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
