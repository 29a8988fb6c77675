//! Answers are compressed (see `compress`).

use hyper::StatusCode;

use super::{Filter, Response};
use crate::config::http as config;
use crate::l7::answers::Answer;
use crate::l7::compress::{Asked, Compressor, give_back_tags};
use crate::l7::context::RequestContext;

struct Compression(Compressor);

pub(super) fn filter(settings: &config::Compression) -> Option<Box<dyn Filter>> {
    Some(Box::new(Compression(Compressor::new(settings)?)))
}

impl Filter for Compression {
    fn request(&self, context: &mut RequestContext) -> Result<Option<Answer>, StatusCode> {
        context.asked = Some(Asked::new(&context.head));
        give_back_tags(&mut context.head.fields);
        Ok(None)
    }

    fn response(&self, context: &RequestContext, response: &mut Response<'_>) {
        if let Some(asked) = &context.asked {
            response.coding = self.0.plan(asked, response.head, response.length);
        }
    }
}
