//! Engine.IO, protocols 3 and 4, as far as a balancer must read it: the query of its requests, and
//! the answer to its handshake, which names the session.

use std::borrow::Cow;

use serde::Deserialize;

/// Longest answer that is read to find a session; a handshake takes some hundred bytes.
pub(crate) const LONGEST: usize = 2048;
/// Longest id of a session that is taken for one. Engine.IO's own have 20 characters.
const LONGEST_SID: usize = 128;
/// Most digits of a packet's length in protocol 3.
const MOST_DIGITS: usize = 8;

/// The kind of a request of Engine.IO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    /// The session that it belongs to; none yet in a handshake.
    pub sid: Option<Cow<'a, str>>,
    /// Whether it goes by polling.
    pub polling: bool,
}

/// Reads a query; `None` if it is not of Engine.IO.
pub(crate) fn asked(query: &[u8]) -> Option<Asked<'_>> {
    let mut version = false;
    let mut transport = None;
    let mut sid = None;
    for pair in pairs(query) {
        let equals = pair.iter().position(|byte| *byte == b'=');
        let (name, value) = pair.split_at(equals.unwrap_or(pair.len()));
        let value = value.get(1..).unwrap_or_default();
        match name {
            b"EIO" => version = !value.is_empty(),
            b"transport" => transport = Some(value),
            b"sid" if !value.is_empty() => sid = Some(value),
            _ => {}
        }
    }
    let transport = transport.filter(|_| version)?;
    Some(Asked {
        sid: sid.map(decoded).filter(|sid| sid.len() <= LONGEST_SID),
        polling: transport == b"polling",
    })
}

fn pairs(query: &[u8]) -> impl Iterator<Item = &[u8]> {
    query.split(|byte| *byte == b'&')
}

fn decoded(value: &[u8]) -> Cow<'_, str> {
    let is_plain = !value.iter().any(|byte| matches!(byte, b'%' | b'+'));
    if let Some(text) = str::from_utf8(value).ok().filter(|_| is_plain) {
        return Cow::Borrowed(text);
    }
    let pair = form_urlencoded::parse(value).next();
    pair.map_or(Cow::Borrowed(""), |(text, _)| text)
}

/// The answer to a poll with this query that ends its session: the packet "close", in the framing
/// of the client's protocol. `None` for a query that is no poll, or one by JSONP, which gets an error.
pub(crate) fn farewell(query: &[u8]) -> Option<&'static str> {
    if !asked(query)?.polling || pairs(query).any(|pair| pair.starts_with(b"j=")) {
        return None;
    }
    let version = pairs(query).find_map(|pair| pair.strip_prefix(b"EIO="));
    Some(if version == Some(b"3") { "1:1" } else { "1" })
}

/// The classified beginning of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// The handshake of this session.
    Of(String),
    /// More of it is needed.
    Partial,
    /// Something else.
    Other,
}

#[derive(Deserialize)]
struct Open {
    sid: String,
}

/// Finds the session in the answer to a handshake: `0{"sid":"…"}` (protocol 4), `96:0{"sid":…}`
/// (protocol 3), the same in the binary framing of old protocol 3 servers, or as a JavaScript call
/// for JSONP.
pub(crate) fn handshake(body: &[u8]) -> Handshake {
    if body.starts_with(b"___eio[") || b"___eio[".starts_with(body) && !body.is_empty() {
        return from_jsonp(body);
    }
    from_payload(body)
}

/// `___eio[0]("96:0{\"sid\":…}");`: the payload is a string literal, escaped as JSON is.
fn from_jsonp(body: &[u8]) -> Handshake {
    let Some(at) = body.iter().take(32).position(|byte| *byte == b'(') else {
        return if body.len() < 32 {
            Handshake::Partial
        } else {
            Handshake::Other
        };
    };
    match first_value::<String>(&body[at + 1..], b'"') {
        Ok(payload) => match from_payload(payload.as_bytes()) {
            // The literal is whole: there is no more to come.
            Handshake::Partial => Handshake::Other,
            found => found,
        },
        Err(other) => other,
    }
}

fn from_payload(body: &[u8]) -> Handshake {
    let packet = match body.first() {
        None => return Handshake::Partial,
        // Binary framing: 0 for text, the length in digits of one byte each, 255.
        Some(0) => {
            let digits = body[1..].iter().take_while(|digit| **digit < 10).count();
            match body.get(1 + digits) {
                _ if digits > MOST_DIGITS => return Handshake::Other,
                None => return Handshake::Partial,
                Some(255) if digits > 0 => &body[digits + 2..],
                _ => return Handshake::Other,
            }
        }
        // A length, a colon, and as many characters; or a packet right away, which begins with a
        // digit too.
        Some(_) => {
            let digits = body
                .iter()
                .take_while(|digit| digit.is_ascii_digit())
                .count();
            match body.get(digits) {
                _ if digits > MOST_DIGITS => return Handshake::Other,
                None => return Handshake::Partial,
                Some(b':') => &body[digits + 1..],
                _ => body,
            }
        }
    };
    match packet.split_first() {
        None => Handshake::Partial,
        Some((b'0', open)) => match first_value::<Open>(open, b'{') {
            Ok(open) if is_sid(&open.sid) => Handshake::Of(open.sid),
            Ok(_) => Handshake::Other,
            Err(other) => other,
        },
        Some(_) => Handshake::Other,
    }
}

