//! `allow` and `deny`, of which nginx takes the first that fits and lb-agent the longest prefix.

use std::net::IpAddr;

use super::scope::Scope;
use super::tree::Directive;
use crate::document::{Part, texts};

/// `allow` and `deny` of a service.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lists {
    allow: Vec<String>,
    deny: Vec<String>,
}

/// Everybody, of both address families.
const ALL: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The directives `allow` and `deny` that hold in `scope`.
pub(super) fn rules<'a>(scope: &Scope<'a>) -> Vec<&'a Directive> {
    scope.either(&["allow", "deny"])
}

/// The lists with the same meaning as `rules`; the rule that has none as an error.
pub(super) fn lists<'a>(rules: &[&'a Directive]) -> Result<Lists, &'a Directive> {
    let mut lists = Lists::default();
    let mut before: Vec<Prefix> = Vec::new();
    let mut refuses_others = false;
    for rule in rules {
        if rule.arg(0) == "all" {
            refuses_others = rule.name == "deny";
            break;
        }
        // Services listen on addresses, so no client comes by a unix socket.
        if rule.arg(0) == "unix:" {
            continue;
        }
        let prefix = Prefix::parse(rule.arg(0)).ok_or(*rule)?;
        // An earlier rule has taken all of these clients.
        if before.iter().any(|other| other.contains(&prefix)) {
            continue;
        }
        before.push(prefix);
        let list = if rule.name == "allow" {
            &mut lists.allow
        } else {
            &mut lists.deny
        };
        list.push(rule.arg(0).to_owned());
    }
    let everybody = ALL.map(str::to_owned);
    match (
        refuses_others,
        lists.allow.is_empty(),
        lists.deny.is_empty(),
    ) {
        (false, _, true) => lists.allow.clear(),
        (true, true, _) => lists.deny = everybody.to_vec(),
        (true, false, false) => lists.deny.extend(everybody),
        (true, false, true) | (false, _, false) => {}
    }
    Ok(lists)
}

impl Lists {
    /// Sets the keys of `service`.
    pub(super) fn put(&self, service: &mut Part, rules: &[&Directive]) {
        let origin = rules.first().map(|rule| &rule.origin);
        for (name, list) in [("allow", &self.allow), ("deny", &self.deny)] {
            if !list.is_empty() {
                service.set(name, texts(list), origin);
            }
        }
    }
}

/// An address and the number of its bits that count.
struct Prefix(IpAddr, u32);

impl Prefix {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = if bits.is_empty() {
            most
        } else {
            bits.parse().ok()?
        };
        (bits <= most).then_some(Self(address, bits))
    }

    fn contains(&self, other: &Self) -> bool {
        let alike = |one: u128, other: u128, width: u32| {
            (one ^ other).checked_shr(width - self.1).unwrap_or(0) == 0
        };
        self.1 <= other.1
            && match (self.0, other.0) {
                (IpAddr::V4(one), IpAddr::V4(other)) => {
                    alike(one.to_bits().into(), other.to_bits().into(), 32)
                }
                (IpAddr::V6(one), IpAddr::V6(other)) => alike(one.to_bits(), other.to_bits(), 128),
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::tree;

    fn of(text: &str) -> Lists {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules");
        std::fs::write(&path, text).unwrap();
        let top = tree::read(&path).unwrap();
        lists(&top.iter().collect::<Vec<_>>()).unwrap()
    }

    fn both(allow: &[&str], deny: &[&str]) -> Lists {
        let owned = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect();
        Lists {
            allow: owned(allow),
            deny: owned(deny),
        }
    }

    #[test]
    fn first_rule_that_fits_and_longest_prefix_mean_the_same() {
        for (text, allow, deny) in [
            ("deny 192.0.2.1;", &[][..], &["192.0.2.1"][..]),
            ("allow 10.0.0.0/8; deny all;", &["10.0.0.0/8"], &[]),
            (
                "allow 10.0.0.1; deny 10.0.0.0/8;",
                &["10.0.0.1"],
                &["10.0.0.0/8"],
            ),
            (
                "allow 10.0.0.0/8; deny 10.0.0.1; deny all;",
                &["10.0.0.0/8"],
                &[],
            ),
            (
                "deny 10.0.0.1; allow 10.0.0.0/8; deny all;",
                &["10.0.0.0/8"],
                &["10.0.0.1", "0.0.0.0/0", "::/0"],
            ),
            ("deny all;", &[], &["0.0.0.0/0", "::/0"]),
            ("deny 10.0.0.1; deny all;", &[], &["0.0.0.0/0", "::/0"]),
            ("allow 10.0.0.1;", &[], &[]),
            ("allow unix:; deny all;", &[], &["0.0.0.0/0", "::/0"]),
            ("allow unix:; allow 10.0.0.1; deny all;", &["10.0.0.1"], &[]),
            ("allow all; deny 10.0.0.1;", &[], &[]),
            (
                "deny ::1; allow ::/64; deny all;",
                &["::/64"],
                &["::1", "0.0.0.0/0", "::/0"],
            ),
        ] {
            assert_eq!(of(text), both(allow, deny), "{text}");
        }
    }
}
