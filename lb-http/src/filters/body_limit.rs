//! A body that says how large it is, and is too large, is not even asked for. One that does not say it
//! is counted on its way (see `upload`).

use hyper::StatusCode;
use lb_http1::Framing;

use super::{Filter, Verdict};
use crate::request::{Backends, Request};

struct BodyLimit {
    /// Bytes.
    most: u64,
}

pub(super) fn filter(most: Option<u64>) -> Option<Box<dyn Filter>> {
    Some(Box::new(BodyLimit { most: most? }))
}

impl Filter for BodyLimit {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        match request.framing {
            Framing::Length(length) if length > self.most => {
                Err(StatusCode::PAYLOAD_TOO_LARGE.into())
            }
            _ => Ok(None),
        }
    }
}
