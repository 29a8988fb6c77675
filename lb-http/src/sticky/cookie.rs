//! The cookie that keeps a client with its backend. Its value is a code of the backend's address
//! under a secret (HMAC-SHA-256, RFC 2104): it reveals nothing, and clients cannot forge one.

use std::collections::HashMap;

use aws_lc_rs::hmac;
use lb_common::abi::{Backend, BackendId};
use lb_http1::{Fields, Name};

use lb_config::http::{SameSite, StickyCookie};

/// Bytes of a code: half of the whole, which RFC 2104, section 5, has as the least.
const CODE: usize = 16;

/// The cookies of one service's backends.
#[derive(Debug)]
pub(crate) struct Cookies {
    settings: StickyCookie,
    path: String,
    backends: HashMap<[u8; CODE], BackendId>,
}

impl Cookies {
    /// Cookies for `backends`, those that are draining included. `path` is that of the service.
    pub(crate) fn new<'a>(
        settings: &StickyCookie,
        path: &str,
        secret: [u64; 2],
        service: &str,
        backends: impl IntoIterator<Item = &'a Backend>,
    ) -> Self {
        let key = key(secret, service);
        let coded = |backend: &Backend| (code(&key, backend), backend.id);
        Self {
            settings: settings.clone(),
            path: match &settings.path {
                Some(path) => path.clone(),
                None if path.is_empty() => "/".to_owned(),
                None => path.to_owned(),
            },
            backends: backends.into_iter().map(coded).collect(),
        }
    }

    /// The backend that a request's cookie names. Cookies of the same name for another path, and
    /// forged ones, name no backend.
    pub(crate) fn named_in(&self, fields: &Fields) -> Option<BackendId> {
        fields
            .all(Name::Cookie)
            .flat_map(|line| line.split(|byte| *byte == b';'))
            .filter_map(|pair| {
                let value = pair
                    .trim_ascii_start()
                    .strip_prefix(self.settings.name.as_bytes())?;
                self.backends.get(&from_hex(value.strip_prefix(b"=")?)?)
            })
            .next()
            .copied()
    }

    /// The value of Set-Cookie that names `backend`; `None` if there is no such backend any more.
    pub(crate) fn set(&self, backend: BackendId, https: bool) -> Option<String> {
        let (code, _) = self.backends.iter().find(|(_, id)| **id == backend)?;
        let StickyCookie {
            name,
            max_age,
            same_site,
            secure,
            domain,
            path: _,
        } = &self.settings;
        let mut text = format!("{name}={}; Path={}", hex(code), self.path);
        if let Some(domain) = domain {
            text.push_str(&format!("; Domain={domain}"));
        }
        if let Some(age) = max_age {
            text.push_str(&format!("; Max-Age={}", age.as_secs()));
        }
        text.push_str("; HttpOnly; SameSite=");
        text.push_str(match same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        });
        if secure.unwrap_or(https || *same_site == SameSite::None) {
            text.push_str("; Secure");
        }
        Some(text)
    }
}

fn key(secret: [u64; 2], service: &str) -> hmac::Key {
    let [first, second] = secret.map(u64::to_be_bytes);
    // The secret has other uses too, so the signed text names its purpose.
    let purpose = [&first[..], &second[..], b"cookie of ", service.as_bytes()].concat();
    hmac::Key::new(hmac::HMAC_SHA256, &purpose)
}

fn code(key: &hmac::Key, backend: &Backend) -> [u8; CODE] {
    let mut message = [0; 18];
    message[..16].copy_from_slice(&backend.addr);
    message[16..].copy_from_slice(&backend.port.to_be_bytes());
    let tag = hmac::sign(key, &message);
    let mut code = [0; CODE];
    code.copy_from_slice(&tag.as_ref()[..CODE]);
    code
}

fn hex(code: &[u8; CODE]) -> String {
    format!("{:032x}", u128::from_be_bytes(*code))
}

fn from_hex(text: &[u8]) -> Option<[u8; CODE]> {
    let text = std::str::from_utf8(text.trim_ascii_end()).ok()?;
    let digits = text.len() == 2 * CODE && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = digits
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten();
    number.map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::{ServiceId, path, protocol, state};

    fn backend(port: u16) -> Backend {
        Backend {
            addr: [0; 16],
            port,
            protocol: protocol::TCP,
            state: state::UP,
            id: BackendId(port.into()),
            service: ServiceId(1),
            weight: 1,
            path: path::PROXY,
            pad: 0,
        }
    }

    fn settings() -> StickyCookie {
        StickyCookie {
            name: "lb".to_owned(),
            max_age: None,
            same_site: SameSite::Lax,
            secure: None,
            domain: None,
            path: None,
        }
    }

    fn cookies(secret: u64, service: &str) -> Cookies {
        let backends = [backend(1), backend(2)];
        Cookies::new(&settings(), "", [secret, 2], service, &backends)
    }

    fn sent(value: &str) -> Fields {
        let mut fields = Fields::new();
        fields.append(Name::Cookie, value.as_bytes());
        fields
    }

    fn value(cookies: &Cookies, id: u32) -> String {
        let set = cookies.set(BackendId(id), false).unwrap();
        let (pair, _) = set.split_once(';').unwrap();
        pair.to_owned()
    }

    #[test]
    fn a_cookie_leads_back_to_its_backend() {
        let ours = cookies(1, "app");
        for id in [1, 2] {
            let pair = value(&ours, id);
            let named = |header: &str| ours.named_in(&sent(header));
            assert_eq!(named(&pair), Some(BackendId(id)));
            assert_eq!(named(&format!("a=b; {pair}; c=d")), Some(BackendId(id)));
            assert_eq!(named(&format!("lb=old; {pair}")), Some(BackendId(id)));
            assert_eq!(named(&format!("x{pair}")), None);
        }
    }

    #[test]
    fn a_cookie_that_was_made_up_names_nobody() {
        let ours = cookies(1, "app");
        assert_eq!(ours.named_in(&sent(&value(&cookies(9, "app"), 1))), None);
        assert_eq!(ours.named_in(&sent(&value(&cookies(1, "other"), 1))), None);
        assert_eq!(
            ours.named_in(&sent(&format!("lb={}", "0".repeat(32)))),
            None
        );
        assert_eq!(ours.named_in(&sent("lb=")), None);
        assert_eq!(
            ours.named_in(&sent("lb=+0000000000000000000000000000000")),
            None
        );
    }

    #[test]
    fn scripts_cannot_read_it_and_other_sites_do_not_send_it() {
        let backends = [backend(1)];
        let attributes = |settings: &StickyCookie, https| {
            let cookies = Cookies::new(settings, "/api", [1, 2], "app", &backends);
            assert_eq!(cookies.set(BackendId(3), https), None);
            let set = cookies.set(BackendId(1), https).unwrap();
            set.split_once("; ").unwrap().1.to_owned()
        };
        let aged = StickyCookie {
            max_age: Some(std::time::Duration::from_secs(60)),
            ..settings()
        };
        assert_eq!(
            attributes(&aged, true),
            "Path=/api; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
        );
        let everywhere = StickyCookie {
            same_site: SameSite::None,
            domain: Some("example.com".to_owned()),
            path: Some("/".to_owned()),
            ..settings()
        };
        assert_eq!(
            attributes(&everywhere, false),
            "Path=/; Domain=example.com; HttpOnly; SameSite=None; Secure"
        );
        let bare = StickyCookie {
            secure: Some(false),
            same_site: SameSite::Strict,
            ..settings()
        };
        assert_eq!(
            attributes(&bare, true),
            "Path=/api; HttpOnly; SameSite=Strict"
        );
    }
}
