//! Paths that a backend may read otherwise than this service does are refused, where that matters
//! (`ambiguous_paths`).

use hyper::StatusCode;

use super::Filter;
use crate::config::http::{Action, AmbiguousPaths, Route};
use crate::l7::answers::Answer;
use crate::l7::context::RequestContext;

struct Paths;

pub(super) fn filter(setting: AmbiguousPaths, routes: &[Route]) -> Option<Box<dyn Filter>> {
    let answers_itself = |route: &Route| !matches!(route.action, Action::Forward(_));
    let guards = setting == AmbiguousPaths::Refuse && routes.iter().any(answers_itself);
    guards.then(|| Box::new(Paths) as Box<dyn Filter>)
}

impl Filter for Paths {
    fn request(&self, context: &mut RequestContext) -> Result<Option<Answer>, StatusCode> {
        match context.is_evasive() {
            true => Err(StatusCode::BAD_REQUEST),
            false => Ok(None),
        }
    }
}
