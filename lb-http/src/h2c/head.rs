//! Heads and trailers, from and to the form of the crate `h2`.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use lb_http1::{Fields, Framing, Name, RequestHead, ResponseHead};

/// Whether a message is one of gRPC.
pub(crate) fn is_grpc(fields: &Fields) -> bool {
    fields.get(Name::ContentType).is_some_and(is_grpc_type)
}

/// Whether a media type is `application/grpc`, perhaps with a format (`+proto`) or parameters.
pub(crate) fn is_grpc_type(kind: &[u8]) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let begins = kind.get(..TYPE.len());
    begins.is_some_and(|begin| begin.eq_ignore_ascii_case(TYPE))
        && matches!(kind.get(TYPE.len()), None | Some(b'+' | b';' | b' '))
}

/// The head of a request whose body has this framing; `None` if its target cannot be sent over HTTP/2.
///
/// The scheme is that of this hop, as servers compare it with their transport; `X-Forwarded-Proto` has
/// that of the client.
pub(super) fn request(head: &RequestHead, framing: Framing) -> Option<Request<()>> {
    let path = PathAndQuery::try_from(head.written_target()).ok()?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    let authority = Authority::try_from(head.host()).ok();
    let has_authority = authority.is_some();
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path);
    if let Some(authority) = authority {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority);
    }
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.version_mut() = match has_authority {
        true => Version::HTTP_2,
        // `h2` takes a path alone from a request of HTTP/1.1, whose Host then stays unchanged.
        false => Version::HTTP_11,
    };
    let headers = request.headers_mut();
    headers.reserve(head.fields.len() + 1);
    for (name, value) in head.fields.iter() {
        // A connection of HTTP/2 has no fields of its own (RFC 9113, section 8.2.2).
        match Name::of(name) {
            Name::Connection => {}
            Name::Host if has_authority => {}
            _ => append(headers, name, value),
        }
    }
    if let Framing::Length(length) = framing {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    Some(request)
}

/// The head of an answer, interim ones included.
pub(super) fn answer<T>(response: &Response<T>) -> ResponseHead {
    let mut head = ResponseHead::new(response.status());
    append_all(&mut head.fields, response.headers());
    head
}

/// Header fields out of the form of the crate `h2`.
pub(crate) fn fields_of(headers: &HeaderMap) -> Fields {
    let mut fields = Fields::new();
    append_all(&mut fields, headers);
    fields
}

/// Header fields in the form of the crate `h2`.
pub(crate) fn headers_of(fields: &Fields) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields.iter() {
        append(&mut headers, name, value);
    }
    headers
}

fn append_all(fields: &mut Fields, headers: &HeaderMap) {
    for (name, value) in headers {
        fields.append_called(name.as_str().as_bytes(), value.as_bytes());
    }
}

fn append(headers: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_http1::request::Limits;

    const LIMITS: Limits = Limits {
        bytes: 1000,
        lines: 10,
        target: 100,
    };

    fn request_of(text: &str, framing: Framing) -> Option<Request<()>> {
        let parsed = RequestHead::parse(text.as_bytes(), LIMITS).unwrap();
        request(&parsed.expect("a whole head").0, framing)
    }

    #[test]
    fn h2_8_3_1_host_becomes_the_authority() {
        let text = "POST /a?b HTTP/1.1\r\nHost: a.test:80\r\nConnection: te\r\nTE: trailers\r\n\
                    X-CamelCase: 1\r\n\r\n";
        let request = request_of(text, Framing::Length(5)).unwrap();
        assert_eq!(request.uri(), "http://a.test:80/a?b");
        let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["te", "x-camelcase", "content-length"]);
    }

    #[test]
    fn host_that_is_no_authority_stays_a_field() {
        let request = request_of("GET / HTTP/1.1\r\nHost: 2001:db8::1\r\n\r\n", Framing::None);
        let request = request.unwrap();
        assert_eq!(
            (request.uri(), request.version()),
            (&Uri::from_static("/"), Version::HTTP_11)
        );
        assert_eq!(request.headers()["host"], "2001:db8::1");
        let without = request_of("GET / HTTP/1.0\r\n\r\n", Framing::None).unwrap();
        assert_eq!(without.uri(), "/");
    }

    #[test]
    fn target_that_http_2_cannot_carry_is_none() {
        assert!(request_of("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None).is_none());
        assert!(request_of("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None).is_some());
    }

    #[test]
    fn grpc_is_known_by_its_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc; charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut fields = Fields::new();
            fields.append(Name::ContentType, kind.as_bytes());
            assert_eq!(is_grpc(&fields), expected, "{kind}");
        }
        assert!(!is_grpc(&Fields::new()));
    }
}
