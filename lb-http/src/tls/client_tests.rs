//! Handshakes in memory with certificates of clients.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, Error, HandshakeKind, ServerConnection,
    SupportedProtocolVersion,
};

use super::testing::{Made, Written};
use super::testing_clients::{Authority, Client, Files};
use super::tests::{meet, trusting};
use super::{Certificates, ClientAuth, ServerConfigs, TicketKeys};
use crate::client_cert::{ClientCertificate, Presented, TermsId};
use lb_config::http::{ClientCertificates, ClientPolicy, HostPattern, Tls, TlsVersion};

const DAY: Duration = Duration::from_secs(86_400);

/// A service that asks for certificates.
struct Service {
    auth: Arc<ClientAuth>,
    configs: ServerConfigs,
}

impl Service {
    fn new(settings: &ClientCertificates) -> Self {
        Self::with(
            ClientAuth::load(settings).unwrap(),
            &TicketKeys::new().unwrap(),
        )
    }

    fn with(auth: Arc<ClientAuth>, tickets: &TicketKeys) -> Self {
        let files = Written::new(&Made::new(&["a.test"]));
        let certificates = Certificates::load(&[files.pair()]).unwrap();
        let client = Some(Arc::clone(&auth));
        let configs = ServerConfigs::new(certificates, &tls(), tickets, client).unwrap();
        Self { auth, configs }
    }

    /// A handshake; the error is the server's.
    fn meet(&self, client: &Arc<ClientConfig>, name: &str) -> Result<Met, Error> {
        let (config, terms) = self.configs.for_name(Some(name)).unwrap();
        let (_, server) = meet(client, &config, name)?;
        Ok(Met { server, terms })
    }

    fn refused(&self, client: &Arc<ClientConfig>) -> Error {
        self.meet(client, "a.test").unwrap_err()
    }
}

/// A handshake that came to its end.
#[derive(Debug)]
struct Met {
    server: ServerConnection,
    terms: Option<TermsId>,
}

impl Met {
    fn is_resumed(&self) -> bool {
        self.server.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn presented(&self) -> Presented {
        let chain = self.server.peer_certificates();
        Presented {
            certificate: chain.and_then(ClientCertificate::new),
            verified_by: Cell::new(self.terms.filter(|_| !self.is_resumed())),
        }
    }
}

fn tls() -> Tls {
    Tls {
        listen: Vec::new(),
        certificates: Vec::new(),
        min_version: TlsVersion::V1_2,
        http2: true,
        redirect_http: false,
        hsts: None,
        client: None,
    }
}

fn with(client: Client, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let config = trusting(version).with_client_auth_cert(client.chain, client.key);
    Arc::new(config.unwrap())
}

fn without(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    Arc::new(trusting(version).with_no_client_auth())
}

/// Has a change of files taken over, which wants two looks.
fn look(auth: &ClientAuth) -> Option<Result<(), String>> {
    assert_eq!(auth.refresh(false), None);
    auth.refresh(false)
}

#[test]
fn client_is_served_with_a_certificate_of_the_authority_alone() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = Files::new(ours.pem());
    let service = Service::new(&files.settings(&[]));
    for version in [&TLS12, &TLS13] {
        let met = service.meet(&with(ours.client("ann", 1), version), "a.test");
        let presented = met.unwrap().presented();
        let certificate = presented.certificate.as_ref().unwrap();
        assert!(certificate.subject.contains("CN=ann"));
        assert!(certificate.issuer.contains("CN=ours"));
        assert!(service.auth.admits(&presented));
        assert_eq!(
            service.refused(&without(version)),
            Error::NoCertificatesPresented
        );
        assert_eq!(
            service.refused(&with(theirs.client("eve", 1), version)),
            Error::InvalidCertificate(CertificateError::UnknownIssuer)
        );
        let ended = ours.client_until("old", 2, SystemTime::now() - DAY);
        assert!(matches!(
            service.refused(&with(ended, version)),
            Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
        ));
    }
}

