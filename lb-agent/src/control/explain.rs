//! The answer to `lookup` in words, for the command and the live page.

use std::time::Duration;

use super::facts::RequestFacts;
use super::message::Lookup as Found;
use lb_config::BackendAddress;

/// Backends that are named of an order that may have a thousand.
const SHOWN: usize = 8;

/// The answer, in lines.
pub fn text(found: &Found, request: &RequestFacts) -> String {
    let lines = [
        Some(choice(found, request)),
        order(found),
        new_sessions(found),
        stickiness(found, request),
    ];
    let lines = lines.into_iter().flatten();
    lines.map(|line| line + "\n").collect()
}

/// The backend, and the reason.
fn choice(found: &Found, request: &RequestFacts) -> String {
    let Found {
        client, service, ..
    } = found;
    let subject = match found.decided_by.as_deref() {
        Some("session") if found.backend.is_none() => {
            return format!("the session is over: the backend of {service} that had it is gone");
        }
        Some("address") => client.to_string(),
        Some("session") => "a request of this session".to_owned(),
        Some(part) => format!("a request with this {part}"),
        None => undecided(found, request),
    };
    match &found.backend {
        Some(backend) => format!(
            "{subject} goes to {backend} of {service}: {}",
            reason(found)
        ),
        None if found.decided_by.is_none() && !found.candidates.is_empty() => {
            let candidates = listed(&found.candidates);
            format!("{subject} goes to any of: {candidates}")
        }
        None => format!("{subject} goes nowhere: no backend of {service} can take it"),
    }
}

/// A request about which nothing decides.
fn undecided(found: &Found, request: &RequestFacts) -> String {
    match found.stickiness.name.as_deref() {
        Some(name) if request.cookie.is_none() && request.header.is_none() => {
            format!("a request without a session (cookie {name})")
        }
        Some(name) => format!(
            "the cookie {name} names no backend of {}: the request",
            found.service
        ),
        None => "a request without a session".to_owned(),
    }
}

fn reason(found: &Found) -> String {
    let owner = match found.decided_by.as_deref() {
        Some("cookie") => return "its cookie names that backend".to_owned(),
        Some("session") => return "that backend has the session".to_owned(),
        Some("address") => "client",
        _ => "value",
    };
    let why = match found.reason.as_deref() {
        Some("slot") => format!("it has the {owner}'s slot"),
        Some("next") => format!("the one that has the {owner}'s slot is away or has its share"),
        _ => format!("the {owner} was sent there before"),
    };
    let Some(affinity) = &found.affinity else {
        return why;
    };
    let age = span(affinity.age_seconds);
    if Some(&affinity.backend) == found.backend.as_ref() {
        let left = span(affinity.expires_in_seconds);
        format!("the {owner} was sent there {age} ago, which counts for {left} more")
    } else {
        format!("{why} (it was sent to {} {age} ago)", affinity.backend)
    }
}

/// Slot, and the backends next in order; `None` if the tables have no part in the choice.
fn order(found: &Found) -> Option<String> {
    let others = found.order.iter();
    let others = others.filter(|backend| Some(*backend) != found.backend.as_ref());
    let after: Vec<BackendAddress> = others.cloned().collect();
    let slot = format!("slot {}", found.slot?);
    let start = match &found.prefix {
        Some(prefix) => format!("prefix {prefix}, {slot}"),
        None => slot,
    };
    Some(match after.as_slice() {
        [] => format!("{start}, no other backend"),
        after => format!("{start}, then {}", listed(after)),
    })
}

