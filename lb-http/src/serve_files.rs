//! The handler that sends files (see `files`).

use std::borrow::Cow;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Method, StatusCode, Version};
use lb_http1::{Name, ResponseHead};
use lb_net::seldom::Seldom;

use super::answers::Answer;
use super::compress::{self, Coded};
use super::context::RequestContext;
use super::exchange::Outcome;
use super::files::{self, Entry, File, FindError, Part, Ranges, Site, Target, Verdict};
use super::filters::{Permit, Source};
use super::ranged::{partial, stream, unsatisfiable};
use super::record::Record;
use lb_config::http::Algorithm;

/// The methods of files.
const ALLOWED: &[u8] = b"GET, HEAD, OPTIONS";
/// The reason in the access log.
const WHY: &str = "files";

/// The outcome of a look for a file.
enum Found {
    /// The file called so.
    File(Rc<File>, Vec<u8>),
    /// A directory, whose path lacks its slash.
    Directory,
    /// A directory without an index file, to be shown as a list.
    List(Vec<u8>),
}

/// Why there is no file to send.
enum Failure {
    Status(StatusCode),
    Find(FindError),
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        Self::Find(error)
    }
}

/// Answers a request by a file; `None` if there is none, or if it is no request for one.
pub(super) async fn serve_if_there(
    _permit: Permit,
    (context, record): (&mut RequestContext, &mut Record),
    site: &Site,
) -> Option<Outcome> {
    let is_for_files = matches!(context.head.method, Method::GET | Method::HEAD);
    if !is_for_files || context.upgrade.is_some() {
        return None;
    }
    let outcome = match answer(context, site).await {
        Ok(outcome) => outcome,
        Err(Failure::Status(StatusCode::NOT_FOUND)) => return None,
        Err(failure) => failed(context, site, failure),
    };
    record.by_files(WHY);
    Some(outcome)
}

/// Answers a request by a file.
pub(super) async fn serve(
    _permit: Permit,
    (context, record): (&mut RequestContext, &mut Record),
    site: &Site,
) -> Outcome {
    record.by_files(WHY);
    if context.upgrade.is_some() && context.head.version == Version::HTTP_2 {
        // A 200 to CONNECT would be consent (RFC 8441, section 4).
        return Outcome::Own(context.refuse(StatusCode::NOT_IMPLEMENTED));
    }
    let method = &context.head.method;
    if method == Method::OPTIONS {
        let mut answer = Answer::empty(StatusCode::NO_CONTENT);
        answer.head.fields.append(Name::Allow, ALLOWED);
        return Outcome::Own(context.clear(Source::Files, answer));
    }
    if method != Method::GET && method != Method::HEAD {
        let mut page = context.page(StatusCode::METHOD_NOT_ALLOWED);
        page.head.fields.set(Name::Allow, ALLOWED);
        return Outcome::Own(context.clear(Source::Gateway, page));
    }
    match answer(context, site).await {
        Ok(outcome) => outcome,
        Err(failure) => failed(context, site, failure),
    }
}

/// The answer that says why no file is sent.
fn failed(context: &RequestContext, site: &Site, failure: Failure) -> Outcome {
    let status = match failure {
        Failure::Status(status) => status,
        Failure::Find(error) => {
            static LINE: Seldom = Seldom::new();
            if let Some(times) = LINE.cause() {
                tracing::error!(%error, root = %site.root.display(), times, "files cannot be sent");
            }
            match error {
                FindError::Root(_) => StatusCode::SERVICE_UNAVAILABLE,
                FindError::File(error) if error.kind() == ErrorKind::ResourceBusy => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                FindError::File(error) if error.kind() == ErrorKind::PermissionDenied => {
                    StatusCode::FORBIDDEN
                }
                FindError::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
            }
        }
    };
    Outcome::Own(context.refuse(status))
}

