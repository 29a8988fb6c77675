//! Cache, limits, lists, bans and passwords of a service, for `status`.

use std::collections::BTreeSet;

use crate::control::status::guards::{
    AccessStatus, AuthStatus, CacheCounts, CacheSize, GuardStatus, LimitStatus,
};
use crate::state::desired::{Desired, Service};
use crate::state::overlay;
use lb_config::http::{HttpService, Limit, LimitKey};
use lb_http::metrics::ServiceFigures;
use lb_http::{CacheResult, Engine, LimitFigures};

/// Those of `service`.
pub(super) fn of(service: &Service, desired: &Desired, engine: &Engine) -> GuardStatus {
    let access = access(service, desired);
    let Some(http) = &service.http else {
        return GuardStatus {
            access,
            ..GuardStatus::default()
        };
    };
    let figures = engine.service_figures(&http.name);
    let of_limits = engine.limit_figures(http);
    let of_limit = |limit: &Limit| {
        let found = of_limits.iter().find(|(name, _)| *name == limit.name);
        found.map_or_else(LimitFigures::default, |(_, figures)| *figures)
    };
    let of_routes = http.routes.iter().flat_map(|route| &route.request_limits);
    let limits = http.request_limits.iter().chain(of_routes);
    GuardStatus {
        cache: http.settings.cache.as_ref().map(|_| cache(&figures)),
        limits: limits.map(|it| limit(it, of_limit(it))).collect(),
        access,
        auth: auth(http, &figures),
    }
}

/// The size of the response cache; `None` if no service has one.
pub(super) fn cache_size(engine: &Engine) -> Option<CacheSize> {
    let figures = engine.cache()?;
    Some(CacheSize {
        bytes: figures.bytes,
        capacity: figures.capacity,
        entries: figures.entries,
    })
}

fn cache(figures: &ServiceFigures) -> CacheCounts {
    let of = |result: CacheResult| figures.cache[result as usize];
    CacheCounts {
        hit: of(CacheResult::Hit),
        miss: of(CacheResult::Miss),
        stale: of(CacheResult::Stale),
        revalidated: of(CacheResult::Revalidated),
    }
}

fn limit(limit: &Limit, figures: LimitFigures) -> LimitStatus {
    LimitStatus {
        name: limit.name.clone(),
        path: match limit.path.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        },
        key: match &limit.key {
            LimitKey::Client => "client".to_owned(),
            LimitKey::Session => "session".to_owned(),
            LimitKey::Header(name) => format!("header {name}"),
            LimitKey::Cookie(name) => format!("cookie {name}"),
        },
        rate: limit.rate.as_ref().map(ToString::to_string),
        burst: limit.rate.as_ref().map(|rate| rate.burst),
        concurrent: limit.concurrent,
        dry_run: limit.dry_run,
        refused: figures.refused,
        would_refuse: figures.would_refuse,
    }
}

fn access(service: &Service, desired: &Desired) -> AccessStatus {
    let now_ms = overlay::steady_ms();
    let is_for = |name: &Option<String>| name.as_ref().is_none_or(|name| *name == service.name);
    // Clients come to a service by its addresses.
    let bans = desired.bans.iter().filter(|_| !service.listen.is_empty());
    AccessStatus {
        allow: service.allow.len(),
        deny: service.deny.len(),
        bans: bans
            .filter(|ban| ban.lasts(now_ms) && is_for(&ban.service))
            .count(),
    }
}

fn auth(http: &HttpService, figures: &ServiceFigures) -> Option<AuthStatus> {
    let users = http.users().map(|auth| auth.users.display().to_string());
    let users: BTreeSet<String> = users.collect();
    http.auths().next().map(|_| AuthStatus {
        users: users.into_iter().collect(),
        refused: figures.denied,
    })
}
