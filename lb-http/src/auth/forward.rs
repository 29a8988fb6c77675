//! Forward authentication: another server is asked about each request, and its answer is the client's unless it lets
//! the request in.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use lb_config::http::AuthUrl;
use lb_http1::{Fields, Name, RequestHead, ResponseHead, hop};
use lb_net::seldom::Seldom;
use tokio::time::timeout;

use super::question::{self, Fault, Reply, Servers};
use crate::forwarded::{self, Via};
use crate::metrics::{AuthVerdict, Cause};

/// Fields of the request that are no matter of the server: its answer is neither a part nor a validation.
const NOT_PASSED_ON: [Name; 6] = [
    Name::IfMatch,
    Name::IfModifiedSince,
    Name::IfNoneMatch,
    Name::IfRange,
    Name::IfUnmodifiedSince,
    Name::Range,
];

/// The forward authentication of one route.
pub(crate) struct ForwardAuth {
    url: AuthUrl,
    /// Headers that the request gets.
    set: Vec<Vec<u8>>,
    timeout: Duration,
    /// Marks the GETs of this service: one that comes back asks nobody again.
    via: Via,
}

/// What came of asking, for the answer to the request and its record.
#[derive(Clone, Debug)]
pub(crate) struct AuthOutcome {
    pub(crate) verdict: AuthVerdict,
    pub(crate) time: Duration,
    /// Why there is no verdict of the server.
    pub(crate) cause: Option<Cause>,
    /// The first value of the first header that the request got.
    pub(crate) user: Option<Vec<u8>>,
    /// Cookies for the client of a request that was let in.
    pub(crate) cookies: Vec<Vec<u8>>,
}

/// Why a request is not let in.
pub(crate) enum Denial {
    /// The server says so.
    Answer(ResponseHead, Bytes),
    /// The server cannot be asked: the status of a page.
    Page(StatusCode),
}

impl ForwardAuth {
    pub(super) fn new(auth: &lb_config::http::ForwardAuth, via: Via) -> Self {
        let name = |name: &hyper::header::HeaderName| name.as_str().as_bytes().to_vec();
        Self {
            url: auth.url.clone(),
            set: auth.set.iter().map(name).collect(),
            timeout: auth.timeout,
            via,
        }
    }

    /// Asks about a request, which gets the headers of the answer that lets it in. `https` says whether its client
    /// uses TLS.
    pub(crate) async fn access(
        &self,
        head: &mut RequestHead,
        https: bool,
        servers: Servers<'_>,
    ) -> (AuthOutcome, Result<(), Denial>) {
        let begun = Instant::now();
        let asked = match self.question(head, https) {
            Some(question) => {
                let asked = question::ask(servers, &self.url.address, &question);
                let asked = timeout(self.timeout, asked).await;
                asked.unwrap_or(Err(Fault::Late))
            }
            None => {
                let outcome = AuthOutcome::new(AuthVerdict::Failed, begun);
                return (outcome, Err(Denial::Page(StatusCode::LOOP_DETECTED)));
            }
        };
        match asked {
            Ok(reply) if reply.head.status.is_success() => {
                let mut outcome = AuthOutcome::new(AuthVerdict::Granted, begun);
                outcome.user = self.grant(&mut head.fields, &reply.head.fields);
                let cookies = reply.head.fields.all(Name::SetCookie);
                outcome.cookies = cookies.map(<[u8]>::to_vec).collect();
                (outcome, Ok(()))
            }
            Ok(reply) => {
                let outcome = AuthOutcome::new(AuthVerdict::Denied, begun);
                (outcome, Err(denied(reply)))
            }
            Err(fault) => {
                self.tell(&fault);
                let (status, cause) = fault.outcome();
                let mut outcome = AuthOutcome::new(AuthVerdict::Failed, begun);
                outcome.cause = Some(cause);
                (outcome, Err(Denial::Page(status)))
            }
        }
    }

    /// The GET for a request; `None` if that is one of these itself.
    fn question(&self, head: &RequestHead, https: bool) -> Option<RequestHead> {
        let mut own = head.clone();
        let fields = &mut own.fields;
        if !self.via.pass(fields, head.version) {
            return None;
        }
        NOT_PASSED_ON
            .into_iter()
            .for_each(|name| fields.remove(name));
        fields.remove(Name::Upgrade);
        if !fields.has(Name::Host) {
            fields.append(Name::Host, b"localhost");
        }
        let (method, target) = (head.method.as_str().as_bytes(), head.target());
        let scheme = forwarded::scheme(https).as_bytes();
        let host = fields.get(Name::XForwardedHost).unwrap_or_default();
        let url = [scheme, b"://", host, target].concat();
        let told: [(&[u8], &[u8]); 4] = [
            (b"x-forwarded-method", method),
            (b"x-forwarded-uri", target),
            (b"x-original-method", method),
            (b"x-original-url", &url),
        ];
        for (name, value) in told {
            forwarded::set_alike(fields, name, value);
        }
        own.method = Method::GET;
        own.set_target(self.url.target.as_bytes());
        Some(own)
    }

    /// Gives a request the headers of the answer. Returns the first value of the first one.
    fn grant(&self, fields: &mut Fields, answer: &Fields) -> Option<Vec<u8>> {
        for name in &self.set {
            forwarded::remove_alike(fields, name);
            for value in answer.called(name) {
                fields.append_called(name, value);
            }
        }
        let mut first = answer.called(self.set.first()?);
        first.next().map(<[u8]>::to_vec)
    }

    fn tell(&self, fault: &Fault) {
        static LINE: Seldom = Seldom::new();
        if let Some(count) = LINE.cause() {
            tracing::warn!(%fault, count, "{} cannot be asked about requests", self.url);
        }
    }
}

impl AuthOutcome {
    fn new(verdict: AuthVerdict, begun: Instant) -> Self {
        Self {
            verdict,
            time: begun.elapsed(),
            cause: None,
            user: None,
            cookies: Vec::new(),
        }
    }
}

impl Fault {
    /// The status of the page, and the cause as metrics have it.
    const fn outcome(&self) -> (StatusCode, Cause) {
        match self {
            Self::Connect(_) => (StatusCode::BAD_GATEWAY, Cause::Connect),
            Self::Scarce(_) => (StatusCode::SERVICE_UNAVAILABLE, Cause::Resources),
            Self::Broken => (StatusCode::BAD_GATEWAY, Cause::Broken),
            Self::Malformed(_) => (StatusCode::BAD_GATEWAY, Cause::Malformed),
            Self::Late => (StatusCode::GATEWAY_TIMEOUT, Cause::Timeout),
        }
    }
}

/// The answer as the client gets it.
fn denied(reply: Reply) -> Denial {
    let Reply { mut head, body } = reply;
    hop::strip(&mut head.fields);
    head.fields.remove(Name::Upgrade);
    head.fields.remove(Name::Trailer);
    Denial::Answer(head, body.into())
}
