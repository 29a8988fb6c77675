//! A request that has passed this service before goes in circles, and is refused (RFC 9110, section
//! 7.6.3).

use hyper::StatusCode;

use super::{Filter, Verdict};
use crate::forwarded::Via;
use crate::request::{Backends, Request};

struct Loops(Via);

pub(super) fn filter(via: Option<Via>) -> Option<Box<dyn Filter>> {
    Some(Box::new(Loops(via?)))
}

impl Filter for Loops {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        let version = request.head.version;
        match self.0.pass(&mut request.head.fields, version) {
            true => Ok(None),
            false => Err(StatusCode::LOOP_DETECTED.into()),
        }
    }
}
