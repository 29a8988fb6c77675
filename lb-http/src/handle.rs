//! A request on its way: filters, then the handler of its route, then filters again. All requests take it,
//! over HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use hyper::StatusCode;
use lb_http1::Name;

use super::answers::Answer;
use super::compiled::Target;
use super::context::RequestContext;
use super::exchange::{self, Outcome, unless_gone};
use super::filters::{Cleared, Permit, Source, Stopped};
use super::peer::Peer;
use super::progress::Progress;
use super::record::{DENIED, Record};
use super::{rules, serve_cached, serve_files};

/// Answers a request.
pub(super) async fn handle(
    context: &mut RequestContext,
    record: &mut Record,
    peer: &mut impl Peer,
    progress: &Progress,
) -> Outcome {
    let service = Arc::clone(&context.service);
    let route = context.route_of(&service);
    let Some(admitted) = unless_gone(peer, context.admit(route)).await else {
        return Outcome::Gone;
    };
    record.limited(std::mem::take(&mut context.limited));
    if let Some(outcome) = &context.auth {
        record.asked(outcome);
    }
    let permit = match admitted {
        Ok(permit) => permit,
        Err(Stopped::Refused(refusal)) => {
            if let Some(why) = refusal.why {
                record.refused(why);
            }
            return Outcome::Own(context.refuse_for(refusal));
        }
        Err(Stopped::Denied(answer)) => {
            record.refused(DENIED);
            return Outcome::Own(context.clear(Source::Gateway, answer));
        }
        Err(Stopped::Answered(answer)) => {
            return Outcome::Own(context.clear(Source::Gateway, answer));
        }
    };
    let backends = match &route.target {
        Target::Backends(backends) => *backends,
        Target::Files(site, Some(backends)) => {
            let sides = (&mut *context, &mut *record);
            match serve_files::serve_if_there(permit.again(), sides, site).await {
                Some(outcome) => return outcome,
                None => *backends,
            }
        }
        Target::Files(site, None) => {
            return serve_files::serve(permit, (context, record), site).await;
        }
        own => {
            record.by_route();
            return Outcome::Own(configured(permit, context, own));
        }
    };
    let place = (&*service, route, backends);
    let sides = (context, record);
    match &route.cache {
        Some(cache) => serve_cached::serve(permit, sides, place, cache, (peer, progress)).await,
        None => exchange::proxy(permit, sides, place, peer, progress).await,
    }
}

/// A redirect, or a fixed answer.
fn configured(_permit: Permit, context: &RequestContext, target: &Target) -> Cleared<Answer> {
    let answer = match target {
        Target::Redirect { to, status } => {
            let Some(to) = rules::location(to, &context.values(&context.service.http.name, None))
            else {
                return context.refuse(StatusCode::BAD_REQUEST);
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
        Target::Backends(_) | Target::Files(..) => {
            return context.refuse(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    context.clear(Source::Route, answer)
}
