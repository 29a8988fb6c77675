//! Refuses requests without the password of a user: 401 with a challenge (RFC 9110, section 11.6.1), and 503 while
//! that cannot be found out. Nobody gets in by a failure.

use hyper::StatusCode;
use lb_http1::{Fields, Name};

use super::Refusal;
use crate::auth::{Access, BasicAuth};
use crate::record::DENIED;

pub(super) async fn check(auth: &BasicAuth, fields: &Fields) -> Result<(), Refusal> {
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
