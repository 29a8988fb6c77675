//! `[[service.route]]`.

use ::http::StatusCode;

use super::header::{self, HeaderRule};
use super::sections::{self, RouteLimits, RouteTimeouts};
use super::template::Template;
use super::value::{self, HostPattern};
use super::{Protocol, protocol};
use crate::Path;
use crate::error::{Located, Place, Problems};
use crate::lists::{self, RawBackend};
use crate::reader::{Table, Value};
use crate::value::quoted;

/// What holds for some hosts and paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The hosts; every host if there is none.
    pub hosts: Vec<HostPattern>,
    /// The beginning of the paths, in whole segments: `/api`, or empty for every path.
    pub path: String,
    /// What happens to a request.
    pub action: Action,
    /// What its backends speak, where that differs from the service's.
    pub protocol: Option<Protocol>,
    /// Changes to the request, after those of the service.
    pub request_headers: Vec<HeaderRule>,
    /// Changes to the answer, after those of the service.
    pub response_headers: Vec<HeaderRule>,
    /// Times, where they differ from the service's.
    pub timeouts: RouteTimeouts,
    /// Sizes, where they differ from the service's.
    pub limits: RouteLimits,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to the backends of the service of this name, `app` or `app/api`.
    Forward(String),
    /// It is told to ask elsewhere.
    Redirect {
        /// Where.
        to: Template,
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
    },
    /// It is answered.
    Answer {
        /// The status.
        status: StatusCode,
        /// The body.
        body: String,
        /// The type of the body.
        content_type: String,
    },
}

/// A route as it was written.
pub(crate) struct RawRoute {
    pub(super) place: Place,
    pub(super) name: Option<Located<String>>,
    pub(super) was: Vec<Located<String>>,
    pub(super) hosts: Vec<Located<HostPattern>>,
    pub(super) path: Located<String>,
    pub(super) target: Target,
    pub(super) protocol: Option<Located<Protocol>>,
    /// Whether anything but hosts and path was written.
    pub(super) does_something: bool,
    pub(super) request_headers: Vec<HeaderRule>,
    pub(super) response_headers: Vec<HeaderRule>,
    pub(super) timeouts: RouteTimeouts,
    pub(super) limits: RouteLimits,
}

/// Where a route leads, as it was written.
pub(super) enum Target {
    /// Nothing was written.
    Unsaid,
    /// To these.
    Backends(Place, Vec<RawBackend>),
    /// Nowhere further.
    Done(Action),
    /// Something that was not good, and is noted.
    Bad,
}

pub(crate) fn routes(value: &Value<'_, '_>, problems: &mut Problems) -> Vec<RawRoute> {
    value
        .list("[[service.route]]", problems)
        .iter()
        .filter_map(|item| Some(route(item.table("[[service.route]]", problems)?, problems)))
        .collect()
}

fn route(mut table: Table<'_, '_>, problems: &mut Problems) -> RawRoute {
    let place = table.place.clone();
    let name = table.take("name").and_then(|value| {
        let name = value.string("\"api\"", problems, crate::value::service_name)?;
        Some(value.locate(name))
    });
    let was = table.take("was");
    let was = was.map(|value| lists::former_names(&value, problems));
    let hosts = table
        .take("host")
        .map(|value| hosts(&value, problems))
        .unwrap_or_default();
    let path = table.take("path").and_then(|value| {
        let path = value.string("\"/api\"", problems, value::path_prefix)?;
        Some(value.locate(path))
    });
    let target = target(&mut table, problems);
    let options = [
        "protocol",
        "request_headers",
        "response_headers",
        "timeouts",
        "limits",
    ];
    let does_something = options.iter().any(|key| table.has(key));
    let protocol = table.take("protocol").and_then(|value| {
        if matches!(target, Target::Done(_)) {
            problems.add(
                &value.place,
                "there is no backend to speak it with (leave it out)",
            );
        }
        protocol::read(&value, problems)
    });
    let request_headers = table
        .take("request_headers")
        .map(|value| header::request_rules(&value, problems))
        .unwrap_or_default();
    let response_headers = table
        .take("response_headers")
        .map(|value| header::rules(&value, problems))
        .unwrap_or_default();
    let timeouts = table
        .take("timeouts")
        .and_then(|value| value.table("{ first_byte = \"5m\" }", problems))
        .map(|table| sections::route_timeouts(table, problems))
        .unwrap_or_default();
    let limits = table
        .take("limits")
        .and_then(|value| value.table("{ body = \"1GiB\" }", problems))
        .map(|table| sections::route_limits(table, problems))
        .unwrap_or_default();
    table.finish(problems);
    RawRoute {
        path: path.unwrap_or_else(|| Located {
            value: String::new(),
            place: place.clone(),
        }),
        place,
        name,
        was: was.unwrap_or_default(),
        hosts,
        target,
        protocol,
        does_something,
        request_headers,
        response_headers,
        timeouts,
        limits,
    }
}

