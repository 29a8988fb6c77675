//! Refuses requests without the password of a user: 401 with a challenge (RFC 9110, section 11.6.1), and 503 while
//! that cannot be found out; and those that the server of forward authentication does not let in. Nobody gets in by a
//! failure.

use hyper::StatusCode;
use lb_http1::{Fields, Name, ResponseHead, list};

use super::{Refusal, Stopped};
use crate::answers::Answer;
use crate::auth::{Access, BasicAuth, Denial, ForwardAuth, RouteAuth, Servers};
use crate::record::DENIED;
use crate::request::Request;

pub(super) async fn check(
    auth: &RouteAuth,
    request: &mut Request,
    servers: Servers<'_>,
) -> Result<(), Stopped> {
    match auth {
        RouteAuth::Basic(basic) => {
            let access = password(basic, &request.head.fields).await;
            access.map_err(Stopped::Refused)
        }
        // Boxed: most requests ask nobody.
        RouteAuth::Forward(forward) => Box::pin(ask(forward, request, servers)).await,
    }
}

async fn password(auth: &BasicAuth, fields: &Fields) -> Result<(), Refusal> {
    // Of two values the backend may read the other one.
    match auth.access(fields.only(Name::Authorization)).await {
        Access::Granted => Ok(()),
        Access::Denied => Err(Refusal {
            status: StatusCode::UNAUTHORIZED,
            field: Some(("WWW-Authenticate", auth.challenge().to_owned())),
            why: Some(DENIED),
        }),
        Access::Unknown => Err(Refusal {
            why: Some(DENIED),
            ..StatusCode::SERVICE_UNAVAILABLE.into()
        }),
    }
}

async fn ask(
    auth: &ForwardAuth,
    request: &mut Request,
    servers: Servers<'_>,
) -> Result<(), Stopped> {
    let https = request.asker.https;
    let (outcome, access) = auth.access(&mut request.head, https, servers).await;
    request.auth = Some(Box::new(outcome));
    access.map_err(|denial| match denial {
        Denial::Answer(head, body) => Stopped::Denied(Answer {
            head,
            body,
            is_page: false,
        }),
        Denial::Page(status) => Stopped::Refused(Refusal {
            why: Some("auth"),
            ..status.into()
        }),
    })
}

/// Adds the cookies of the server to the answer to a request that it has let in. No shared cache may store that answer.
pub(super) fn add_cookies(request: &Request, head: &mut ResponseHead) {
    let Some(outcome) = request.auth.as_ref().filter(|it| !it.cookies.is_empty()) else {
        return;
    };
    for cookie in &outcome.cookies {
        head.fields.append(Name::SetCookie, cookie);
    }
    let control = || head.fields.all(Name::CacheControl);
    if !list::has(control(), "private") && !list::has(control(), "no-store") {
        head.fields.set(Name::CacheControl, b"private, no-cache");
        head.fields.remove(Name::CdnCacheControl);
    }
}
