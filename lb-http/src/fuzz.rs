//! Properties that must hold for any bytes from the network, for the readers written here: entry
//! points of the fuzz targets in `fuzz/`, and of a test that runs them over changed samples.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_http1::body::{Decoder, Piece};
use lb_http1::request::Limits;
use lb_http1::{Fields, Framing, Name, RequestHead, ResponseHead};

use crate::files::{Ranges, Site, encoded, judge, ranges, sound};
use crate::forwarded::{self, Origin, value};
use crate::sticky::engineio::{self, Handshake};
use lb_config::http::{Files, ProxyVersion, Settings};
use lb_net::proxy_protocol::{self, Parsed};

/// A PROXY header is read the same in any split into pieces, and its content can be written again.
pub fn proxy_header(bytes: &[u8]) {
    match proxy_protocol::parse(bytes) {
        Parsed::Header { addresses, length } => {
            assert!(length <= bytes.len());
            for cut in 0..length {
                assert_eq!(proxy_protocol::parse(&bytes[..cut]), Parsed::Partial);
            }
            assert_eq!(
                proxy_protocol::parse(&bytes[..length]),
                Parsed::Header { addresses, length }
            );
            if let Some((client, local)) = addresses {
                let again = proxy_protocol::write(ProxyVersion::V2, client, local);
                let length = again.len();
                let expected = Parsed::Header { addresses, length };
                // Two families in one header are told as one.
                assert!(
                    client.is_ipv4() != local.is_ipv4()
                        || proxy_protocol::parse(&again) == expected
                );
            }
        }
        Parsed::Partial => {
            assert!(bytes.len() < proxy_protocol::LONGEST);
            let cuts = 0..bytes.len();
            cuts.for_each(|cut| assert_eq!(proxy_protocol::parse(&bytes[..cut]), Parsed::Partial));
        }
        Parsed::Wrong => {
            let is_header =
                |cut| matches!(proxy_protocol::parse(&bytes[..cut]), Parsed::Header { .. });
            assert!(!(0..bytes.len()).any(is_header));
        }
    }
}

/// The name of a file leads nowhere upwards, is the same when it is asked for by itself, and ranges are within the file.
pub fn files(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    for hidden in [false, true] {
        let site = Site::new(
            &Files {
                hidden,
                ..Files::default()
            },
            "",
        );
        let Some(target) = site.target(&path) else {
            continue;
        };
        let mut segments = target.name.split(|byte| *byte == b'/');
        let is_good =
            |segment: &[u8]| !matches!(segment, b"" | b"." | b"..") && !segment.contains(&0);
        assert!(target.name.is_empty() || segments.all(is_good));
        let slash = if target.is_directory { "/" } else { "" };
        let again = format!("/{}{slash}", encoded(&target.name));
        let same = site.target(&again).map(|target| target.name);
        assert_eq!(same.as_ref(), Some(&target.name));
        let redirect = sound(&target.path);
        assert!(redirect.starts_with('/') && !redirect.starts_with("//"));
        assert!(
            redirect
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        );
    }
    let mut fields = Fields::new();
    let names = [
        Name::Range,
        Name::IfRange,
        Name::IfMatch,
        Name::IfNoneMatch,
        Name::IfModifiedSince,
    ];
    for (name, value) in names.iter().zip(lines) {
        fields.append(*name, value);
    }
    judge(&fields, "\"x\"", Some(1));
    for size in [0, 1, 1000] {
        if let Ranges::Parts(parts) = ranges(&fields, "\"x\"", Some(1), size) {
            assert!(!parts.is_empty());
            assert!(
                parts
                    .iter()
                    .all(|part| part.start < part.end && part.end <= size)
            );
        }
    }
}

/// For any forwarding headers, the client is an address and the outgoing headers are well-formed. Untrusted
/// input decides nothing.
pub fn forwarded(bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == b'\n');
    let mut headers = Fields::new();
    let names = [
        "x-forwarded-for",
        "forwarded",
        "x-forwarded-proto",
        "x-forwarded-host",
    ];
    for (name, value) in names.iter().cycle().zip(parts.by_ref()).take(8) {
        headers.append_called(name.as_bytes(), value);
    }
    value::read(headers.all(Name::Forwarded));
    let settings = Settings {
        forwarded: true,
        ..Settings::default()
    };
    let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), 1);
    for trusted in [None, "203.0.113.0/24".parse().ok()] {
        let settings = Settings {
            trusted_proxies: trusted.into_iter().collect(),
            ..settings.clone()
        };
        let mut headers = headers.clone();
        let origin = Origin::new(peer, peer, false, &settings.trusted_proxies);
        let asker = forwarded::forward(&mut headers, &origin, &settings);
        let sent = headers.only(Name::XForwardedFor).unwrap_or_default();
        let chain: Vec<Option<IpAddr>> = sent
            .split(|byte| *byte == b',')
            .map(forwarded::address)
            .collect();
        assert_eq!(chain.first(), Some(&Some(asker.ip)), "{sent:?}");
        assert_eq!(chain.last(), Some(&Some(peer.ip())), "{sent:?}");
        assert!(trusted.is_some() || asker.ip == peer.ip());
        assert_eq!(value::read(headers.all(Name::Forwarded)).hops, chain);
        let scheme = headers.only(Name::XForwardedProto).unwrap_or_default();
        assert!(scheme == b"http" || scheme == b"https");
    }
}

