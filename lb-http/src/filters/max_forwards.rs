//! `Max-Forwards` of OPTIONS is counted down; at zero the answer is ours (RFC 9110, section 7.6.2).

use hyper::{Method, StatusCode};
use lb_http1::{Name, list};

use super::{Filter, Verdict};
use crate::answers::Answer;
use crate::request::{Backends, Request};

struct MaxForwards;

#[expect(
    clippy::unnecessary_wraps,
    reason = "as for all filters: it is in every chain"
)]
pub(super) fn filter() -> Option<Box<dyn Filter>> {
    Some(Box::new(MaxForwards))
}

impl Filter for MaxForwards {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        let head = &mut request.head;
        if head.method != Method::OPTIONS {
            return Ok(None);
        }
        let Some(value) = head.fields.get(Name::MaxForwards) else {
            return Ok(None);
        };
        let left = list::number(value.trim_ascii()).ok_or(StatusCode::BAD_REQUEST)?;
        let Some(left) = left.checked_sub(1) else {
            return Ok(Some(Answer::empty(StatusCode::NO_CONTENT)));
        };
        head.fields.set_number(Name::MaxForwards, left);
        Ok(None)
    }
}
