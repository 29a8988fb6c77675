//! A request that has passed this service before goes in circles, and is refused (RFC 9110, section
//! 7.6.3).

use hyper::StatusCode;

use super::Filter;
use crate::l7::answers::Answer;
use crate::l7::context::RequestContext;

struct Loops;

pub(super) fn filter(is_proxied: bool) -> Option<Box<dyn Filter>> {
    is_proxied.then(|| Box::new(Loops) as Box<dyn Filter>)
}

impl Filter for Loops {
    fn request(&self, context: &mut RequestContext) -> Result<Option<Answer>, StatusCode> {
        let version = context.head.version;
        let via = &context.service.parts.via;
        match via.pass(&mut context.head.fields, version) {
            true => Ok(None),
            false => Err(StatusCode::LOOP_DETECTED),
        }
    }
}
