//! Answers made of parts: of files, and of stored answers (RFC 9110, section 14).

use std::ops::Range;

use hyper::{StatusCode, Version};
use lb_http1::{Name, ResponseHead};

use super::answers::Answer;
use super::compress::Coded;
use super::context::RequestContext;
use super::download;
use super::exchange::{OF_STREAM, Outcome, Reply};
use super::files::{FileBody, Part};
use super::filters::{Cleared, Source};
use super::transfer::Transfer;

/// The refusal of ranges beyond the end of a body of `size` bytes.
pub(super) fn unsatisfiable(context: &RequestContext, size: u64) -> Outcome {
    let mut page = context.page(StatusCode::RANGE_NOT_SATISFIABLE);
    let of = format!("bytes */{size}");
    page.head.fields.set(Name::ContentRange, of.as_bytes());
    Outcome::Own(context.clear(Source::Gateway, page))
}

/// Ranges of a body of `size` bytes, cut by `part`: one as such, several as a multipart body (section 14.6).
pub(super) fn partial(
    context: &RequestContext,
    (source, mut head): (Source, ResponseHead),
    ranges: &[Range<u64>],
    size: u64,
    part: impl Fn(&Range<u64>) -> Part,
) -> Outcome {
    let of = |range: &Range<u64>| format!("bytes {}-{}/{size}", range.start, range.end - 1);
    head.set_status(StatusCode::PARTIAL_CONTENT);
    let mut parts = Vec::new();
    if let [range] = ranges {
        head.fields.set(Name::ContentRange, of(range).as_bytes());
        match part(range) {
            Part::Bytes(body) => {
                let is_page = false;
                let answer = Answer {
                    head,
                    body,
                    is_page,
                };
                return Outcome::Own(context.clear(source, answer));
            }
            part => parts.push(part),
        }
    } else {
        let boundary = boundary();
        let kind = match head.fields.get(Name::ContentType) {
            Some(kind) => format!("Content-Type: {}\r\n", String::from_utf8_lossy(kind)),
            None => String::new(),
        };
        let together = format!("multipart/byteranges; boundary={boundary}");
        head.fields.set(Name::ContentType, together.as_bytes());
        for range in ranges {
            let of = of(range);
            let text = format!("\r\n--{boundary}\r\n{kind}Content-Range: {of}\r\n\r\n");
            parts.push(Part::Bytes(text.into()));
            parts.push(part(range));
        }
        parts.push(Part::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    }
    let length = parts.iter().map(Part::length).sum();
    let (head, _) = context.clear_head(source, head, Some(length));
    stream(context, head, Some(length), parts, None)
}

/// A line that is in no body: nobody can know it beforehand.
fn boundary() -> String {
    let mut random = [0; 16];
    // Without randomness it is still one that bodies do not have.
    let _ = getrandom::fill(&mut random);
    format!("{:032x}", u128::from_ne_bytes(random))
}

/// An answer whose body is read on its way.
pub(super) fn stream(
    context: &RequestContext,
    head: Cleared<ResponseHead>,
    length: Option<u64>,
    parts: impl IntoIterator<Item = Part>,
    coded: Option<Box<Coded>>,
) -> Outcome {
    let most = match context.head.version {
        Version::HTTP_2 => OF_STREAM,
        _ => download::CHUNK,
    };
    let has_body = !context.is_head();
    let body = match has_body {
        true => FileBody::new(parts, coded, most),
        false => FileBody::new([], None, most),
    };
    Outcome::Backend(Box::new(Reply {
        head,
        length,
        has_body,
        pause: None,
        transfer: Transfer::of_file(body),
    }))
}
