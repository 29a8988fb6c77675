//! Answers are compressed (see `compress`).

use super::{Filter, Response, Verdict};
use crate::compress::{Compressor, RequestMeta, give_back_tags};
use crate::request::{Backends, Request};
use lb_config::http as config;

struct Compression(Compressor);

pub(super) fn filter(settings: &config::Compression) -> Option<Box<dyn Filter>> {
    Some(Box::new(Compression(Compressor::new(settings)?)))
}

impl Filter for Compression {
    fn request(&self, request: &mut Request, _backends: &dyn Backends) -> Verdict {
        request.meta = Some(RequestMeta::new(&request.head));
        give_back_tags(&mut request.head.fields);
        Ok(None)
    }

    fn response(&self, request: &Request, _backends: &dyn Backends, response: &mut Response<'_>) {
        if let Some(meta) = &request.meta {
            response.coding = self.0.plan(meta, response.head, response.length);
        }
    }
}
