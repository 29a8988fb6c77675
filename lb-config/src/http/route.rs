//! `[[service.route]]`.

use ::http::StatusCode;

use super::Protocol;
use super::auth::{Auth, AuthOrNone};
use super::files::{self, Files, Missing};
use super::header::{self, HeaderRule};
use super::limit::{Limit, limits};
use super::sections::{RouteLimits, RouteTimeouts};
use super::template::Template;
use super::value::{self, HostPattern};
use crate::error::{Located, Place, Problems};
use crate::lists::{self, RawBackend, Texts};
use crate::reader::{Table, Value};
use crate::schema::fields::{Found, PLACE, Required};
use crate::schema::kinds::{
    Code, Flag, Given, List, Made, Maybe, NonEmpty, OneOrMore, Placed, Short, Sound, Sub, Text,
    one_of, sub, text,
};
use crate::schema::{Kind, section};
use crate::value::{BadValue, quoted};

/// A route: the hosts and paths that it matches, and the settings for their requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The name, if it has one.
    pub name: Option<String>,
    /// The hosts; every host if there is none.
    pub hosts: Vec<HostPattern>,
    /// The beginning of the paths, in whole segments: `/api`, or empty for every path.
    pub path: String,
    /// Whether only this path matches, and none below it.
    pub exact: bool,
    /// What backends get in the place of `path`: `/app`, or empty for nothing.
    pub prefix_rewrite: Option<String>,
    /// The action for a request that matches.
    pub action: Action,
    /// The HTTP version that its backends speak, if it differs from the service's.
    pub protocol: Option<Protocol>,
    /// Changes to the request, after those of the service.
    pub request_headers: Vec<HeaderRule>,
    /// Changes to the answer, after those of the service.
    pub response_headers: Vec<HeaderRule>,
    /// Times that differ from the service's.
    pub timeouts: RouteTimeouts,
    /// Sizes that differ from the service's.
    pub limits: RouteLimits,
    /// Limits on the requests of each client, beside those of the service.
    pub request_limits: Vec<Limit>,
    /// Its authentication, if it differs from the service's. Inside, `None` is for none.
    pub auth: Option<Option<Auth>>,
}

/// The action for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The request goes to the backends of the service of this name, `app` or `app/api`.
    Forward(String),
    /// The agent answers with a redirect.
    Redirect {
        /// The target, for the `Location` header.
        to: Template,
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
    },
    /// The agent answers by itself.
    Answer {
        /// The status of the answer.
        status: StatusCode,
        /// The body of the answer.
        body: String,
        /// The `Content-Type` of the answer.
        content_type: String,
    },
    /// The agent sends files.
    Files {
        /// The files.
        files: Files,
        /// The service whose backends get requests for what is no file.
        otherwise: Option<String>,
    },
}

/// The kind of a route's name.
const NAME: Placed<Texts<String>> = Placed(Text {
    example: "\"api\"",
    ..lists::NAME
});
const PATH: Placed<Texts<String>> = Placed(Text {
    what: "beginning of a path",
    example: "\"/api\"",
    parse: value::path_prefix,
    print: |path| {
        if path.is_empty() {
            "/".to_owned()
        } else {
            path.clone()
        }
    },
});
const REWRITE: Placed<Texts<String>> = Placed(Text {
    what: "path",
    example: "\"/\"",
    ..PATH.0
});
const HOST: Placed<Texts<HostPattern>> = Placed(text(
    "server name, or `*.` and a domain",
    "\"example.com\"",
    value::host_pattern,
));
const HOSTS: &str = "[\"example.com\", \"*.example.com\"]";
const TIMEOUTS: Sub<RouteTimeouts> = sub("{ first_byte = \"5m\" }");
const ANSWER: Given<Sound<Sub<Answer>>> = Given(Sound(sub("{ status = 200, body = \"ok\" }")));