/// A handshake is found the same however it comes in pieces, and never given up too early.
pub fn engineio(bytes: &[u8]) {
    let whole = engineio::handshake(bytes);
    if let Handshake::Of(sid) = &whole {
        assert!(!sid.is_empty());
        for cut in 0..bytes.len() {
            let part = engineio::handshake(&bytes[..cut]);
            assert!(
                part == Handshake::Partial || part == whole,
                "{part:?} at {cut}"
            );
        }
    }
    let asked = engineio::asked(bytes);
    assert!(engineio::farewell(bytes).is_none() || asked.is_some_and(|asked| asked.polling));
}

/// A valid head is passed on with the same meaning, and with nothing in it that another reader could take
/// for its end. A body in chunks decodes to the same bytes in any split.
pub fn messages(bytes: &[u8]) {
    let limits = Limits {
        bytes: 16_384,
        lines: 100,
        target: 8192,
    };
    let mut out = Vec::new();
    if let Ok(Some((mut head, _))) = RequestHead::parse(bytes, limits)
        && let Ok(framing) = head.check()
    {
        head.write(&mut out);
        is_one_section(&out);
        out.extend_from_slice(b"\r\n");
        let again = RequestHead::parse(&out, limits).ok().flatten();
        let (mut again, length) = again.expect("what was written can be read");
        assert_eq!((again.check(), length), (Ok(framing), out.len()));
        assert_eq!(again.target(), head.target());
        assert!(again.fields.iter().eq(head.fields.iter()));
    }
    out.clear();
    if let Ok(Some((head, _))) = ResponseHead::parse(bytes, 16_384, 100) {
        head.write(&mut out);
        is_one_section(&out);
    }
    let whole = decoded(bytes, bytes.len());
    for size in [1, 2, 7] {
        assert_eq!(decoded(bytes, size), whole);
    }
}

fn is_one_section(text: &[u8]) {
    assert!(text.ends_with(b"\r\n"));
    let bare = |pair: &[u8]| (pair[1] == b'\n') != (pair[0] == b'\r');
    assert!(!text.windows(2).any(bare), "a line break that is none");
    assert!(!text.windows(4).any(|four| four == b"\r\n\r\n"));
}

