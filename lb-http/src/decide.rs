//! The backend of a request that is not sent, for `lookup`. Key and choice are those of `sticky` and `settings`.

use std::sync::Arc;

use lb_common::abi::BackendId;
use lb_common::addr::Addr;
use lb_config::http::{Action, HttpService, Route, Stickiness};
use lb_http1::Fields;

use crate::compiled;
use crate::engine::Engine;
use crate::settings::Snapshot;
use crate::sticky::{self, Key, Memory};

/// The parts of a request that stickiness reads.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Name of the service, which may be that of a route's backends.
    pub service: &'a str,
    /// Address of the client.
    pub client: std::net::IpAddr,
    /// Names and values of headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// The query, without its question mark.
    pub query: Option<&'a str>,
}

/// The decision about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The tables decide, by the client's address.
    Address,
    /// The tables decide, by the stand-in address of a header's or query key's value.
    Token(Addr),
    /// The request's cookie names this backend, which keeps its clients.
    Cookie(BackendId),
    /// This backend has the request's session.
    Session(BackendId),
    /// The backend that had the request's session is gone.
    SessionOver,
    /// The request begins a session. These backends, in the order of their indices, get such requests in
    /// turn, by weight.
    Any(Vec<BackendId>),
}

impl Engine {
    /// The stickiness of a service, which for a route's backends is that of its service. `None` without an HTTP
    /// service of this name.
    pub fn stickiness(&self, service: &str) -> Option<&Stickiness> {
        let (http, _) = configured(self.published()?, service)?;
        Some(&http.settings.stickiness)
    }

    /// The decision about a request. Backends in `passed` take none, as after a failed connection. Like a request, it
    /// renews the memory of its session. `None` without an HTTP service of this name with tables.
    pub fn decide(&self, sample: &Sample<'_>, passed: &[BackendId]) -> Option<Decision> {
        let snapshot = self.published()?;
        let (http, route) = configured(snapshot, sample.service)?;
        let tables = &*snapshot.tables;
        let id = tables.service(sample.service)?;
        let table = tables.table(id)?;
        let mut fields = Fields::new();
        for (name, value) in sample.headers {
            fields.append_called(name.as_bytes(), value.as_bytes());
        }
        let cookies = compiled::cookies(http, route, id, tables, compiled::secret(http, tables));
        let memory = Memory {
            cookies: cookies.as_ref(),
            sessions: &snapshot.sessions,
        };
        let query = sample.query.map(str::as_bytes);
        let stickiness = &http.settings.stickiness;
        let key = sticky::known(
            stickiness,
            &table.head,
            sample.client,
            &fields,
            query,
            memory,
        )
        .key;
        let kept = snapshot.kept(id, key, passed);
        Some(match (key, kept) {
            (Key::Address(_), _) => Decision::Address,
            (Key::Token(prefix), _) => Decision::Token(prefix),
            (Key::Session(_), Some(backend)) => Decision::Session(backend),
            (Key::Session(_), None) => Decision::SessionOver,
            (_, Some(backend)) => Decision::Cookie(backend),
            (Key::Backend(_) | Key::New, None) => {
                let candidates = snapshot.candidates(table, passed);
                let mut candidates: Vec<_> = candidates.map(|(backend, _)| backend).collect();
                candidates.sort_by_key(|backend| backend.index());
                Decision::Any(candidates)
            }
        })
    }
}

/// The HTTP service that has the backends called `name`, with their route if they are a route's.
fn configured<'a>(
    snapshot: &'a Snapshot,
    name: &str,
) -> Option<(&'a Arc<HttpService>, Option<&'a Route>)> {
    let mut services = snapshot.services.values().map(|service| &service.http);
    services.find_map(|http| {
        let is_own = |route: &&Route| {
            matches!(
                &route.action,
                Action::Forward(to) | Action::Files { otherwise: Some(to), .. } if to == name
            )
        };
        if http.name == name {
            return Some((http, None));
        }
        let route = http.routes.iter().find(is_own)?;
        Some((http, Some(route)))
    })
}
