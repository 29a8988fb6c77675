//! Handshakes in memory, between common client settings and the server's.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, DigitallySignedStruct, Error, HandshakeKind,
    ProtocolVersion, ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use super::testing::{Made, Written};
use super::{Certificates, ServerConfigs, TicketKeys, provider};
use lb_config::http::{Tls, TlsVersion};

/// Takes any certificate: which one it was is asked afterwards.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The settings of a client that takes any certificate of a server.
pub(super) fn trusting(
    version: &'static SupportedProtocolVersion,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
}

fn client(version: &'static SupportedProtocolVersion, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut config = trusting(version).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn server(certificates: &Arc<Certificates>, tickets: &TicketKeys) -> Arc<ServerConfig> {
    of_version(certificates, TlsVersion::V1_2, tickets)
}

fn of_version(
    certificates: &Arc<Certificates>,
    min_version: TlsVersion,
    tickets: &TicketKeys,
) -> Arc<ServerConfig> {
    let tls = Tls {
        listen: Vec::new(),
        certificates: Vec::new(),
        min_version,
        http2: true,
        redirect_http: false,
        hsts: None,
        client: None,
    };
    let configs = ServerConfigs::new(Arc::clone(certificates), &tls, tickets, None).unwrap();
    configs.for_all().unwrap().0
}

/// Shakes hands, says a word each way (so that tickets arrive), and gives back both ends.
pub(super) fn meet(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    for _ in 0..4 {
        pass(&mut client, &mut server)?;
    }
    server.writer().write_all(b"word").unwrap();
    pass(&mut client, &mut server)?;
    let mut word = [0; 4];
    client.reader().read_exact(&mut word).unwrap();
    Ok((client, server))
}

fn pass(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), Error> {
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    while !wire.is_empty() {
        let taken = server.read_tls(&mut wire.as_slice()).unwrap();
        wire.drain(..taken);
        server.process_new_packets()?;
    }
    server.write_tls(&mut wire).unwrap();
    while !wire.is_empty() {
        let taken = client.read_tls(&mut wire.as_slice()).unwrap();
        wire.drain(..taken);
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn both_versions_are_spoken_and_the_minimum_is_kept() {
    let files = Written::new(&Made::new(&["a.test"]));
    let certificates = Certificates::load(&[files.pair()]).unwrap();
    let tickets = TicketKeys::new().unwrap();
    let both = server(&certificates, &tickets);
    let version = |server: &_, version| {
        let (client, _) = meet(&client(version, &[]), server, "a.test").ok()?;
        client.protocol_version()
    };
    assert_eq!(version(&both, &TLS12), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(version(&both, &TLS13), Some(ProtocolVersion::TLSv1_3));
    let newest = of_version(&certificates, TlsVersion::V1_3, &tickets);
    assert_eq!(version(&newest, &TLS12), None);
    assert_eq!(version(&newest, &TLS13), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn the_server_name_picks_the_certificate() {
    let (one, other) = (Made::new(&["one.test"]), Made::new(&["*.other.test"]));
    let files = [Written::new(&one), Written::new(&other)];
    let certificates = Certificates::load(&[files[0].pair(), files[1].pair()]).unwrap();
    let server = server(&certificates, &TicketKeys::new().unwrap());
    let shown = |name| {
        let (client, _) = meet(&client(&TLS13, &[]), &server, name).unwrap();
        client.peer_certificates().unwrap()[0].to_vec()
    };
    assert_eq!(shown("one.test"), one.der());
    assert_eq!(shown("WWW.Other.Test"), other.der());
    assert_eq!(shown("nobody.test"), one.der());
}

#[test]
fn http_2_is_preferred_and_http_1_1_is_spoken() {
    let files = Written::new(&Made::new(&["a.test"]));
    let certificates = Certificates::load(&[files.pair()]).unwrap();
    let server = server(&certificates, &TicketKeys::new().unwrap());
    let agreed = |alpn: &[&str]| {
        let (client, _) = meet(&client(&TLS13, alpn), &server, "a.test").ok()?;
        Some(client.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(agreed(&["http/1.1", "h2"]), Some(Some(b"h2".to_vec())));
    assert_eq!(agreed(&["http/1.1"]), Some(Some(b"http/1.1".to_vec())));
    assert_eq!(agreed(&[]), Some(None));
    assert_eq!(agreed(&["smtp"]), None);
}

#[test]
fn a_session_is_resumed_also_after_a_reload_and_with_a_new_certificate() {
    for version in [&TLS12, &TLS13] {
        let files = Written::new(&Made::new(&["a.test"]));
        let tickets = TicketKeys::new().unwrap();
        let kind = |client: &_, server: &_, name| {
            let (client, _) = meet(client, server, name).unwrap();
            client.handshake_kind()
        };
        let before = server(&Certificates::load(&[files.pair()]).unwrap(), &tickets);
        let client = client(version, &[]);
        assert_eq!(kind(&client, &before, "a.test"), Some(HandshakeKind::Full));
        assert_eq!(
            kind(&client, &before, "a.test"),
            Some(HandshakeKind::Resumed)
        );
        files.replace(&Made::new(&["a.test"]));
        let after = server(&Certificates::load(&[files.pair()]).unwrap(), &tickets);
        assert_eq!(
            kind(&client, &after, "a.test"),
            Some(HandshakeKind::Resumed)
        );
        let other_keys = TicketKeys::new().unwrap();
        let stranger = server(&Certificates::load(&[files.pair()]).unwrap(), &other_keys);
        assert_eq!(
            kind(&client, &stranger, "a.test"),
            Some(HandshakeKind::Full)
        );
    }
}
