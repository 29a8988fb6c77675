//! The differences that are allowed, each with its reason.

use std::collections::BTreeMap;
use std::fmt;

use super::answers::Script;
use super::message::Message;
use super::requests::Request;
use super::{Case, Outcome};

/// How often each difference was met.
#[derive(Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u32>);

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u32 = self.0.values().sum();
        write!(f, "{total} differ as stated")?;
        for (name, count) in &self.0 {
            write!(f, "\n  {count:5} {name}")?;
        }
        Ok(())
    }
}

/// Header lines of requests that each proxy writes by itself. Those frame the message, are for one hop,
/// or identify the client (nginx passes the client's own on). `Host` is that of an absolute target in
/// lb-agent (RFC 9112, section 3.2.2). `Max-Forwards` is counted down (RFC 9110, section 7.6.2).
const OF_REQUESTS: [&str; 14] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "proxy-connection",
    "host",
    "max-forwards",
    "via",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "x-request-id",
];
/// The same of answers. lb-agent adds a missing `Date` (RFC 9110, section 6.6.1). It drops `Upgrade` if
/// nothing is upgraded (section 7.8).
const OF_ANSWERS: [&str; 6] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "date",
    "upgrade",
];

/// A request with its answer on which the proxies differ.
struct Facts<'a> {
    request: &'a str,
    script: &'a str,
    /// The kind of difference: whether a backend was asked, the request that it got, or the answer.
    what: What,
    ours: u16,
    theirs: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Asked,
    Request,
    Answer,
    /// Whether the connection goes on after the answer.
    End,
}

impl Facts<'_> {
    fn line(&self) -> &str {
        let line = self.request.trim_start_matches(['\r', '\n']);
        line.split(['\r', '\n']).next().unwrap_or_default()
    }

    fn is_refused(&self, status: u16) -> bool {
        self.what != What::Request && self.ours == status
    }

    fn is_refused_by_nginx_alone(&self) -> bool {
        self.what == What::Asked && (400..=501).contains(&self.theirs)
    }

    fn request_has(&self, all: &[&str]) -> bool {
        all.iter().any(|text| self.request.contains(text))
    }

    fn script_has(&self, all: &[&str]) -> bool {
        all.iter().any(|text| self.script.contains(text))
    }
}

/// A difference with the reason why it is right, and its test.
type Difference = (&'static str, fn(&Facts<'_>) -> bool);