#[test]
fn optional_certificate_may_be_missing_but_not_wrong() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = Files::new(ours.pem());
    let settings = ClientCertificates {
        policy: ClientPolicy::Optional,
        ..files.settings(&[])
    };
    let service = Service::new(&settings);
    let met = service.meet(&without(&TLS13), "a.test").unwrap();
    assert!(met.presented().certificate.is_none());
    assert!(service.auth.admits(&met.presented()));
    let error = service.refused(&with(theirs.client("eve", 1), &TLS13));
    let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
    assert_eq!(error, unknown);
}

#[test]
fn only_the_named_hosts_are_asked() {
    let ours = Authority::new("ours");
    let files = Files::new(ours.pem());
    let settings = ClientCertificates {
        hosts: vec![
            HostPattern::Exact("admin.test".to_owned()),
            HostPattern::Wildcard(".in.test".to_owned()),
        ],
        ..files.settings(&[])
    };
    let service = Service::new(&settings);
    let asked = |name| service.auth.asks(Some(name));
    assert!(asked("admin.test") && asked("ADMIN.test") && asked("a.in.test"));
    assert!(!asked("in.test") && !asked(".in.test") && !asked("www.test"));
    assert!(!service.auth.asks(None));
    let stranger = without(&TLS13);
    assert!(service.meet(&stranger, "www.test").unwrap().terms.is_none());
    let error = service.meet(&stranger, "admin.test").unwrap_err();
    assert_eq!(error, Error::NoCertificatesPresented);
    assert!(service.configs.for_all().is_none());
}

#[test]
fn revoked_certificate_is_refused_from_the_next_list_on() {
    let ours = Authority::new("ours");
    let files = Files::new(ours.pem());
    let list = files.write("ours.crl", &ours.revoked_now(&[1]));
    let service = Service::new(&files.settings(std::slice::from_ref(&list)));
    let revoked = Error::InvalidCertificate(CertificateError::Revoked);
    assert_eq!(
        service.refused(&with(ours.client("one", 1), &TLS13)),
        revoked
    );
    let two = with(ours.client("two", 2), &TLS13);
    let before = service.meet(&two, "a.test").unwrap().presented();
    assert!(service.auth.admits(&before));
    files.write("ours.crl", &ours.revoked_now(&[1, 2]));
    assert_eq!(look(&service.auth), Some(Ok(())));
    assert!(!service.auth.admits(&before), "an open connection ends");
    assert_eq!(service.refused(&two), revoked, "also with a ticket");
    files.write("ours.crl", &ours.revoked_now(&[]));
    assert_eq!(look(&service.auth), Some(Ok(())));
    assert!(service.meet(&two, "a.test").is_ok());
}

#[test]
fn without_a_list_of_the_authority_nobody_is_served() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = Files::new(ours.pem());
    let soon = SystemTime::now() - DAY;
    for (text, error) in [
        (
            theirs.revoked_now(&[]),
            CertificateError::UnknownRevocationStatus,
        ),
        (
            ours.revoked(&[], soon),
            CertificateError::ExpiredRevocationList,
        ),
    ] {
        let list = files.write("a.crl", &text);
        let service = Service::new(&files.settings(&[list]));
        let found = service.refused(&with(ours.client("ann", 1), &TLS13));
        let Error::InvalidCertificate(found) = found else {
            panic!("{found:?}");
        };
        let is_expired = matches!(found, CertificateError::ExpiredRevocationListContext { .. });
        assert!(found == error || is_expired, "{found:?}");
        assert_eq!(service.auth.status().problems.len(), 1);
    }
}