/// The JSON object or string (`begins` is `{` or `"`) that `text` begins with; other packets may follow
/// it. The end is looked for first: serde_json calls some values that are cut off (`-`, `1.`) malformed.
fn first_value<'a, T: Deserialize<'a>>(text: &'a [u8], begins: u8) -> Result<T, Handshake> {
    let text = text.trim_ascii_start();
    match text.first() {
        None => return Err(Handshake::Partial),
        Some(first) if *first != begins => return Err(Handshake::Other),
        Some(_) => {}
    }
    let end = end_of_value(text).ok_or(Handshake::Partial)?;
    serde_json::from_slice(&text[..end]).map_err(|_| Handshake::Other)
}

/// The end of the JSON object or string at the beginning of `text`; `None` if that is not in `text`.
fn end_of_value(text: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && !in_string {
            return Some(at + 1);
        }
    }
    None
}

fn is_sid(sid: &str) -> bool {
    (1..=LONGEST_SID).contains(&sid.len()) && !sid.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPEN: &str = r#"0{"sid":"lv_VI97HAXpY6yYWAAAB","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;

    fn found() -> Handshake {
        Handshake::Of("lv_VI97HAXpY6yYWAAAB".to_owned())
    }

    fn answers() -> Vec<Vec<u8>> {
        let digits: Vec<u8> = OPEN.len().to_string().bytes().map(|d| d - b'0').collect();
        vec![
            OPEN.into(),
            format!("{OPEN}\x1e40").into(),
            format!("{}:{OPEN}2:40", OPEN.len()).into(),
            [&[0], digits.as_slice(), &[255], OPEN.as_bytes()].concat(),
            format!(
                "___eio[3]({});",
                serde_json::to_string(&format!("{}:{OPEN}2:40", OPEN.len())).unwrap()
            )
            .into(),
        ]
    }

    #[test]
    fn the_session_is_found_in_every_framing_and_from_any_piece_on() {
        for answer in answers() {
            assert_eq!(handshake(&answer), found(), "{answer:?}");
            let mut known = false;
            for cut in 0..answer.len() {
                match handshake(&answer[..cut]) {
                    Handshake::Partial => assert!(!known),
                    Handshake::Of(_) => known = true,
                    Handshake::Other => panic!("given up at {cut} of {answer:?}"),
                }
            }
        }
    }

    #[test]
    fn other_answers_are_no_handshakes() {
        for other in [
            "ok",
            "<html>",
            "2probe",
            "0{\"sid\":5}",
            "0{\"sid\":\"\"}",
            "0{}",
            "{\"code\":1,\"message\":\"Session ID unknown\"}",
            "96:1",
            "___eio[0](\"ok\");",
        ] {
            assert_eq!(handshake(other.as_bytes()), Handshake::Other, "{other}");
        }
    }

    #[test]
    fn handshake_with_numbers_and_escapes_is_found_from_any_piece_on() {
        for (answer, sid) in [
            (r#"0{"x":-1,"sid":"a"}"#, "a"),
            (r#"0{"x":1.5e+3,"sid":"a"}"#, "a"),
            (r#"0 {"x":{"}":["\"]"]},"sid":"\ud83d\ude00"}1"#, "😀"),
            (r#"00000019:0{"x":1.5,"sid":"a"}"#, "a"),
        ] {
            let found = Handshake::Of(sid.to_owned());
            assert_eq!(handshake(answer.as_bytes()), found, "{answer}");
            for cut in 0..answer.len() {
                let part = handshake(&answer.as_bytes()[..cut]);
                assert!(
                    part == Handshake::Partial || part == found,
                    "{answer} at {cut}"
                );
            }
        }
    }

    #[test]
    fn length_of_nine_digits_is_no_handshake() {
        for answer in [
            b"000000019:0{\"sid\":\"a\"}".as_slice(),
            b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\xff0{\"sid\":\"a\"}",
        ] {
            assert_eq!(handshake(answer), Handshake::Other);
            assert_eq!(handshake(&answer[..10]), Handshake::Other);
        }
    }

    #[test]
    fn whoever_polls_is_told_the_end_in_its_own_framing() {
        assert_eq!(farewell(b"EIO=4&transport=polling&sid=x"), Some("1"));
        assert_eq!(
            farewell(b"EIO=3&transport=polling&sid=x&b64=1"),
            Some("1:1")
        );
        assert_eq!(farewell(b"EIO=3&transport=polling&sid=x&j=0"), None);
        assert_eq!(farewell(b"EIO=4&transport=websocket&sid=x"), None);
        assert_eq!(farewell(b"page=1"), None);
    }

    #[test]
    fn requests_of_engine_io_are_told_from_others() {
        let polling = asked(b"EIO=4&transport=polling&t=abc").unwrap();
        assert_eq!((polling.sid, polling.polling), (None, true));
        let upgrade = asked(b"EIO=3&transport=websocket&sid=a-b_c").unwrap();
        assert_eq!(upgrade.sid.as_deref(), Some("a-b_c"));
        assert!(!upgrade.polling);
        assert_eq!(
            asked(b"EIO=4&transport=polling&sid=a%2Db")
                .unwrap()
                .sid
                .as_deref(),
            Some("a-b")
        );
        assert_eq!(asked(b"sid=x"), None);
        assert_eq!(asked(b"transport=polling"), None);
        assert_eq!(asked(b""), None);
        let long = format!("EIO=4&transport=polling&sid={}", "x".repeat(200));
        assert_eq!(asked(long.as_bytes()).unwrap().sid, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            handshake(&bytes);
            handshake(&[b"0{\"sid\":", bytes.as_slice()].concat());
            handshake(&[b"___eio[", bytes.as_slice()].concat());
            asked(&bytes);
        }
    }
}
