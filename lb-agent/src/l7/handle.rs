//! A request on its way: filters, then the handler of its route, then filters again. All requests take it,
//! over HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use hyper::StatusCode;
use lb_http::Name;

use super::answers::Answer;
use super::context::RequestContext;
use super::exchange::{self, Outcome};
use super::filters::{Chain, Cleared, Permit, Source};
use super::parts::Target;
use super::peer::Peer;
use super::progress::Progress;
use super::rules;

/// Answers a request.
pub(super) async fn handle(
    context: &mut RequestContext,
    peer: &mut impl Peer,
    progress: &Progress,
) -> Outcome {
    let service = Arc::clone(&context.service);
    let lane = context.lane_of(&service);
    let permit = match lane.filters.admit(context) {
        Ok(permit) => permit,
        Err(answer) => return Outcome::Own(answer),
    };
    match &lane.target {
        Target::Backends(_) => exchange::proxy(permit, context, lane, peer, progress).await,
        own => Outcome::Own(configured(permit, context, &lane.filters, own)),
    }
}

/// Refuses a request with a page for `status`.
pub(super) fn refuse(context: &RequestContext, status: StatusCode) -> Cleared<Answer> {
    let filters = &context.lane().filters;
    filters.clear_answer(context, Source::Gateway, context.page(status))
}

/// A redirect, or a fixed answer.
fn configured(
    _permit: Permit,
    context: &RequestContext,
    filters: &Chain,
    target: &Target,
) -> Cleared<Answer> {
    let answer = match target {
        Target::Redirect { to, status } => {
            let Some(to) = rules::location(to, &context.values(None)) else {
                return refuse(context, StatusCode::BAD_REQUEST);
            };
            let mut answer = Answer::empty(*status);
            answer.head.fields.append(Name::Location, &to);
            answer
        }
        Target::Answer {
            status,
            body,
            content_type,
        } => match status.as_u16() {
            204 | 304 => Answer::empty(*status),
            _ => Answer::new(*status, content_type, body.clone()),
        },
        Target::Backends(_) => return refuse(context, StatusCode::INTERNAL_SERVER_ERROR),
    };
    filters.clear_answer(context, Source::Route, answer)
}
