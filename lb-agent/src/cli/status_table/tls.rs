//! A service's certificates in the heading of its table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anstyle::Style;

use super::{PLAIN, RED, YELLOW};
use crate::control::status::{CertificateStatus, TlsStatus};

const DAY: u64 = 86_400;
/// Days before the end of a certificate from which on it stands out.
const SOON: u64 = 14;

/// TLS and the certificate that ends first, as in "tls, certificate for example.com until 2027-01-03 (34 days)".
pub(super) fn word(tls: &TlsStatus, now: SystemTime) -> (String, Style) {
    let all = &tls.certificates;
    let ends = |it: &CertificateStatus| Some((it.not_after_unix_seconds?, names(it)));
    let Some((end, names)) = all.iter().filter_map(ends).min() else {
        return ("tls, no certificate in force".to_owned(), RED);
    };
    let others = match all.len() - 1 {
        0 => String::new(),
        others => format!(", {others} more"),
    };
    let (end, style) = until(end, now);
    let clients = match &tls.clients {
        Some(clients) if clients.policy == "require" => ", client certificates required",
        Some(_) => ", client certificates optional",
        None => "",
    };
    let text = format!("tls, certificate for {names} {end}{others}{clients}");
    (text, style)
}

/// The first name, and how many there are beside it; the file of one without any.
fn names(certificate: &CertificateStatus) -> String {
    match certificate.names.as_slice() {
        [] => certificate.file.clone(),
        [name] => name.clone(),
        [name, others @ ..] => format!("{name} and {} more", others.len()),
    }
}

fn until(end: u64, now: SystemTime) -> (String, Style) {
    let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(end)).to_string();
    let date = date.split('T').next().unwrap_or_default();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if now > end {
        return (format!("expired on {date}"), RED);
    }
    let days = (end - now) / DAY;
    let style = if days < SOON { YELLOW } else { PLAIN };
    let unit = if days == 1 { "day" } else { "days" };
    (format!("until {date} ({days} {unit})"), style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::ClientCertificatesStatus;

    /// 2027-01-03T12:00:00Z
    const END: u64 = 1_798_977_600;

    fn certificate(names: &[&str], end: u64) -> CertificateStatus {
        CertificateStatus {
            file: "/etc/cert.pem".to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            not_after_unix_seconds: Some(end),
            problem: None,
        }
    }

    fn words(certificates: Vec<CertificateStatus>, days_before: i64) -> (String, Style) {
        let tls = TlsStatus {
            listen: Vec::new(),
            certificates,
            clients: None,
        };
        let now = END.saturating_add_signed(-days_before * DAY as i64);
        word(&tls, UNIX_EPOCH + Duration::from_secs(now))
    }

    #[test]
    fn certificate_has_its_name_and_its_last_day() {
        let one = || vec![certificate(&["example.com"], END)];
        let said = "tls, certificate for example.com until 2027-01-03 (34 days)";
        assert_eq!(words(one(), 34), (said.to_owned(), PLAIN));
        let said = "tls, certificate for example.com until 2027-01-03 (1 day)";
        assert_eq!(words(one(), 1), (said.to_owned(), YELLOW));
        let said = "tls, certificate for example.com expired on 2027-01-03";
        assert_eq!(words(one(), -1), (said.to_owned(), RED));
    }

    #[test]
    fn certificates_of_clients_are_named_with_their_policy() {
        let asked = |policy: &str| TlsStatus {
            listen: Vec::new(),
            certificates: vec![certificate(&["a.test"], END)],
            clients: Some(ClientCertificatesStatus {
                policy: policy.to_owned(),
                hosts: Vec::new(),
                authorities: "/etc/ca.pem".to_owned(),
                revocation_lists: Vec::new(),
                problems: Vec::new(),
            }),
        };
        let now = UNIX_EPOCH + Duration::from_secs(END - 34 * DAY);
        for (policy, end) in [("require", "required"), ("optional", "optional")] {
            let (said, _) = word(&asked(policy), now);
            let end = format!("(34 days), client certificates {end}");
            assert!(said.ends_with(&end), "{said}");
        }
    }

    #[test]
    fn the_certificate_that_ends_first_is_named() {
        let several = vec![
            certificate(&["later.test"], END + DAY),
            certificate(&["a.test", "b.test", "c.test"], END),
        ];
        let (said, _) = words(several, 20);
        assert_eq!(
            said,
            "tls, certificate for a.test and 2 more until 2027-01-03 (20 days), 1 more"
        );
        assert!(
            words(vec![certificate(&[], END)], 20)
                .0
                .contains("/etc/cert.pem")
        );
        let absent = CertificateStatus {
            not_after_unix_seconds: None,
            ..certificate(&[], END)
        };
        let said = "tls, no certificate in force";
        assert_eq!(words(vec![absent], 20), (said.to_owned(), RED));
    }
}