async fn answer(context: &RequestContext, site: &Site) -> Result<Outcome, Failure> {
    let path = String::from_utf8_lossy(context.head.path());
    let missing = Failure::Status(StatusCode::NOT_FOUND);
    let Some(target) = site.target(&path) else {
        return Err(missing);
    };
    match find(context, site, &target).await?.ok_or(missing)? {
        Found::File(file, name) => send(context, site, file, name).await,
        Found::Directory => Ok(redirect(context, &target)),
        Found::List(name) => {
            let cache = &context.connection.worker.files;
            let hidden = site.settings.hidden;
            let place = (&site.root, &name[..]);
            let body = files::listing_page(cache, place, &target.path, hidden).await?;
            let answer = Answer::new(StatusCode::OK, "text/html; charset=utf-8", body);
            Ok(Outcome::Own(context.clear(Source::Files, answer)))
        }
    }
}

/// Tries the paths of the site in turn.
async fn find(
    context: &RequestContext,
    site: &Site,
    target: &Target,
) -> Result<Option<Found>, Failure> {
    let cache = &context.connection.worker.files;
    for attempt in &site.settings.attempts {
        let is_request = attempt.of_request && attempt.rest.is_empty();
        let (name, is_directory) = if is_request {
            (target.name.clone(), target.is_directory)
        } else {
            let begin = if attempt.of_request {
                &target.name[..]
            } else {
                b""
            };
            let joined = joined(begin, attempt.rest.as_bytes());
            (joined, attempt.rest.ends_with('/'))
        };
        match cache.find(&site.root, &name).await? {
            Entry::Missing => {}
            Entry::Denied => return Err(Failure::Status(StatusCode::FORBIDDEN)),
            Entry::File(_) if is_directory => {}
            Entry::File(file) => return Ok(Some(Found::File(file, name))),
            Entry::Directory => {
                let found = index(context, site, name).await?;
                if found.is_some() && is_request && !is_directory {
                    return Ok(Some(Found::Directory));
                }
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
    }
    Ok(None)
}

/// The file that stands for the directory called `name`, or its list.
async fn index(
    context: &RequestContext,
    site: &Site,
    name: Vec<u8>,
) -> Result<Option<Found>, Failure> {
    let cache = &context.connection.worker.files;
    for index in &site.settings.index {
        let inside = joined(&name, &[b"/", index.as_bytes()].concat());
        match cache.find(&site.root, &inside).await? {
            Entry::Missing | Entry::Directory => {}
            Entry::Denied => return Err(Failure::Status(StatusCode::FORBIDDEN)),
            Entry::File(file) => return Ok(Some(Found::File(file, inside))),
        }
    }
    Ok(site.settings.listing.then_some(Found::List(name)))
}

/// The name made of two parts, without a slash at either end.
fn joined(begin: &[u8], rest: &[u8]) -> Vec<u8> {
    let whole = [begin, rest].concat();
    let segments = whole
        .split(|byte| *byte == b'/')
        .filter(|segment| !segment.is_empty());
    segments.collect::<Vec<_>>().join(&b'/')
}

/// Sends a client to the path of a directory with its slash.
fn redirect(context: &RequestContext, target: &Target) -> Outcome {
    // Of its plain form, decoded and encoded anew, no part can be taken for the name of a host.
    let mut to = files::sound(&target.path);
    to.push('/');
    if let Some(query) = context.head.query() {
        to.push('?');
        to.push_str(&String::from_utf8_lossy(query));
    }
    let mut answer = Answer::empty(StatusCode::MOVED_PERMANENTLY);
    answer.head.fields.append(Name::Location, to.as_bytes());
    Outcome::Own(context.clear(Source::Files, answer))
}

/// A file as it is sent: itself, or one beside it in a coding that the client takes.
struct Chosen {
    file: Rc<File>,
    coding: Option<Algorithm>,
    /// There are others.
    varies: bool,
}

async fn choose(
    context: &RequestContext,
    site: &Site,
    file: Rc<File>,
    name: &[u8],
) -> Result<Chosen, Failure> {
    let cache = &context.connection.worker.files;
    let mut beside = Vec::new();
    for coding in &site.settings.precompressed {
        let name = [name, b".", files::suffix_of(*coding).as_bytes()].concat();
        if let Entry::File(file) = cache.find(&site.root, &name).await? {
            beside.push((*coding, file));
        }
    }
    let offered: Vec<Algorithm> = beside.iter().map(|(coding, _)| *coding).collect();
    let best = compress::best_of(&context.head.fields, &offered);
    let varies = !beside.is_empty();
    let found = beside.into_iter().find(|(coding, _)| Some(*coding) == best);
    Ok(match found {
        Some((coding, file)) => Chosen {
            file,
            coding: Some(coding),
            varies,
        },
        None => Chosen {
            file,
            coding: None,
            varies,
        },
    })
}

/// The answer that has a file, a part of it, or only tells of it.
async fn send(
    context: &RequestContext,
    site: &Site,
    original: Rc<File>,
    name: Vec<u8>,
) -> Result<Outcome, Failure> {
    let chosen = match site.settings.precompressed.is_empty() {
        true => Chosen {
            file: Rc::clone(&original),
            coding: None,
            varies: false,
        },
        false => choose(context, site, Rc::clone(&original), &name).await?,
    };
    let file = &chosen.file;
    let tag: Cow<'_, str> = match chosen.coding {
        Some(coding) => file.tag_of(coding).into(),
        None => (&*file.tag).into(),
    };
    let seconds = file.modified.as_ref().map(|(seconds, _)| *seconds);
    let fields = &context.head.fields;
    let cache_control = site.cache_control(&name);
    let head = || describe(&chosen, &original, &tag, cache_control);
    match files::judge(fields, &tag, seconds) {
        Verdict::Send => {}
        Verdict::Failed => return Err(Failure::Status(StatusCode::PRECONDITION_FAILED)),
        Verdict::NotModified => {
            let mut answer = Answer::empty(StatusCode::NOT_MODIFIED);
            answer.head = head();
            answer.head.set_status(StatusCode::NOT_MODIFIED);
            return Ok(Outcome::Own(context.clear(Source::Files, answer)));
        }
    }
    let ranges = match context.is_head() {
        true => Ranges::Whole,
        false => files::ranges(
            fields,
            &tag,
            seconds.filter(|_| file.is_settled),
            file.size(),
        ),
    };
    match ranges {
        Ranges::Whole => Ok(whole(context, file, head())),
        Ranges::Unsatisfiable => Ok(unsatisfiable(context, file.size())),
        Ranges::Parts(parts) => {
            let head = (Source::Files, head());
            let of = |range: &_| part(file, range);
            Ok(partial(context, head, &parts, file.size(), of))
        }
    }
}

/// The fields that tell of a file.
fn describe(
    chosen: &Chosen,
    original: &File,
    tag: &str,
    cache_control: Option<&str>,
) -> ResponseHead {
    let mut head = match chosen.coding {
        Some(_) => chosen.file.head_of(&original.kind, tag),
        None => chosen.file.head(),
    };
    let fields = &mut head.fields;
    if let Some(cache_control) = cache_control {
        fields.append(Name::CacheControl, cache_control.as_bytes());
    }
    if let Some(coding) = chosen.coding {
        fields.append(Name::ContentEncoding, compress::name_of(coding));
    }
    if chosen.varies {
        fields.append(Name::Vary, b"accept-encoding");
    }
    head
}

/// The whole file.
fn whole(context: &RequestContext, file: &File, head: ResponseHead) -> Outcome {
    match &file.source {
        files::Source::Memory(content) => {
            let answer = Answer {
                head,
                body: content.clone(),
                is_page: false,
            };
            let code = |algorithm, body: &Bytes| file.coded(algorithm, body);
            Outcome::Own(context.clear_coded(Source::Files, answer, &code))
        }
        files::Source::Disk(opened) => {
            let size = file.size();
            let (head, coding) = context.clear_head(Source::Files, head, Some(size));
            let coded = coding.map(|algorithm| Box::new(Coded::new(algorithm)));
            let length = coding.is_none().then_some(size);
            let parts = [Part::File(Arc::clone(opened), 0..size)];
            stream(context, head, length, parts, coded)
        }
    }
}

/// A range of a file.
fn part(file: &File, range: &std::ops::Range<u64>) -> Part {
    match &file.source {
        files::Source::Memory(content) => Part::of_memory(content, range),
        files::Source::Disk(opened) => Part::File(Arc::clone(opened), range.clone()),
    }
}
