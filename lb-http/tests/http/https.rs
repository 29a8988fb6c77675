//! Plain requests of a service with TLS: redirects to HTTPS, and challenges of certificate authorities, which stay plain.

use super::{Backend, Echo, OK, Proxy, field, own_address};

/// A certificate in two files, gone when dropped.
pub(super) struct Certificate(tempfile::TempDir);

impl Certificate {
    pub(super) fn new() -> Self {
        let certificate = Self(tempfile::tempdir().unwrap());
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let [file, key] = certificate.paths();
        std::fs::write(file, made.cert.pem()).unwrap();
        std::fs::write(key, made.signing_key.serialize_pem()).unwrap();
        certificate
    }

    fn paths(&self) -> [std::path::PathBuf; 2] {
        ["cert.pem", "key.pem"].map(|name| self.0.path().join(name))
    }

    /// `[service.tls]` with it and a redirect of plain requests.
    pub(super) fn settings(&self) -> String {
        let [file, key] = self.paths();
        format!(
            "[service.tls]\nlisten = ['{}']\nredirect_http = true\n\
             certificates = [{{ certificate = '{}', key = '{}' }}]",
            own_address(),
            file.display(),
            key.display()
        )
    }
}

#[test]
fn challenge_of_an_acme_server_is_answered_over_plain_http() {
    let (echo, files) = (Echo::new(OK), Certificate::new());
    let proxy = Proxy::new(&[&echo.backend], &files.settings());
    let target = "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA";
    for target in [target, &format!("http://a.test{target}")] {
        let mut client = proxy.ask(&format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let (status, answer) = client.answer();
        assert_eq!(status, 200, "{target}: {answer}");
    }
}

#[test]
fn other_spellings_of_a_challenge_open_no_way_around_the_redirect() {
    let (backend, files) = (Backend::new(), Certificate::new());
    let proxy = Proxy::new(&[&backend], &files.settings());
    let mut client = proxy.connect();
    for target in [
        "/",
        "/.well-known/acme-challenge/",
        "/.well-known/acme-challenge/../../login",
        "/.well-known/acme-challenge/a/../../../login",
        "/.well-known/acme-challenge/%2e%2e%2f%2e%2e%2flogin",
        "/.well-known/acme-challenge/..%5c..%5clogin",
        "/.well-known/acme-challenge/..;/..;/login",
        "/.well-known/acme-challenge/%61",
        "/.well-known/acme-challenge/a%00/../../login",
        "/.well-known/acme-challenge/a?next=/login",
        "/%2ewell-known/acme-challenge/a",
        "//.well-known/acme-challenge/a",
    ] {
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
        let (status, answer) = client.answer();
        assert_eq!(status, 308, "{target}: {answer}");
        let location = field(&answer, "location").unwrap();
        assert!(location.starts_with("https://a.test:"), "{location}");
    }
    client.send(
        "POST /.well-known/acme-challenge/a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(client.status(), 308, "a challenge is a GET");
    backend.was_spared();
}
