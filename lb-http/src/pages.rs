//! Answers of the balancer's own, for requests without an application's answer.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use hyper::body::Bytes;

use lb_config::Config;
use lb_config::http::ErrorPages;

/// Largest page that is read.
const LARGEST: u64 = 1 << 20;

/// A page that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PageError {
    /// Its file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, io::Error),
    /// Its file is too large.
    #[error("{0} is larger than 1 MiB")]
    TooLarge(PathBuf),
}

/// The pages of one service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    pages: HashMap<StatusCode, Page>,
    maintenance: Option<Page>,
}

#[derive(Clone, Debug)]
struct Page {
    content_type: &'static str,
    body: Bytes,
}

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The type of `body`.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

/// The form that a client prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Text,
}

/// The errors in the pages of `config`, a line each.
pub fn check_config(config: &Config) -> Vec<String> {
    let source = config.source.as_deref().unwrap_or(Path::new(""));
    let written = config.services.iter().filter(|s| !s.is_inside());
    let mut problems = Vec::new();
    for (index, service) in written.enumerate() {
        let files = service
            .http
            .iter()
            .flat_map(|http| &http.settings.errors.lines);
        for (path, line) in files {
            if let Err(error) = Page::load(path) {
                problems.push(format!(
                    "{}:{line}: service[{index}].http.errors: {} (write the path of a page, or leave it out)",
                    source.display(),
                    error
                ));
            }
        }
    }
    problems
}

impl Pages {
    /// Reads the files.
    pub(crate) fn load(configured: &ErrorPages) -> Result<Self, PageError> {
        let pages = configured
            .pages
            .iter()
            .map(|(status, path)| Ok((*status, Page::load(path)?)))
            .collect::<Result<_, PageError>>()?;
        let maintenance = configured.maintenance.as_deref().map(Page::load);
        Ok(Self {
            pages,
            maintenance: maintenance.transpose()?,
        })
    }

    /// The page for `status`. `all_down` says that no backend can be used, which is when the maintenance
    /// page is shown.
    pub(crate) fn show(
        &self,
        status: StatusCode,
        all_down: bool,
        accept: Option<&[u8]>,
        request_id: &str,
    ) -> Shown {
        let maintenance = self.maintenance.as_ref().filter(|_| all_down);
        if let Some(page) = maintenance.or_else(|| self.pages.get(&status)) {
            return Shown {
                content_type: page.content_type,
                body: page.body.clone(),
            };
        }
        let reason = status.canonical_reason().unwrap_or("Error");
        let code = status.as_u16();
        let hint = hint(status);
        let (content_type, text) = match wanted(accept) {
            Form::Json => (
                "application/json",
                serde_json::json!({ "status": code, "error": reason, "request_id": request_id })
                    .to_string(),
            ),
            Form::Html => (
                "text/html; charset=utf-8",
                html(code, reason, hint, request_id),
            ),
            Form::Text => ("text/plain; charset=utf-8", format!("{code} {reason}\n")),
        };
        Shown {
            content_type,
            body: Bytes::from(text),
        }
    }
}

impl Page {
    fn load(path: &Path) -> Result<Self, PageError> {
        use io::Read as _;
        let unreadable = |error| PageError::Unreadable(path.to_owned(), error);
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut body = Vec::new();
        file.take(LARGEST + 1)
            .read_to_end(&mut body)
            .map_err(unreadable)?;
        if body.len() as u64 > LARGEST {
            return Err(PageError::TooLarge(path.to_owned()));
        }
        Ok(Self {
            content_type: content_type(path),
            body: body.into(),
        })
    }
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => "application/json",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "text/html; charset=utf-8",
    }
}

/// The form that a client asks for: a browser takes HTML before anything else, a program JSON, and others
/// get a line of text.
fn wanted(accept: Option<&[u8]>) -> Form {
    let quality_of = |wanted: &[&str]| {
        let values = accept.into_iter();
        let ranges = values.flat_map(|value| value.split(|byte| *byte == b','));
        ranges.filter_map(|range| quality(range, wanted)).max()
    };
    let html = quality_of(&["text/html", "application/xhtml+xml"]).unwrap_or(0);
    let json = quality_of(&["application/json", "application/*"]).unwrap_or(0);
    let problem = quality_of(&["application/problem+json"]).unwrap_or(0);
    if html > 0 && html >= json.max(problem) {
        Form::Html
    } else if json.max(problem) > 0 {
        Form::Json
    } else {
        Form::Text
    }
}

