//! Cache, limits, lists, bans and passwords of a service, a line each.

use crate::control::status::ServiceStatus;
use crate::control::status::guards::{AuthStatus, CacheCounts, CacheSize, LimitStatus};

/// The lines of a service; none for parts that it has not.
pub(super) fn lines(service: &ServiceStatus) -> Vec<String> {
    let guards = &service.guards;
    let cache = guards.cache.as_ref().map(cache);
    let limits = guards.limits.iter().map(limit);
    let auth = guards.auth.as_ref().map(auth);
    cache
        .into_iter()
        .chain(limits)
        .chain(access(service))
        .chain(auth)
        .collect()
}

/// The size of the response cache, as in "cache 1.5 of 128.0 MiB in 12 entries".
pub(super) fn cache_size(size: &CacheSize) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "cache {:.1} of {:.1} MiB in {} entries",
        mib(size.bytes),
        mib(size.capacity),
        size.entries
    )
}

fn cache(counts: &CacheCounts) -> String {
    let CacheCounts {
        hit,
        miss,
        stale,
        revalidated,
    } = counts;
    let percent = counts.percent();
    let part = percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"));
    format!(
        "cache: {part} from memory; {hit} hit, {stale} stale, {revalidated} revalidated, {miss} miss"
    )
}

fn limit(limit: &LimitStatus) -> String {
    let LimitStatus {
        name,
        path,
        key,
        rate,
        burst: _,
        concurrent,
        dry_run,
        refused,
        would_refuse,
    } = limit;
    let concurrent = concurrent.map(|most| format!("{most} at once"));
    let most: Vec<String> = rate.iter().cloned().chain(concurrent).collect();
    let below = match path.as_str() {
        "/" => String::new(),
        path => format!(" at {path}"),
    };
    let count = match dry_run {
        true => format!("{would_refuse} above it passed on (dry_run)"),
        false => format!("{refused} refused"),
    };
    format!("limit {name}: {} by {key}{below}; {count}", most.join(", "))
}

/// Lists and bans; the clients that they refused stand in the line of the clients.
fn access(service: &ServiceStatus) -> Option<String> {
    let access = &service.guards.access;
    let parts = [
        (access.allow, "in allow"),
        (access.deny, "in deny"),
        (access.bans, if access.bans == 1 { "ban" } else { "bans" }),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    (!parts.is_empty()).then(|| format!("access: {}", parts.join(", ")))
}

fn auth(auth: &AuthStatus) -> String {
    let by = match auth.users.as_slice() {
        [] => "authentication by another server".to_owned(),
        users => format!("passwords: {}", users.join(", ")),
    };
    format!("{by}; {} refused", auth.refused)
}