const DIFFERENCES: [Difference; 24] = [
    (
        "close wins over keep-alive (RFC 9112, section 9.3); in nginx the last line does",
        |facts| {
            let lines = facts.request.split(['\r', '\n']);
            let lines: Vec<&str> = lines
                .filter(|line| line.starts_with("Connection:"))
                .collect();
            facts.what == What::End
                && lines.iter().any(|line| line.ends_with("close"))
                && lines.iter().any(|line| line.contains("keep-alive"))
        },
    ),
    (
        "an answer whose chunks turn out malformed is cut short; nginx sends nothing",
        |facts| facts.what == What::Answer && facts.script.ends_with("5\r\nshort\r\nx"),
    ),
    (
        "a method in lower case is one like any other (RFC 9110, section 9.1); nginx takes A to Z",
        |facts| facts.is_refused_by_nginx_alone() && facts.line().starts_with("get "),
    ),
    (
        "versions other than 1.0 and 1.1 are refused with 505; nginx takes 1.2, and has 400 for 0.9",
        |facts| facts.is_refused(505) && facts.request_has(&["HTTP/1.2", "HTTP/0.9", "HTTP/2.0"]),
    ),
    (
        "a space after the version is refused (RFC 9112, section 3)",
        |facts| facts.is_refused(400) && facts.line().ends_with(' '),
    ),
    (
        "a fragment is no part of a target (RFC 9112, section 3.2)",
        |facts| facts.is_refused(400) && facts.line().contains('#'),
    ),
    (
        "targets that lead above the root, or have a NUL in percent encoding, are sent on as they came",
        |facts| {
            facts.is_refused_by_nginx_alone()
                && ["/../..", "%2e%2e/%2e%2e", "%00"]
                    .iter()
                    .any(|part| facts.line().contains(part))
        },
    ),
    (
        "OPTIONS * is for the server itself (RFC 9112, section 3.2.4); nginx refuses it",
        |facts| facts.is_refused_by_nginx_alone() && facts.line().starts_with("OPTIONS * "),
    ),
    (
        "TRACE and CONNECT are refused before the rest of the head is looked at, and the connection stays",
        |facts| {
            facts.ours == 405
                && (facts.line().starts_with("TRACE ") || facts.line().starts_with("CONNECT "))
        },
    ),
    (
        "header lines that are not well-formed are refused (RFC 9112, section 5); nginx drops them, or \
         takes control characters",
        |facts| {
            facts.is_refused(400)
                && facts.request_has(&[
                    "Bad Name",
                    "NoColon",
                    "X-\u{e9}:",
                    "X-():",
                    "\u{1}",
                    "a\u{7f}b\r\n",
                    "a\u{7f}b\n",
                ])
        },
    ),
    (
        "header names may have any character of a token (RFC 9110, section 5.6.2); nginx drops them",
        |facts| facts.what == What::Request && facts.request_has(&["X-Dot"]),
    ),
    (
        "an expectation that cannot be met is told (RFC 9110, section 10.1.1); nginx overlooks it",
        |facts| facts.is_refused(417) && facts.request_has(&["Expect: something"]),
    ),
    (
        "a length that is said twice alike is one (RFC 9112, section 6.3); nginx refuses it",
        |facts| {
            facts.is_refused_by_nginx_alone() && facts.request.matches("ontent-Length:").count() > 1
        },
    ),
    ("the same in one line", |facts| {
        facts.is_refused_by_nginx_alone()
            && facts.request_has(&["Content-Length: "])
            && is_list(facts.request)
    }),
    (
        "header lines that nginx knows may come once there, for example Authorization or Content-Type; \
         such lines are sent on",
        |facts| facts.is_refused_by_nginx_alone() && has_twice(facts.request),
    ),
    (
        "transfer codings beside chunked: 501 where the last is chunked, else 400 (RFC 9112, section 6.3)",
        |facts| {
            matches!(facts.ours, 400 | 501)
                && matches!(facts.theirs, 400 | 501)
                && facts.request_has(&["Transfer-Encoding: "])
        },
    ),
    (
        "chunks end with CR LF (RFC 9112, section 7.1); nginx takes LF, and other malformed ones",
        |facts| facts.is_refused(400) && facts.request_has(&["hunked"]),
    ),
    (
        "a host with characters that no host has is refused (RFC 3986, section 3.2.2)",
        |facts| facts.is_refused(400) && facts.request_has(&["Host:\r", "Host:\n", "b_c", "u:p@"]),
    ),
    (
        "answers whose header lines are not well-formed are 502; nginx takes them",
        |facts| {
            facts.is_refused(502)
                && facts.script_has(&[
                    "X-Control",
                    "X-Return",
                    "X-Zero",
                    "Bad Name",
                    "X-Space",
                    ": no name",
                    "NoColon",
                    "X-Folded",
                ])
        },
    ),
    (
        "what is no answer of HTTP/1 is 502; nginx takes it for one of HTTP/0.9, or any status",
        |facts| {
            facts.is_refused(502)
                && [
                    "hello",
                    "HTTP/2.0",
                    "HTTP/1.1 99 ",
                    "HTTP/1.1 2000",
                    "HTTP/1.1 OK",
                ]
                .iter()
                .any(|begin| facts.script.starts_with(begin))
        },
    ),
    (
        "an answer that is framed in two ways, or by another coding, is 502 (RFC 9112, section 6.3)",
        |facts| {
            facts.is_refused(502)
                && facts.script_has(&[
                    "Transfer-Encoding: gzip",
                    "Content-Length: x",
                    "Content-Length: 6",
                ])
        },
    ),
    (
        "lines that nginx merges, as two of Content-Type, are sent on",
        |facts| {
            facts.what == What::Answer
                && facts.ours == facts.theirs
                && facts.script.matches("Content-Type").count() > 1
        },
    ),
    (
        "what Connection of an answer names is for one hop (RFC 9110, section 7.6.1); nginx sends it on",
        |facts| facts.what == What::Answer && facts.script_has(&["Connection: X-A"]),
    ),
    (
        "what Connection of a request names is for one hop; nginx sends it on",
        |facts| {
            facts.what == What::Request
                && facts.request_has(&["Connection: X-A", "keep-alive, X-A"])
        },
    ),
];

fn is_list(request: &str) -> bool {
    let lines = request.split(['\r', '\n']);
    lines
        .filter(|line| line.starts_with("Content-Length:"))
        .any(|line| line.contains(','))
}

/// Whether a line comes twice that nginx takes once.
fn has_twice(request: &str) -> bool {
    [
        "Authorization",
        "Content-Type",
        "If-Modified-Since",
        "If-None-Match",
        "Range",
        "Referer",
        "User-Agent",
        "Expect",
        "Upgrade",
        "Keep-Alive",
        "Transfer-Encoding",
    ]
    .iter()
    .any(|name| request.matches(&format!("\n{name}:")).count() > 1)
}

