//! Stickiness: the keys that keep a client with its backend, beyond its address.
//!
//! | file | owns |
//! | --- | --- |
//! | `cookie` | the signed cookie that names a backend |
//! | `engineio` | the requests and the handshake of Engine.IO, below Socket.IO |
//! | `sniffer` | sessions from their first answer to the end of their tunnel |
//! | `sessions` | which backend has which Socket.IO session |
//! | `spread` | new sessions by weight |

pub(crate) mod cookie;
pub(crate) mod engineio;
pub(crate) mod sessions;
pub(crate) mod sniffer;
pub(crate) mod spread;

use std::net::IpAddr;

use lb_common::abi::{BackendId, ServiceHead};
use lb_common::addr::{self, Addr};
use lb_common::hash;
use lb_common::select::Client;
use lb_http1::Fields;

use cookie::Cookies;
use lb_config::http::Stickiness;
use sessions::Sessions;

/// The key of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The client's address.
    Address(IpAddr),
    /// Something else that takes the place of an address.
    Token(Addr),
    /// It names its backend.
    Backend(BackendId),
    /// It is of a session that this backend has, and no other.
    Session(BackendId),
    /// Nothing yet: it may go anywhere, and its answer says how it is known from then on.
    New,
}

/// The key of a request, and the action for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StickyKey {
    /// The key of the request.
    pub key: Key,
    /// The action for its answer.
    pub action: StickyAction,
}

/// The action for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StickyAction {
    /// Nothing.
    Nothing,
    /// If it comes from another backend than the cookie named, it gets a cookie.
    Cookie,
    /// The answer may be the handshake of a session, whose id is to be learnt.
    Learn,
    /// It is of this session: when it is refused, or was a tunnel that is over, the session is.
    Session(String),
}

/// The key of a request with this `query`.
pub(crate) fn known(
    stickiness: &Stickiness,
    head: &ServiceHead,
    client: IpAddr,
    fields: &Fields,
    query: Option<&[u8]>,
    memory: Memory<'_>,
) -> StickyKey {
    let address = Key::Address(client);
    let only = |key| StickyKey {
        key,
        action: StickyAction::Nothing,
    };
    match stickiness {
        Stickiness::Address => only(address),
        Stickiness::Header(name) => {
            let value = fields.called(name.as_str().as_bytes()).next();
            only(value.map_or(address, |value| token(head, value)))
        }
        Stickiness::Query(name) => {
            let value = query.and_then(|query| query_value(query, name));
            only(value.map_or(address, |value| token(head, value)))
        }
        Stickiness::Cookie(_) => StickyKey {
            key: memory
                .cookies
                .and_then(|cookies| cookies.named_in(fields))
                .map_or(Key::New, Key::Backend),
            action: StickyAction::Cookie,
        },
        Stickiness::SocketIo => match query.and_then(engineio::asked) {
            None => only(address),
            Some(asked) => of_session(asked, head, address, memory.sessions),
        },
    }
}

/// The remembered key.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a> {
    /// Of the service, if it has cookies.
    pub cookies: Option<&'a Cookies>,
    /// Of Socket.IO.
    pub sessions: &'a Sessions,
}

fn of_session(
    asked: engineio::Asked<'_>,
    head: &ServiceHead,
    address: Key,
    sessions: &Sessions,
) -> StickyKey {
    let Some(sid) = asked.sid else {
        // A session that begins as a WebSocket has no second request.
        let action = if asked.polling {
            StickyAction::Learn
        } else {
            StickyAction::Nothing
        };
        return StickyKey {
            key: Key::New,
            action,
        };
    };
    StickyKey {
        key: sessions
            .backend_of(head.id, &sid)
            .map_or(address, Key::Session),
        action: StickyAction::Session(sid.into_owned()),
    }
}

/// The value of a key in a query, as it is written there; `None` if it is empty.
fn query_value<'a>(query: &'a [u8], name: &str) -> Option<&'a [u8]> {
    query
        .split(|byte| *byte == b'&')
        .filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .find(|value| !value.is_empty())
}

/// The stand-in address for `value`: an address of the discard-only block (RFC 6666), which no client has.
fn token(head: &ServiceHead, value: &[u8]) -> Key {
    let digest = hash::bytes(head.hash_key, value);
    let mut prefix = [0; 16];
    prefix[0] = 1;
    prefix[7] = 1;
    prefix[8..].copy_from_slice(&digest.to_be_bytes());
    Key::Token(prefix)
}

impl Key {
    /// The client in the tables for this key; `None` if the tables have no part in it.
    pub(crate) fn client(&self, head: &ServiceHead) -> Option<Client> {
        match self {
            Self::Address(ip) => Some(Client::new(head, &addr::from_ip(*ip))),
            Self::Token(prefix) => Some(Client::with_prefix(head, *prefix)),
            Self::Backend(_) | Self::Session(_) | Self::New => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;
    use lb_common::abi::ServiceId;
    use lb_common::hash::ClientHash;

    fn head() -> ServiceHead {
        ServiceHead {
            clients: ClientHash::new([1, 2], 3),
            hash_key: [1, 2],
            affinity_ns: 0,
            total_weight: 0,
            id: ServiceId(7),
            members: 0,
            max_load_permille: 0,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            flags: 0,
        }
    }

    fn of(
        stickiness: &Stickiness,
        headers: &Fields,
        query: &str,
        sessions: &Sessions,
    ) -> StickyKey {
        let memory = Memory {
            cookies: None,
            sessions,
        };
        let client = "203.0.113.9".parse().unwrap();
        known(
            stickiness,
            &head(),
            client,
            headers,
            Some(query.as_bytes()),
            memory,
        )
    }

    const ADDRESS: Key = Key::Address(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)));

    #[test]
    fn a_header_or_a_query_key_takes_the_place_of_the_address() {
        let sessions = Sessions::new(8);
        let mut headers = Fields::new();
        headers.append_called(b"X-User", b"ann");
        let by_header = Stickiness::Header(HeaderName::from_static("x-user"));
        let by_query = Stickiness::Query("room".to_owned());
        let ann = of(&by_header, &headers, "", &sessions).key;
        assert_eq!(of(&by_query, &headers, "a=b&room=ann", &sessions).key, ann);
        assert_ne!(of(&by_query, &headers, "room=bob", &sessions).key, ann);
        assert_eq!(of(&by_query, &headers, "room=", &sessions).key, ADDRESS);
        assert_eq!(of(&by_header, &Fields::new(), "", &sessions).key, ADDRESS);
    }

    #[test]
    fn a_session_is_new_then_learnt_then_followed() {
        let sessions = Sessions::new(8);
        let none = Fields::new();
        let ask = |query: &str| of(&Stickiness::SocketIo, &none, query, &sessions);
        let first = ask("EIO=4&transport=polling&t=x");
        assert_eq!((first.key, first.action), (Key::New, StickyAction::Learn));
        sessions.learn(ServiceId(7), "abc", BackendId(9));
        let second = ask("EIO=4&transport=websocket&sid=abc");
        assert_eq!(second.key, Key::Session(BackendId(9)));
        assert_eq!(second.action, StickyAction::Session("abc".to_owned()));
        assert_eq!(ask("EIO=4&transport=polling&sid=other").key, ADDRESS);
        let straight = ask("EIO=4&transport=websocket");
        assert_eq!(
            (straight.key, straight.action),
            (Key::New, StickyAction::Nothing)
        );
        assert_eq!(ask("page=1").key, ADDRESS);
    }
}
