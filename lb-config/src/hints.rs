//! Remedies for unknown keys: the table of the schema that a key belongs to, and the words of other programs.

use std::sync::LazyLock;

use super::schema::{Place, places};
use super::{foreign, raw};

/// Most tables that are proposed for a key.
const MOST: usize = 3;

static PLACES: LazyLock<Vec<Place>> = LazyLock::new(places::<raw::Raw>);

/// A remedy for the unknown `key` in the table at `path`, as in `service[0].http`.
pub(super) fn of_key(path: &str, key: &str) -> Option<String> {
    let elsewhere = elsewhere(&without_indices(path), key);
    match (foreign::key(key), elsewhere) {
        (Some(translated), Some(elsewhere)) => {
            Some(format!("{translated}; that of lb-agent: {elsewhere}"))
        }
        (translated, elsewhere) => translated.or(elsewhere),
    }
}

/// `service[0].backends[1]` without the numbers.
fn without_indices(path: &str) -> String {
    let mut parts = path.split('[');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        name + part.split_once(']').map_or("", |(_, rest)| rest)
    })
}

/// The tables that have `key`, if the table `here` has not.
fn elsewhere(here: &str, key: &str) -> Option<String> {
    let having = PLACES.iter().filter(|place| place.keys.contains(&key));
    let headings: Vec<&str> = likeliest(here, having.collect())
        .iter()
        .map(|place| place.heading.as_str())
        .collect();
    match headings.as_slice() {
        [] => None,
        [one] => Some(format!("it belongs under {one}")),
        [others @ .., last] if others.len() < MOST => {
            Some(format!("it belongs under {} or {last}", others.join(", ")))
        }
        _ => None,
    }
}

/// Of the tables `having` a key those that are nearest to `here`: of the same name, else around it or inside it, else
/// all. Of these the least nested ones.
fn likeliest<'a>(here: &str, having: Vec<&'a Place>) -> Vec<&'a Place> {
    let is_namesake = |place: &&Place| name(&place.path) == name(here);
    let is_related = |place: &&Place| is_inside(here, &place.path) || is_inside(&place.path, here);
    let subset = |is_likely: &dyn Fn(&&'a Place) -> bool| {
        let likely = having.iter().copied().filter(is_likely);
        likely.collect::<Vec<&Place>>()
    };
    let subsets = [subset(&is_namesake), subset(&is_related), subset(&|_| true)];
    let likely = subsets.into_iter().find(|places| !places.is_empty());
    let mut likely = likely.unwrap_or_default();
    let depth = |place: &Place| place.path.matches('.').count();
    let least = likely.iter().map(|place| depth(place)).min();
    likely.retain(|place| Some(depth(place)) == least);
    likely
}

/// The last part of a path.
fn name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or_default()
}

/// Whether the table `inner` is below the table `outer`. Every table is below the document, whose path is empty.
fn is_inside(inner: &str, outer: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| outer.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_at_the_wrong_level_is_told_its_table() {
        for (path, key, expected) in [
            (
                "service[0]",
                "trusted_proxies",
                "it belongs under [service.http]",
            ),
            ("service[0]", "max_clients", "it belongs under [agent]"),
            (
                "service[0]",
                "retries",
                "it belongs under [service.http.upstream]",
            ),
            (
                "service[0].http",
                "backends",
                "it belongs under [[service]]",
            ),
            ("service[0].http", "http2", "it belongs under [service.tls]"),
            (
                "service[0].route[3].timeouts",
                "header",
                "it belongs under [service.http.timeouts]",
            ),
            (
                "service[0].backends[1]",
                "listen",
                "it belongs under [[service]]",
            ),
            ("", "name", "it belongs under [[service]]"),
            (
                "",
                "timeouts",
                "it belongs under [service.http] or [[service.route]]",
            ),
        ] {
            assert_eq!(of_key(path, key).as_deref(), Some(expected), "{path} {key}");
        }
        assert_eq!(of_key("service[0]", "nonsense"), None);
    }

    #[test]
    fn directive_of_another_program_is_translated() {
        let hint = of_key("service[0]", "client_max_body_size").unwrap();
        assert_eq!(
            hint,
            "for client_max_body_size of nginx write body = \"10MiB\" under [service.http.limits]"
        );
        let hint = of_key("", "ip_hash").unwrap();
        assert!(hint.starts_with("leave it out"), "{hint}");
        let hint = of_key("service[0]", "upstream").unwrap();
        assert!(
            hint.ends_with("under [[service]]; that of lb-agent: it belongs under [service.http]"),
            "{hint}"
        );
    }
}
