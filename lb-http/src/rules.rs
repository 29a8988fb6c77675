//! Header rules and redirects at work: compiled templates, rendered for a request.

use std::cell::RefCell;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use lb_http1::Fields;

use super::forwarded::{self, Asker, Origin};
use super::routes::hostname;
use super::trace::TraceContext;
use lb_config::BackendAddress;
use lb_config::http::{HeaderRule, Operation, Part, Template, Variable};

/// The values of variables in one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    /// The service.
    pub service: &'a str,
    /// The connection.
    pub origin: &'a Origin,
    /// The client of the request.
    pub asker: &'a Asker,
    /// The method.
    pub method: &'a Method,
    /// Host as the request has it; empty if it has none.
    pub host: &'a [u8],
    /// Path and query as the request has them.
    pub target: &'a [u8],
    /// Its trace, if it has one.
    pub trace: Option<&'a TraceContext>,
    /// The backend, once it is chosen.
    pub backend: Option<&'a BackendAddress>,
}

/// Header rules, ready to be applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    name: HeaderName,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Set(Value),
    Add(Value),
    Remove,
}

/// A value: the same for every request, or rendered.
#[derive(Clone, Debug)]
enum Value {
    Fixed(HeaderValue),
    /// Clone of a value that is there already.
    ClientIp,
    RequestId,
    Template(Template),
}

impl Rules {
    /// Compiles `rules`, which are applied in their order.
    pub(crate) fn new<'a>(rules: impl IntoIterator<Item = &'a HeaderRule>) -> Self {
        let rule = |rule: &HeaderRule| Rule {
            name: rule.name.clone(),
            change: match &rule.operation {
                Operation::Set(template) => Change::Set(Value::new(template)),
                Operation::Add(template) => Change::Add(Value::new(template)),
                Operation::Remove => Change::Remove,
            },
        };
        Self(rules.into_iter().map(rule).collect())
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes the `fields` of an answer. A value that does not make a header, which an odd Host or target can
    /// bring about, leaves its header unset.
    pub(crate) fn apply(&self, fields: &mut Fields, values: &Values<'_>) {
        self.change(fields, values, Fields::remove_called);
    }

    /// Changes those of a request: where a header is set or removed, names that applications take for it go too.
    pub(crate) fn apply_to_request(&self, fields: &mut Fields, values: &Values<'_>) {
        self.change(fields, values, forwarded::remove_alike);
    }

    fn change(&self, fields: &mut Fields, values: &Values<'_>, remove: fn(&mut Fields, &[u8])) {
        for rule in &self.0 {
            let name = rule.name.as_str().as_bytes();
            match &rule.change {
                Change::Set(value) => {
                    remove(fields, name);
                    value.render(values, |value| fields.append_called(name, value));
                }
                Change::Add(value) => {
                    value.render(values, |value| fields.append_called(name, value));
                }
                Change::Remove => remove(fields, name),
            }
        }
    }
}

impl Value {
    fn new(template: &Template) -> Self {
        let fixed = template.fixed().map(HeaderValue::from_str);
        match (fixed, template.parts.as_slice()) {
            (Some(Ok(value)), _) => Self::Fixed(value),
            (_, [Part::Variable(Variable::ClientIp)]) => Self::ClientIp,
            (_, [Part::Variable(Variable::RequestId)]) => Self::RequestId,
            _ => Self::Template(template.clone()),
        }
    }

    /// Hands the value to `put`, if it makes a header: one whose variables are all empty does not.
    fn render(&self, values: &Values<'_>, put: impl FnOnce(&[u8])) {
        match self {
            Self::Fixed(value) => put(value.as_bytes()),
            Self::ClientIp => put(values.asker.ip_text.as_bytes()),
            Self::RequestId => put(values.asker.request_id.as_bytes()),
            Self::Template(template) => rendered(template, values, |text| {
                // As nginx does: `$backend` of an answer of our own makes no header.
                if !text.is_empty() && is_value(text) {
                    put(text);
                }
            }),
        }
    }
}

/// Whether a text can be the value of a header (RFC 9110, section 5.5).
fn is_value(text: &[u8]) -> bool {
    !text
        .iter()
        .any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f)
}

/// The value of Location for a redirect; `None` if the request makes it none.
pub(crate) fn location(template: &Template, values: &Values<'_>) -> Option<Vec<u8>> {
    rendered(template, values, |text| {
        is_value(text).then(|| text.to_vec())
    })
}

thread_local! {
    /// The buffer for rendered values, before they are copied to their place.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn rendered<T>(template: &Template, values: &Values<'_>, take: impl FnOnce(&[u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|text| {
        text.clear();
        for part in &template.parts {
            match part {
                Part::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
                Part::Variable(variable) => variable_into(text, *variable, values),
            }
        }
        take(text)
    })
}

/// The result of the verification of the client's certificate, as nginx and Apache have it.
pub(crate) fn verify(origin: &Origin) -> &'static str {
    match origin.certificate() {
        Some(_) => "SUCCESS",
        None => "NONE",
    }
}