section! {
    Reload, "0.1"; check = check_target;
    /// What holds for some hosts and paths. A route names at most one of `backends`, `redirect`, `answer` and
    /// `files`.
    pub(crate) struct RawRoute {
        /// Where it is in the file.
        pub(super) place: Place = Place::FILE, PLACE;
        /// Name of the route. Its backends are those of the service `SERVICE/NAME`. Without it a name made of the
        /// path, as in `api-v1`.
        pub(super) name: Option<Located<String>> = None, Maybe(NAME);
        /// The name that it had before, or several, the latest first.
        pub(super) was: Vec<Located<String>> = Vec::new(), lists::former_names();
        /// Server names of the requests, one or a list. Without it all.
        pub(super) hosts as "host": Vec<Located<HostPattern>> = Vec::new(), hosts();
        /// Beginning of the paths of the requests, in whole segments.
        pub(super) path: Located<String> = Located { value: String::new(), place: Place::FILE }, PATH;
        /// Whether only this path counts, and none below it.
        pub(super) exact: bool = false, Flag;
        /// Path that backends get in the place of `path`, as `"/"` for `/users` in the place of `/api/users`. They get
        /// `path` as `X-Forwarded-Prefix`.
        pub(super) prefix_rewrite: Option<Located<String>> = None, Maybe(REWRITE);
        /// Backends of the route, at least one. Without it those of the service.
        pub(super) backends: Option<Located<Vec<RawBackend>>> = None, Maybe(Placed(backends()));
        /// Where a client is sent: a URL or a path, perhaps with variables, or a table.
        pub(super) redirect: Option<Option<Redirect>> = None, Given(redirect());
        /// A response of the balancer's own.
        pub(super) answer: Option<Option<Answer>> = None, ANSWER;
        /// Files of a directory: its path, or a table.
        pub(super) files: Option<Option<Files>> = None, Given(files::files());
        /// What the backends of the route speak. Without it what the service says.
        pub(super) protocol: Option<Located<Protocol>> = None, Maybe(Placed(one_of()));
        /// Changes to the headers of each request, after those of the service.
        pub(super) request_headers: Vec<HeaderRule> = Vec::new(), header::request_rules();
        /// Changes to the headers of each response, after those of the service.
        pub(super) response_headers: Vec<HeaderRule> = Vec::new(), header::response_rules();
        /// Times, where they differ from the service's.
        pub(super) timeouts: RouteTimeouts = RouteTimeouts::default(), TIMEOUTS;
        /// Sizes, where they differ from the service's.
        pub(super) limits: RouteLimits = RouteLimits::default(), sub("{ body = \"1GiB\" }");
        /// Limits on the requests of each client, beside those of the service.
        pub(super) request_limits as "limit": Vec<Located<Limit>> = Vec::new(), limits();
        /// Users that may ask, or `false` for everybody. Without the key what the service says.
        pub(super) auth: Option<Option<Auth>> = None, Maybe(AuthOrNone);
        /// Whether `path` was written.
        pub(super) has_path: bool = false, Found(|table, _| table.has("path"));
        /// Whether `host` was written.
        pub(super) has_host: bool = false, Found(|table, _| table.has("host"));
        /// Whether anything but hosts and path was written.
        pub(super) does_something: bool = false, Found(|table, _| does_something(table));
    }
}

/// The target of a route, as it was written.
pub(super) enum Target {
    /// The file names no target.
    Unsaid,
    /// The backends of the route itself, and their place.
    Backends(Place, Vec<RawBackend>),
    /// A redirect or an answer, without a backend.
    Done(Action),
    /// A target that is not valid; the problem is noted.
    Bad,
    /// Files; what is none goes to these backends, or to those of the service.
    FilesFirst(Files, Option<(Place, Vec<RawBackend>)>),
}

impl RawRoute {
    /// Takes the target out of the route.
    pub(super) fn take_target(&mut self) -> Target {
        let backends = self.backends.take();
        let (redirect, answer) = (self.redirect.take(), self.answer.take());
        match (backends, redirect, answer, self.files.take()) {
            (None, None, None, None) => Target::Unsaid,
            (Some(backends), None, None, None) => Target::Backends(backends.place, backends.value),
            (backends, None, None, Some(Some(files))) if files.missing == Missing::Backends => {
                let backends = backends.map(|backends| (backends.place, backends.value));
                Target::FilesFirst(files, backends)
            }
            (None, None, None, Some(Some(files))) => Target::Done(Action::Files {
                files,
                otherwise: None,
            }),
            (None, Some(Some(Redirect { to, status })), None, None) => {
                Target::Done(Action::Redirect { to, status })
            }
            (None, None, Some(Some(answer)), None) => {
                let Answer {
                    status,
                    body,
                    content_type,
                } = answer;
                Target::Done(Action::Answer {
                    status,
                    body,
                    content_type,
                })
            }
            _ => Target::Bad,
        }
    }

    /// Whether its `path` was written wrongly, which is noted.
    pub(super) fn has_wrong_path(&self) -> bool {
        self.has_path && self.path.place.offset.is_none()
    }

    /// Whether none of its hosts was written as it should be, which is noted.
    pub(super) fn has_wrong_host(&self) -> bool {
        self.has_host && self.hosts.is_empty()
    }

    /// The place of its `path`, or that of the route.
    pub(super) fn path_place(&self) -> &Place {
        let is_there = self.path.place.offset.is_some();
        if is_there {
            &self.path.place
        } else {
            &self.place
        }
    }
}