/// The bytes of a body in chunks that comes in pieces of `size` bytes; `None` if it is malformed.
fn decoded(bytes: &[u8], size: usize) -> Option<(Vec<u8>, bool)> {
    let (mut decoder, mut body) = (Decoder::new(Framing::Chunked), Vec::new());
    let mut buffer = Vec::new();
    for more in bytes.chunks(size.max(1)) {
        buffer.extend_from_slice(more);
        loop {
            let (piece, taken) = decoder.next(&buffer).ok()?;
            match piece {
                Piece::Data(data) => body.extend_from_slice(data),
                Piece::End(_) => return Some((body, true)),
                Piece::More => {
                    buffer.drain(..taken);
                    break;
                }
            }
            buffer.drain(..taken);
        }
    }
    Some((body, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The seeds of the targets; `cargo fuzz` makes its own from there.
    const SAMPLES: [&[u8]; 23] = [
        b"/a%20b/../.well-known/%c3%a9.js?q\nbytes=0-9,-5, 7-\n\"x\"",
        b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 80\r\nGET",
        b"PROXY TCP6 2001:db8::9 ::ffff:192.0.2.1 51000 80\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\xc0\x00\x02\x01\xc7\x38\x00\x50",
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
        b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8:1:2:3:4:5:6 65535 65535\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x29\x20\x01\x0d\xb8aaaabbbbcccc\x20\x01\x0d\xb8aaaabbbbdddd\
          \x00\x50\x01\xbb\x04\x00\x02abGET",
        b"203.0.113.9, 10.0.0.1\nfor=192.0.2.1;proto=https\nhttps\nexample.com",
        b"[2001:db8::1]:80, unknown\nfor=\"[2001:db8::1]:80\";host=\"a\\\"b\", for=_x\nwss\n",
        b"203.0.113.7:1,203.0.113.8\n;;,=,\"\nftp\nx",
        b"0{\"sid\":\"lv_VI97HAXpY6yYWAAAB\",\"upgrades\":[\"websocket\"]}",
        b"53:0{\"sid\":\"lv_VI97HAXpY6yYWAAAB\",\"upgrades\":[\"ws\"]}2:40",
        b"\x00\x05\x03\xff0{\"sid\":\"lv_VI97HAXpY6yYWAAAB\"}",
        b"0{\"sid\":\"a\\ud83d\\ude00b\",\"pingInterval\":-2.5e+4,\"x\":[true,null,{\"y\":\"}\\\"\"}]}2",
        b"00000097:0{\"pingTimeout\":2E4,\"sid\":\"lv_VI97HAXpY6yYWAAAB\"}",
        b"\x00\x00\x00\x00\x00\x00\x00\x05\x03\xff0{\"sid\":\"lv_VI97HAXpY6yYWAAAB\"}",
        b"___eio[12](\"31:0{\\\"sid\\\":\\\"abc\\\",\\\"maxPayload\\\":1.5}\\u001e40\");",
        b"GET /a?b=c HTTP/1.1\r\nHost: a.test:80\r\nAccept:  */* \r\nConnection: close\r\n\r\n",
        b"HEAD / HTTP/1.1\nhost: [::1]\nX-A: 1\nCookie: a=b\n\nGET / HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\nKeep-Alive: timeout=5\r\n\r\nhello",
        b"HTTP/1.1 304 \nDate: x\nConnection: close\nETag: \"x\"\n\n",
        b"___eio[0](\"31:0{\\\"sid\\\":\\\"abc\\\"}\");",
    ];

    /// Words to insert into samples.
    const WORDS: [&[u8]; 15] = [
        b"%2e%2e/",
        b"%2f",
        b"%00",
        b" ",
        b"\r\n",
        b"UNKNOWN ",
        b"65535",
        b"0",
        b"::",
        b":",
        b"-1.5e+7",
        b"\\u00e9",
        b"\",\"x\":\"",
        b"\"",
        b"\xff",
    ];

    /// Each was once read otherwise whole than in pieces.
    const FOUND: [&[u8]; 6] = [
        b"PROXY UNKNOWN 0123456789012345678901234567890123456789012345678901234567890123456789\
          0123456789012345678901234567890123456789\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 0000000000000000000000000000000000000000000000000000000000000\
          0000000000000000000000000000001 2\r\n",
        b"0{\"x\":-1,\"sid\":\"a\"}",
        b"0{\"x\":1.5,\"sid\":\"a\"}",
        b"012345678:0{\"sid\":\"a\"}",
        b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\xff0{\"sid\":\"a\"}",
    ];

    #[test]
    fn inputs_that_were_read_otherwise_in_pieces_hold_what_must_hold() {
        FOUND.iter().for_each(|input| all(input));
    }

    fn all(bytes: &[u8]) {
        proxy_header(bytes);
        forwarded(bytes);
        engineio(bytes);
        messages(bytes);
        files(bytes);
    }

    #[test]
    fn samples_hold_what_must_hold() {
        SAMPLES.iter().for_each(|sample| all(sample));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Damage to a good sample gets further than noise does: bytes that come, go, change or are
        /// repeated, words that a reader knows, and an end that is cut off.
        #[test]
        fn changed_samples_hold_what_must_hold(
            sample in 0..SAMPLES.len(),
            changes in proptest::collection::vec((any::<usize>(), 0u8..6, any::<u8>()), 1..6),
        ) {
            let mut bytes = SAMPLES[sample].to_vec();
            for (at, kind, byte) in changes {
                let at = at % (bytes.len() + 1);
                match kind {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => { bytes.remove(at); }
                    2 if at < bytes.len() => bytes[at] = byte,
                    3 if at < bytes.len() => {
                        let run = vec![bytes[at]; usize::from(byte)];
                        bytes.splice(at..at, run);
                    }
                    4 => {
                        let word = WORDS[usize::from(byte) % WORDS.len()];
                        bytes.splice(at..at, word.iter().copied());
                    }
                    _ => bytes.truncate(at.max(1)),
                }
            }
            all(&bytes);
        }
    }
}