fn variable_into(text: &mut Vec<u8>, variable: Variable, values: &Values<'_>) {
    let target = values.target;
    let path_end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let hostname = || std::str::from_utf8(values.host).map_or("", hostname);
    let mut put = |bytes: &[u8]| text.extend_from_slice(bytes);
    let certificate = || values.origin.certificate();
    match variable {
        Variable::ClientCertVerify => put(verify(values.origin).as_bytes()),
        Variable::ClientCertSubject => put(certificate().map_or("", |it| &it.subject).as_bytes()),
        Variable::ClientCertIssuer => put(certificate().map_or("", |it| &it.issuer).as_bytes()),
        Variable::ClientCertSerial => put(certificate().map_or("", |it| &it.serial).as_bytes()),
        Variable::ClientCertFingerprint => {
            put(certificate().map_or("", |it| &it.fingerprint).as_bytes());
        }
        Variable::ClientCert => {
            if let Some(certificate) = certificate() {
                put(certificate.field().as_bytes());
            }
        }
        Variable::ClientIp => put(values.asker.ip_text.as_bytes()),
        Variable::RemotePort => put(values.origin.peer.port().to_string().as_bytes()),
        Variable::Host => put(values.host),
        Variable::Hostname => put(hostname().as_bytes()),
        Variable::Scheme => put(forwarded::scheme(values.asker.https).as_bytes()),
        Variable::ServerPort => put(values.origin.local.port().to_string().as_bytes()),
        Variable::Method => put(values.method.as_str().as_bytes()),
        Variable::Uri => put(target),
        Variable::Path => put(&target[..path_end]),
        Variable::Query => put(target.get(path_end + 1..).unwrap_or_default()),
        Variable::RequestId => put(values.asker.request_id.as_bytes()),
        Variable::TraceId => {
            if let Some(context) = values.trace {
                put(context.trace.as_bytes());
            }
        }
        Variable::Service => put(values.service.as_bytes()),
        Variable::Backend => {
            if let Some(backend) = values.backend {
                put(backend.to_string().as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::LazyLock;

    use super::*;
    use crate::client_cert::{ClientCertificate, Presented};
    use lb_config::parse;
    use rustls::pki_types::CertificateDer;

    fn rules(lines: &str) -> Rules {
        let text = format!(
            "[[service]]\nname = 'app'\nmode = 'http'\nlisten = ['0.0.0.0:80']\n[service.http]\nresponse_headers = [{lines}]"
        );
        let config = parse(&text, std::path::Path::new("f")).unwrap();
        let http = config.services[0].http.as_ref().unwrap();
        Rules::new(&http.settings.response_headers)
    }

    fn certificate() -> ClientCertificate {
        static MADE: LazyLock<CertificateDer<'static>> = LazyLock::new(|| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::default();
            params.self_signed(&key).unwrap().der().clone()
        });
        ClientCertificate::new(std::slice::from_ref(&MADE)).unwrap()
    }

    fn applied(lines: &str, mut headers: Fields) -> Vec<(String, String)> {
        let peer = "203.0.113.9:51000".parse().unwrap();
        let mut origin = Origin::new(peer, "192.0.2.1:80".parse().unwrap(), false, &[]);
        origin.client = Some(Rc::new(Presented {
            certificate: Some(certificate()),
            verified_by: Cell::new(None),
        }));
        let asker = Asker {
            ip: origin.peer.ip(),
            ip_text: "203.0.113.9".into(),
            https: true,
            request_id: forwarded::RequestId::of(b"abc").unwrap(),
        };
        let backend = "unix:/run/a.sock".parse().unwrap();
        let parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = TraceContext::parse(parent).unwrap();
        let values = Values {
            service: "app",
            origin: &origin,
            asker: &asker,
            method: &Method::GET,
            host: b"Example.com:8080",
            target: b"/a/b?c=d",
            trace: Some(&trace),
            backend: Some(&backend),
        };
        rules(lines).apply(&mut headers, &values);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        headers
            .iter()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    #[test]
    fn every_variable_has_a_value() {
        let certificate = certificate();
        let field = certificate.field();
        let expected = [
            ("$client_cert_verify", "SUCCESS"),
            ("$client_cert_subject", &*certificate.subject),
            ("$client_cert_issuer", &*certificate.issuer),
            ("$client_cert_serial", &*certificate.serial),
            ("$client_cert_fingerprint", &*certificate.fingerprint),
            ("$client_cert", &*field),
            ("$client_ip", "203.0.113.9"),
            ("$remote_port", "51000"),
            ("$host", "Example.com:8080"),
            ("$hostname", "Example.com"),
            ("$scheme", "https"),
            ("$server_port", "80"),
            ("$method", "GET"),
            ("$uri", "/a/b?c=d"),
            ("$path", "/a/b"),
            ("$query", "c=d"),
            ("$request_id", "abc"),
            ("$trace_id", "0af7651916cd43dd8448eb211c80319c"),
            ("$backend", "unix:/run/a.sock"),
            ("$service", "app"),
        ];
        assert_eq!(expected.len(), Variable::ALL.len());
        for (variable, value) in expected {
            for (text, value) in [
                (variable.to_owned(), value.to_owned()),
                (format!("<{variable}>"), format!("<{value}>")),
            ] {
                let line = format!("{{ set = 'x', value = '{text}' }}");
                let headers = applied(&line, Fields::new());
                assert_eq!(headers, [("x".to_owned(), value)], "{text}");
            }
        }
    }

    #[test]
    fn rules_are_applied_in_their_order() {
        let mut before = Fields::new();
        for (name, value) in [("a", "1"), ("A", "2"), ("b", "3")] {
            before.append_called(name.as_bytes(), value.as_bytes());
        }
        let lines = "{ set = 'A', value = 'x' }, { add = 'A', value = '$$' }, { remove = 'b' }";
        let expected = [("a", "x"), ("a", "$")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(applied(lines, before), expected);
    }
}