fn does_something(table: &Table<'_, '_>) -> bool {
    let options = [
        "prefix_rewrite",
        "protocol",
        "request_headers",
        "response_headers",
        "timeouts",
        "limits",
        "limit",
        "auth",
    ];
    options.iter().any(|key| table.has(key))
}

/// A route leads to one place, and only backends have a protocol.
fn check_target(route: &RawRoute, table: &mut Table<'_, '_>, problems: &mut Problems) {
    let targets = ["backends", "redirect", "answer", "files"];
    let files_first =
        matches!(&route.files, Some(Some(files)) if files.missing == Missing::Backends);
    let targets = &targets[usize::from(files_first)..];
    if targets.iter().filter(|key| table.has(key)).count() > 1 {
        problems.add(
            &table.place,
            "leads to more than one place (write one of backends, redirect, answer and files; backends for what is no \
             file take missing = \"backends\" in files)",
        );
        return;
    }
    let path = table.peek("path").and_then(|value| value.text());
    if route.exact && path.is_some_and(|path| path.len() > 1 && path.ends_with('/')) {
        let message = "an exact path has no slash at its end (leave out the slash, or exact)";
        problems.add(route.path_place(), message);
    }
    let answers = matches!(route.redirect, Some(Some(_)))
        || matches!(route.answer, Some(Some(_)))
        || matches!(route.files, Some(Some(_))) && !files_first;
    for (key, what) in [
        ("protocol", "speak it with"),
        ("prefix_rewrite", "get another path"),
    ] {
        if answers && let Some(value) = table.peek(key) {
            let message = format!("there is no backend to {what} (leave it out)");
            problems.add(&value.place, message);
        }
    }
}

/// A name, or a list of names.
pub(super) fn hosts() -> impl Kind<Value = Vec<Located<HostPattern>>> {
    let list = NonEmpty {
        empty: format!("no host (leave it out for every host, or write host = {HOSTS})"),
        list: List(HOSTS, HOST),
    };
    OneOrMore(list, HOST)
}

fn backends() -> impl Kind<Value = Vec<RawBackend>> {
    NonEmpty {
        empty: "leads nowhere (name a backend, as in [\"127.0.0.1:5000\"])".to_owned(),
        list: lists::backends(),
    }
}

const LOCATION: Text<Template, String> = text(
    "URL or path with variables",
    "\"https://example.com$uri\"",
    location,
);
const REDIRECT_STATUS: Code<StatusCode, BadValue> = Code {
    example: "308",
    range: 301..=308,
    parse: value::redirect_status,
    print: |status| status.as_u16().into(),
};
const STATUS: Code<StatusCode, BadValue> = Code {
    example: "200",
    range: 200..=599,
    parse: value::status,
    print: |status| status.as_u16().into(),
};
const BODY: Text<String, String> = text("text", "\"ok\"", |text| Ok(text.to_owned()));
const CONTENT_TYPE: Text<String, String> = text("media type", "\"ok\"", content_type);

section! {
    Reload, "0.1";
    /// Where a client is sent.
    pub(super) struct Redirect {
        /// A URL or a path, perhaps with variables as in `$uri`.
        to: Template = Template::default(), Required(LOCATION.example, LOCATION);
        /// Status of the response: 308 or 301 for good, 307 or 302 for now, 303 for another page by GET.
        status: StatusCode = StatusCode::PERMANENT_REDIRECT, REDIRECT_STATUS;
    }
}

section! {
    Reload, "0.1";
    /// A response of the balancer's own.
    pub(super) struct Answer {
        /// Status of the response.
        status: StatusCode = StatusCode::OK, STATUS;
        /// Body of the response.
        body: String = String::new(), BODY;
        /// Type of the body.
        content_type: String = "text/plain; charset=utf-8".to_owned(), CONTENT_TYPE;
    }
}

/// A location, or a table.
fn redirect() -> impl Kind<Value = Redirect> {
    let plain = |to, _: &Value<'_, '_>, _: &mut Problems| {
        let status = StatusCode::PERMANENT_REDIRECT;
        Some(Redirect { to, status })
    };
    Short {
        text: Made {
            of: LOCATION,
            make: plain,
            back: |redirect: &Redirect| redirect.to.clone(),
        },
        table: Sound(sub("{ to = \"https://example.com$uri\" }")),
        brief: |redirect: &Redirect| redirect.status == StatusCode::PERMANENT_REDIRECT,
        else_text: false,
    }
}

fn content_type(text: &str) -> Result<String, String> {
    match ::http::HeaderValue::from_str(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{} is not a media type", quoted(text))),
    }
}

/// The target of a redirect: a URL, or a path on the same host.
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