/// The first backends of a list.
fn listed(backends: &[BackendAddress]) -> String {
    let first = backends.iter().take(SHOWN).map(ToString::to_string);
    let first = first.collect::<Vec<_>>().join(", ");
    match backends.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The backends of new sessions, beside those of other requests.
fn new_sessions(found: &Found) -> Option<String> {
    let is_beside = found.decided_by.is_some() && !found.candidates.is_empty();
    is_beside.then(|| {
        let candidates = listed(&found.candidates);
        format!("a new session goes to any of: {candidates}")
    })
}

/// The stickiness, and the part of the request that did not decide. `None` if the address is all that could.
fn stickiness(found: &Found, request: &RequestFacts) -> Option<String> {
    let by = found.stickiness.by.as_str();
    let name = found.stickiness.name.as_deref().unwrap_or_default();
    let by_address = found.decided_by.as_deref() == Some("address");
    let note = match by {
        "address" if request.is_empty() => return None,
        "socketio" if by_address && request.sid.is_some() => {
            ": the agent does not know the session, so the address decides"
        }
        "header" | "query" if by_address => ": the request has none, so the address decides",
        _ => "",
    };
    Some(match by {
        "address" => "sticky by address: no other part of a request decides".to_owned(),
        "cookie" => format!("sticky by cookie {name}"),
        "socketio" => format!("sticky by socketio, else by address{note}"),
        _ => format!("sticky by {by} {name}, else by address{note}"),
    })
}

fn span(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::AffinityFound;
    use crate::control::status::StickinessStatus;

    fn found() -> Found {
        let backend = |port| BackendAddress::Ip(([127, 0, 0, 1], port).into());
        Found {
            client: "203.0.113.9".parse().unwrap(),
            service: "web".to_owned(),
            stickiness: sticky("address", None),
            decided_by: Some("address".to_owned()),
            backend: Some(backend(5001)),
            reason: Some("slot".to_owned()),
            prefix: Some("203.0.113.9/32".to_owned()),
            slot: Some(12_345),
            order: vec![backend(5001), backend(5000)],
            affinity: None,
            candidates: Vec::new(),
        }
    }

    fn sticky(by: &str, name: Option<&str>) -> StickinessStatus {
        StickinessStatus {
            by: by.to_owned(),
            name: name.map(str::to_owned),
        }
    }

    /// An answer in which the tables have no part.
    fn beside_the_tables(by: &str, name: Option<&str>, decided_by: Option<&str>) -> Found {
        Found {
            stickiness: sticky(by, name),
            decided_by: decided_by.map(str::to_owned),
            prefix: None,
            slot: None,
            order: Vec::new(),
            ..found()
        }
    }

    fn none() -> RequestFacts {
        RequestFacts::default()
    }

    fn with_sid() -> RequestFacts {
        RequestFacts {
            sid: Some("abc".to_owned()),
            ..none()
        }
    }

    #[test]
    fn socketio_tells_of_a_session_and_of_requests_without_one() {
        let stickiness = "sticky by socketio, else by address";
        let of_session = beside_the_tables("socketio", None, Some("session"));
        let expected = format!(
            "a request of this session goes to 127.0.0.1:5001 of web: that backend has the session\n\
             {stickiness}\n"
        );
        assert_eq!(text(&of_session, &with_sid()), expected);
        let over = Found {
            backend: None,
            ..of_session
        };
        let expected =
            format!("the session is over: the backend of web that had it is gone\n{stickiness}\n");
        assert_eq!(text(&over, &with_sid()), expected);
        let without = Found {
            stickiness: sticky("socketio", None),
            candidates: found().order,
            ..found()
        };
        let lines = "203.0.113.9 goes to 127.0.0.1:5001 of web: it has the client's slot\n\
                     prefix 203.0.113.9/32, slot 12345, then 127.0.0.1:5000\n\
                     a new session goes to any of: 127.0.0.1:5001, 127.0.0.1:5000\n";
        assert_eq!(text(&without, &none()), format!("{lines}{stickiness}\n"));
        let unknown = ": the agent does not know the session, so the address decides";
        let expected = format!("{lines}{stickiness}{unknown}\n");
        assert_eq!(text(&without, &with_sid()), expected);
    }

    #[test]
    fn a_cookie_names_its_backend_or_none() {
        let named = beside_the_tables("cookie", Some("lb"), Some("cookie"));
        let request = RequestFacts {
            cookie: Some("lb=0f".to_owned()),
            ..none()
        };
        let expected = "a request with this cookie goes to 127.0.0.1:5001 of web: its cookie names \
                        that backend\nsticky by cookie lb\n";
        assert_eq!(text(&named, &request), expected);
        let any = Found {
            backend: None,
            decided_by: None,
            candidates: found().order,
            ..named
        };
        let candidates = "goes to any of: 127.0.0.1:5001, 127.0.0.1:5000";
        let expected = format!("a request without a session (cookie lb) {candidates}");
        assert_eq!(choice(&any, &none()), expected);
        let expected = format!("the cookie lb names no backend of web: the request {candidates}");
        assert_eq!(choice(&any, &request), expected);
        let nowhere = Found {
            candidates: Vec::new(),
            ..any
        };
        assert!(choice(&nowhere, &none()).ends_with("goes nowhere: no backend of web can take it"));
    }

    #[test]
    fn a_value_has_a_slot_and_no_prefix() {
        let by_header = Found {
            stickiness: sticky("header", Some("x-user")),
            decided_by: Some("header".to_owned()),
            prefix: None,
            ..found()
        };
        let expected = "a request with this header goes to 127.0.0.1:5001 of web: it has the value's \
                        slot\nslot 12345, then 127.0.0.1:5000\nsticky by header x-user, else by \
                        address\n";
        assert_eq!(text(&by_header, &none()), expected);
        let without = Found {
            decided_by: Some("address".to_owned()),
            ..by_header
        };
        let note = "else by address: the request has none, so the address decides\n";
        assert!(text(&without, &none()).ends_with(note));
    }

    #[test]
    fn a_part_that_cannot_decide_is_told_so() {
        let last = "sticky by address: no other part of a request decides\n";
        assert!(text(&found(), &with_sid()).ends_with(last));
        assert!(!text(&found(), &none()).contains("sticky"));
    }

    #[test]
    fn a_new_client_goes_by_its_slot() {
        let found = found();
        let expected = "203.0.113.9 goes to 127.0.0.1:5001 of web: it has the client's slot";
        assert_eq!(choice(&found, &none()), expected);
        let expected = "prefix 203.0.113.9/32, slot 12345, then 127.0.0.1:5000";
        assert_eq!(order(&found).as_deref(), Some(expected));
    }

    #[test]
    fn a_known_client_goes_where_it_was() {
        let affinity = AffinityFound {
            backend: "127.0.0.1:5001".parse().unwrap(),
            age_seconds: 3,
            expires_in_seconds: 10_797,
        };
        let found = Found {
            reason: Some("affinity".to_owned()),
            affinity: Some(affinity),
            ..found()
        };
        let expected = "203.0.113.9 goes to 127.0.0.1:5001 of web: the client was sent there 3s \
                        ago, which counts for 2h 59m 57s more";
        assert_eq!(choice(&found, &none()), expected);
    }

    #[test]
    fn a_client_whose_backend_is_away_goes_to_the_next() {
        let affinity = AffinityFound {
            backend: "127.0.0.1:5002".parse().unwrap(),
            age_seconds: 3,
            expires_in_seconds: 10_797,
        };
        let found = Found {
            reason: Some("next".to_owned()),
            affinity: Some(affinity),
            ..found()
        };
        let expected = "203.0.113.9 goes to 127.0.0.1:5001 of web: the one that has the client's \
                        slot is away or has its share (it was sent to 127.0.0.1:5002 3s ago)";
        assert_eq!(choice(&found, &none()), expected);
    }

    #[test]
    fn without_a_usable_backend_it_goes_nowhere() {
        let found = Found {
            backend: None,
            reason: None,
            order: Vec::new(),
            ..found()
        };
        let expected = "203.0.113.9 goes nowhere: no backend of web can take it";
        assert_eq!(choice(&found, &none()), expected);
        let expected = "prefix 203.0.113.9/32, slot 12345, no other backend";
        assert_eq!(order(&found).as_deref(), Some(expected));
    }

    #[test]
    fn of_a_long_order_the_first_are_named() {
        let order_of = (1..=20).map(|port| BackendAddress::Ip(([10, 0, 0, 1], port).into()));
        let found = Found {
            order: order_of.collect(),
            ..found()
        };
        assert!(order(&found).unwrap().ends_with("10.0.0.1:8 and 12 more"));
    }
}