/// A name, or a list of names.
fn hosts(value: &Value<'_, '_>, problems: &mut Problems) -> Vec<Located<HostPattern>> {
    const EXAMPLE: &str = "[\"example.com\", \"*.example.com\"]";
    let one = |item: &Value<'_, '_>, problems: &mut Problems| {
        let host = item.string("\"example.com\"", problems, value::host_pattern)?;
        Some(item.locate(host))
    };
    if value.is_string() {
        return one(value, problems).into_iter().collect();
    }
    let items = value.list(EXAMPLE, problems);
    if items.is_empty() && value.is_list() {
        problems.add(
            &value.place,
            format!("no host (leave it out for every host, or write host = {EXAMPLE})"),
        );
    }
    items
        .iter()
        .filter_map(|item| one(item, problems))
        .collect()
}

fn target(table: &mut Table<'_, '_>, problems: &mut Problems) -> Target {
    let backends = table.take("backends");
    let redirect = table.take("redirect");
    let answer = table.take("answer");
    let place = table.place.clone();
    let said = [&backends, &redirect, &answer];
    if said.into_iter().flatten().count() > 1 {
        problems.add(
            &place,
            "leads to more than one place (write one of backends, redirect and answer)",
        );
        return Target::Bad;
    }
    if let Some(value) = backends {
        let found = problems.count();
        let backends = lists::backends(&value, Path::Auto, problems);
        if backends.is_empty() && problems.count() == found {
            problems.add(
                &value.place,
                "leads nowhere (name a backend, as in [\"127.0.0.1:5000\"])",
            );
        }
        return Target::Backends(value.place, backends);
    }
    let action = match (redirect, answer) {
        (Some(value), _) => redirect_to(&value, problems),
        (_, Some(value)) => fixed_answer(&value, problems),
        (None, None) => return Target::Unsaid,
    };
    action.map_or(Target::Bad, Target::Done)
}

fn redirect_to(value: &Value<'_, '_>, problems: &mut Problems) -> Option<Action> {
    const EXAMPLE: &str = "\"https://example.com$uri\"";
    if value.is_string() {
        let to = value.string(EXAMPLE, problems, location)?;
        return Some(Action::Redirect {
            to,
            status: StatusCode::PERMANENT_REDIRECT,
        });
    }
    let mut table = value.table(&format!("{{ to = {EXAMPLE} }}"), problems)?;
    let to = table
        .require("to", EXAMPLE, problems)
        .and_then(|value| value.string(EXAMPLE, problems, location));
    let status = table.take("status").map(|value| {
        let number = value.integer("308", problems)?;
        problems.keep(&value.place, value::redirect_status(number))
    });
    table.finish(problems);
    Some(Action::Redirect {
        to: to?,
        status: status.unwrap_or(Some(StatusCode::PERMANENT_REDIRECT))?,
    })
}

/// Where a redirect leads: a URL, or a path on the same host.
fn location(text: &str) -> Result<Template, String> {
    let template = Template::parse(text).map_err(|error| error.to_string())?;
    let visible = text.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    let begins = ["https://", "http://", "/", "$scheme://", "$uri", "$path"];
    if !visible || !begins.iter().any(|begin| text.starts_with(begin)) {
        return Err(format!(
            "{} is not a place to ask (write a URL or a path, as in \"https://example.com$uri\")",
            quoted(text)
        ));
    }
    Ok(template)
}

fn fixed_answer(value: &Value<'_, '_>, problems: &mut Problems) -> Option<Action> {
    const EXAMPLE: &str = "{ status = 200, body = \"ok\" }";
    let mut table = value.table(EXAMPLE, problems)?;
    let status = table.take("status").map(|value| {
        let number = value.integer("200", problems)?;
        problems.keep(&value.place, value::status(number))
    });
    let mut text = |key, usual: &str, problems: &mut Problems| match table.take(key) {
        Some(value) => value.string("\"ok\"", problems, |text| match key {
            "content_type" if ::http::HeaderValue::from_str(text).is_err() => {
                Err(format!("{} is not a media type", quoted(text)))
            }
            _ => Ok(text.to_owned()),
        }),
        None => Some(usual.to_owned()),
    };
    let body = text("body", "", problems);
    let content_type = text("content_type", "text/plain; charset=utf-8", problems);
    table.finish(problems);
    Some(Action::Answer {
        status: status.unwrap_or(Some(StatusCode::OK))?,
        body: body?,
        content_type: content_type?,
    })
}