/// The quality of a media range in thousandths, if it is one of these (RFC 9110, section 12.5.1).
fn quality(range: &[u8], wanted: &[&str]) -> Option<u16> {
    let range = std::str::from_utf8(range).ok()?;
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next()?;
    wanted
        .iter()
        .find(|wanted| wanted.eq_ignore_ascii_case(kind))?;
    let quality = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let is_quality = name.trim().eq_ignore_ascii_case("q");
        is_quality.then(|| value.trim().parse::<f32>().unwrap_or(0.0))
    });
    Some((quality.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u16)
}

/// A sentence for a person.
fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        502 => "The application did not give an answer that makes sense. Please try again.",
        503 => "The application is away for the moment. Please try again soon.",
        504 => "The application took too long to answer. Please try again.",
        404 => "There is nothing here.",
        408 => "The request took too long to arrive.",
        413 => "What was sent is larger than this server takes.",
        414 | 431 => "The request is longer than this server takes.",
        508 => "The request goes in circles between servers.",
        400..500 => "The request cannot be answered as it is.",
        _ => "Something went wrong. Please try again.",
    }
}

fn html(code: u16, reason: &str, hint: &str, request_id: &str) -> String {
    // The id comes from a trusted proxy or from here; markup in it is none all the same.
    let id: String = request_id
        .chars()
        .filter(|c| !matches!(c, '<' | '>' | '&' | '"' | '\''))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{code} {reason}</title>\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:20vh auto;\
         padding:0 1rem;color:#222}}small{{color:#777}}</style>\n\
         <h1>{reason}</h1>\n<p>{hint}</p>\n<p><small>{code} · {id}</small></p>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn shown(accept: &str) -> Shown {
        Pages::default().show(
            StatusCode::BAD_GATEWAY,
            false,
            Some(accept.as_bytes()),
            "a<b>",
        )
    }

    #[test]
    fn a_browser_gets_html_a_program_json_and_others_text() {
        let browser = shown("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
        assert!(browser.content_type.starts_with("text/html"));
        let page = String::from_utf8(browser.body.to_vec()).unwrap();
        assert!(
            page.contains("Bad Gateway") && page.contains("ab"),
            "{page}"
        );
        let program = shown("application/json, text/plain, */*");
        assert_eq!(program.content_type, "application/json");
        assert!(program.body.starts_with(b"{\"error\":\"Bad Gateway\""));
        assert_eq!(shown("*/*").body, "502 Bad Gateway\n");
        assert_eq!(
            shown("text/html;q=0.1, application/json").content_type,
            "application/json"
        );
        assert_eq!(shown("text/html;q=0").body, "502 Bad Gateway\n");
    }

    #[test]
    fn own_pages_are_shown_and_the_maintenance_page_when_all_are_down() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let configured = ErrorPages {
            pages: BTreeMap::from([(StatusCode::BAD_GATEWAY, write("502.json", "{}"))]),
            maintenance: Some(write("soon.html", "<p>soon")),
            ..ErrorPages::default()
        };
        let pages = Pages::load(&configured).unwrap();
        let show = |status, all_down| pages.show(status, all_down, Some(b"text/html"), "id");
        let own = show(StatusCode::BAD_GATEWAY, false);
        assert_eq!(
            (own.content_type, &own.body[..]),
            ("application/json", &b"{}"[..])
        );
        let soon = show(StatusCode::SERVICE_UNAVAILABLE, true);
        assert_eq!(soon.body, "<p>soon");
        let other = show(StatusCode::SERVICE_UNAVAILABLE, false);
        assert!(other.body.starts_with(b"<!doctype html>"));
    }

    #[test]
    fn a_page_that_is_not_there_is_named() {
        let configured = ErrorPages {
            maintenance: Some("/nonexistent/x.html".into()),
            ..ErrorPages::default()
        };
        let error = Pages::load(&configured).unwrap_err();
        let problem = "/nonexistent/x.html cannot be read: No such file or directory (os error 2)";
        assert_eq!(error.to_string(), problem);
    }
}