/// The first difference that nothing explains.
pub(crate) fn find(
    case: &Case,
    ours: &Outcome,
    theirs: &Outcome,
    counts: &mut Counts,
) -> Option<String> {
    let (our_finals, their_finals) = (ours.finals(), theirs.finals());
    for (at, (request, script)) in case.exchanges.iter().enumerate() {
        let (a, b) = (our_finals.get(at), their_finals.get(at));
        let differs = first(&ours.seen[at], &theirs.seen[at], a.copied(), b.copied());
        let goes_on = [(ours, &our_finals), (theirs, &their_finals)].map(|(outcome, finals)| {
            let is_next_seen = outcome.seen.get(at + 1).is_some_and(Option::is_some);
            finals.len() > at + 1 || is_next_seen || !outcome.rest.is_empty()
        });
        let end = || (What::End, format!("the connection goes on: {goes_on:?}"));
        let ends = (goes_on[0] != goes_on[1]).then(end);
        let Some((what, found)) = differs.or(ends) else {
            continue;
        };
        let Some(name) = explain(request, script, what, [a.copied(), b.copied()]) else {
            return Some(format!("{what:?} {at}: {found}"));
        };
        *counts.0.entry(name).or_default() += 1;
        // Everything after it differs too.
        return None;
    }
    let (wanted, hints) = (case.interim(&ours.seen), ours.interim());
    if wanted != hints {
        return Some(format!("interim answers {hints:?} instead of {wanted:?}"));
    }
    (!ours.rest.is_empty()).then(|| format!("bytes after the answers: {:?}", ours.rest))
}

/// The difference that this is one of.
fn explain(
    request: &Request,
    script: &Script,
    what: What,
    answers: [Option<&Message>; 2],
) -> Option<&'static str> {
    let latin1 = |bytes: &[u8]| -> String { bytes.iter().map(|byte| char::from(*byte)).collect() };
    let [ours, theirs] = answers.map(|answer| answer.map_or(0, Message::status));
    let facts = Facts {
        request: &latin1(&request.bytes),
        script: &latin1(&script.without_interim().bytes),
        what,
        ours,
        theirs,
    };
    let found = DIFFERENCES.iter().find(|(_, explains)| explains(&facts));
    found.map(|(name, _)| *name)
}

fn first(
    ours_seen: &Option<Message>,
    theirs_seen: &Option<Message>,
    ours: Option<&Message>,
    theirs: Option<&Message>,
) -> Option<(What, String)> {
    match (ours_seen, theirs_seen) {
        (None, None) => {}
        (Some(a), Some(b)) => {
            if let Some(found) = differ(a, b, &OF_REQUESTS) {
                return Some((What::Request, found));
            }
        }
        (a, _) => {
            let who = if a.is_some() { "lb-agent" } else { "nginx" };
            return Some((What::Asked, format!("only {who} asks the backend")));
        }
    }
    match (ours, theirs) {
        (None, None) => None,
        (Some(a), Some(b)) => {
            // Errors have pages of each proxy's own.
            let is_own = a.status() >= 400 && (ours_seen.is_none() || a.status() == 502);
            if is_own && a.status() == b.status() {
                return None;
            }
            differ(a, b, &OF_ANSWERS).map(|found| (What::Answer, found))
        }
        (a, b) => Some((What::Answer, format!("one answers: {a:?}, {b:?}"))),
    }
}

fn differ(a: &Message, b: &Message, own: &[&str]) -> Option<String> {
    // A reason may be empty.
    if a.line.trim_end() != b.line.trim_end() {
        return Some(format!("{:?} and {:?}", a.line, b.line));
    }
    let lines = |message: &Message| {
        let lines = message.fields.iter();
        let mut lines: Vec<_> = lines
            .filter(|(name, _)| !own.contains(&name.as_str()))
            .cloned()
            .collect();
        // The order of lines with one name counts.
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        lines
    };
    let (a_lines, b_lines) = (lines(a), lines(b));
    if a_lines != b_lines {
        let less = |a: &[(String, String)], b: &[(String, String)]| {
            let lines = a.iter().filter(|line| !b.contains(line));
            lines.cloned().collect::<Vec<_>>()
        };
        let (only_a, only_b) = (less(&a_lines, &b_lines), less(&b_lines, &a_lines));
        return Some(format!("only lb-agent {only_a:?}, only nginx {only_b:?}"));
    }
    if a.is_whole != b.is_whole {
        return Some(format!("whole: {} and {}", a.is_whole, b.is_whole));
    }
    (a.body != b.body).then(|| format!("bodies of {} and {}", a.body.len(), b.body.len()))
}