#[test]
fn broken_list_leaves_the_one_before_in_force() {
    let ours = Authority::new("ours");
    let files = Files::new(ours.pem());
    let list = files.write("ours.crl", &ours.revoked_now(&[1]));
    let service = Service::new(&files.settings(std::slice::from_ref(&list)));
    files.write("ours.crl", "nothing");
    let problem = look(&service.auth).unwrap().unwrap_err();
    assert!(
        problem.contains("there is no revocation list in it"),
        "{problem}"
    );
    assert_eq!(service.auth.status().problems, [problem]);
    let revoked = Error::InvalidCertificate(CertificateError::Revoked);
    assert_eq!(
        service.refused(&with(ours.client("one", 1), &TLS13)),
        revoked
    );
    assert!(
        service
            .meet(&with(ours.client("two", 2), &TLS13), "a.test")
            .is_ok()
    );
}

#[test]
fn session_is_resumed_under_the_same_terms_alone() {
    for version in [&TLS12, &TLS13] {
        let ours = Authority::new("ours");
        let files = Files::new(ours.pem());
        let settings = files.settings(&[]);
        let service = Service::new(&settings);
        let client = with(ours.client("ann", 1), version);
        assert!(!service.meet(&client, "a.test").unwrap().is_resumed());
        let again = service.meet(&client, "a.test").unwrap();
        assert!(again.is_resumed());
        let presented = again.presented();
        assert!(presented.certificate.is_some(), "rustls restores it");
        assert_eq!(presented.verified_by.get(), None);
        assert!(service.auth.admits(&presented), "it is verified again");
        // The same files for another service.
        let other = Service::new(&settings);
        assert!(!other.meet(&client, "a.test").unwrap().is_resumed());
        // Another authority: the certificate of a ticket would be good otherwise.
        assert!(service.meet(&client, "a.test").is_ok());
        files.write("ca.pem", Authority::new("new").pem());
        assert_eq!(look(&service.auth), Some(Ok(())));
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(service.refused(&client), unknown);
        assert!(!service.auth.admits(&presented));
    }
}

#[test]
fn ticket_of_a_service_without_authorities_is_worth_nothing_to_one_with() {
    let ours = Authority::new("ours");
    let files = Files::new(ours.pem());
    let tickets = TicketKeys::new().unwrap();
    let settings = ClientCertificates {
        hosts: vec![HostPattern::Exact("admin.test".to_owned())],
        ..files.settings(&[])
    };
    let before = Service::with(ClientAuth::load(&settings).unwrap(), &tickets);
    let asks_all = ClientCertificates {
        hosts: Vec::new(),
        ..settings
    };
    let after = Service::with(ClientAuth::load(&asks_all).unwrap(), &tickets);
    for version in [&TLS12, &TLS13] {
        let client = without(version);
        before.meet(&client, "a.test").unwrap();
        assert!(before.meet(&client, "a.test").unwrap().is_resumed());
        assert_eq!(after.refused(&client), Error::NoCertificatesPresented);
    }
}

#[test]
fn certificate_of_a_ticket_that_has_ended_meanwhile_is_not_admitted() {
    let ours = Authority::new("ours");
    let files = Files::new(ours.pem());
    let service = Service::new(&files.settings(&[]));
    let ended = ours.client_until("old", 1, SystemTime::now() - DAY);
    let presented = |verified_by| Presented {
        certificate: ClientCertificate::new(&ended.chain),
        verified_by: Cell::new(verified_by),
    };
    assert!(!service.auth.admits(&presented(None)));
    let terms = service.configs.for_all().unwrap().1;
    assert!(!service.auth.admits(&presented(terms)));
}

#[test]
fn same_content_keeps_sessions_over_a_reload() {
    let ours = Authority::new("ours");
    let files = Files::new(ours.pem());
    let service = Service::new(&files.settings(&[]));
    let client = with(ours.client("ann", 1), &TLS13);
    service.meet(&client, "a.test").unwrap();
    files.write("ca.pem", ours.pem());
    assert_eq!(service.auth.refresh(true), Some(Ok(())));
    assert!(service.meet(&client, "a.test").unwrap().is_resumed());
}
