//! Refuses paths that a backend may read otherwise than this service does, if that matters
//! (`ambiguous_paths`).

use std::sync::Arc;

use hyper::StatusCode;

use super::{Filter, Verdict};
use crate::request::{Backends, Request};
use crate::routes::Guards;

struct Paths {
    guards: Arc<Guards>,
    /// The route's own.
    place: usize,
}

pub(super) fn filter(guards: Option<(Arc<Guards>, usize)>) -> Option<Box<dyn Filter>> {
    let (guards, place) = guards?;
    Some(Box::new(Paths { guards, place }))
}

impl Filter for Paths {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        let host = std::str::from_utf8(request.head.host()).unwrap_or_default();
        let path = String::from_utf8_lossy(request.head.path());
        match self.guards.is_evasive(host, &path, self.place) {
            true => Err(StatusCode::BAD_REQUEST.into()),
            false => Ok(None),
        }
    }
}
