//! `files` of a route: a directory whose files are sent.

use crate::error::Line;
use std::path::PathBuf;

use super::sections::{ALGORITHMS, Algorithm, file_path};
use super::{path as paths, value};
use crate::choice::choice;
use crate::lists::Texts;
use crate::reader::Value;
use crate::schema::fields::{Found, Required};
use crate::schema::kinds::{
    Flag, List, Made, NonEmpty, OneOrMore, Short, Sound, Text, one_of, path, sub, text,
};
use crate::schema::{Kind, section};
use crate::value::{BadValue, quoted};

const ROOT: Text<PathBuf, String> = path("path of a directory", "\"/srv/www\"", file_path);
const FILE: Texts<String> = text("name of a file", "\"index.html\"", file_name);
const INDEX: List<Texts<String>> = List("[\"index.html\"]", FILE);
const ATTEMPT: Texts<Attempt> = Text {
    what: "path below the root, perhaps with `$path`",
    example: "\"$path\"",
    parse: attempt,
    print: Attempt::text,
};
const PATTERN: Texts<Pattern> = Text {
    what: "name or path of files, with `*` for any characters",
    example: "\"*.js\"",
    parse: pattern,
    print: |pattern| pattern.0.clone(),
};
const CACHE_CONTROL: Text<String, BadValue> = text(
    "value of `Cache-Control`",
    "\"max-age=31536000, immutable\"",
    header_value,
);
const RULE: &str = "{ path = \"*.js\", value = \"max-age=31536000, immutable\" }";

choice! {
    /// What a request for something that is no file gets.
    pub enum Missing {
        /// 404.
        NotFound = "404",
        /// The answer of the route's backends, or of the service's if the route has none.
        Backends = "backends",
    }
}

section! {
    Reload, "0.1";
    /// Files of a directory, for GET and HEAD.
    #[derive(Eq)]
    pub struct Files {
        /// The directory. The whole path of a request is looked up below it: `/assets/app.js` is `assets/app.js`.
        pub root: PathBuf = PathBuf::new(), Required(ROOT.example, ROOT);
        /// Whether the route's `path` is taken off first: `/assets/app.js` is `app.js` then.
        pub strip: bool = false, Flag;
        /// Files that stand for the directory that they are in. The first one that is there is sent.
        pub index: Vec<String> = vec!["index.html".to_owned()], INDEX;
        /// Paths that are tried in turn. `$path` is that of the request. The last one of a single-page application is
        /// `/index.html`.
        pub attempts as "try": Vec<Attempt> = vec![Attempt::of_request()], attempts();
        /// What a request gets that is not for a file. With `"backends"` they get every request other than GET and HEAD
        /// too.
        pub missing: Missing = Missing::NotFound, one_of();
        /// Codings whose files lie beside the originals, as `app.js.zst`, `app.js.br` and `app.js.gz`. The order counts
        /// among those that a client likes equally.
        pub precompressed: Vec<Algorithm> = Vec::new(), ALGORITHMS;
        /// Whether a directory without an index file is shown as a list.
        pub listing: bool = false, Flag;
        /// Whether names that begin with a dot are served. `.well-known` always is.
        pub hidden: bool = false, Flag;
        /// `Cache-Control` of files by their names. The first pattern that fits counts.
        pub cache_control: Vec<CacheControl> = Vec::new(), cache_control();
        /// The line of the root in the file, for messages; 0 without one.
        pub line: Line = Line(0), Found(|table, problems| {
            let root = table.peek("root").and_then(|value| value.place.offset);
            Line(root.map_or(0, |offset| problems.line(offset)))
        });
    }
}

section! {
    Reload, "0.1";
    /// `Cache-Control` of some files.
    #[derive(Eq)]
    pub struct CacheControl {
        /// Names of the files, one or a list: `*.js` is any name with this end, `/static/*` any path with this beginning.
        pub path: Vec<Pattern> = Vec::new(), Required("\"*.js\"", patterns());
        /// The header's value.
        pub value: String = String::new(), Required(CACHE_CONTROL.example, CACHE_CONTROL);
    }
}

/// A directory, or a table.
pub(super) fn files() -> impl Kind<Value = Files> {
    let plain = |root, value: &Value<'_, '_>, problems: &mut crate::error::Problems| {
        let line = Line(value.place.offset.map_or(0, |offset| problems.line(offset)));
        Some(Files {
            root,
            line,
            ..Files::default()
        })
    };
    Short {
        text: Made {
            of: ROOT,
            make: plain,
            back: |files: &Files| files.root.clone(),
        },
        table: Sound(sub("{ root = \"/srv/www\" }")),
        brief: |files: &Files| {
            let plain = Files {
                root: files.root.clone(),
                ..Files::default()
            };
            *files == plain
        },
        else_text: false,
    }
}

/// A path below the root that is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whether it begins with the path of the request.
    pub of_request: bool,
    /// The rest; the whole path if it does not begin with that of the request.
    pub rest: String,
}

impl Attempt {
    fn of_request() -> Self {
        Self {
            of_request: true,
            rest: String::new(),
        }
    }

    fn text(&self) -> String {
        let begin = if self.of_request { REQUEST } else { "" };
        format!("{begin}{}", self.rest)
    }
}

/// The path of the request, in an attempt.
const REQUEST: &str = "$path";

fn attempts() -> impl Kind<Value = Vec<Attempt>> {
    NonEmpty {
        list: List("[\"$path\", \"/index.html\"]", ATTEMPT),
        empty: "tries nothing (write try = [\"$path\"], or leave it out)".to_owned(),
    }
}

fn attempt(text: &str) -> Result<Attempt, BadValue> {
    let (of_request, rest) = match text.strip_prefix(REQUEST) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let begins = of_request || rest.starts_with('/');
    let is_good = |c: char| !c.is_control() && !matches!(c, '$' | '?' | '%' | '\\');
    let whole = format!("/{rest}");
    let goes_up = whole
        .split('/')
        .any(|segment| matches!(segment, "." | ".."));
    if !begins || goes_up || !rest.chars().all(is_good) {
        return value::bad(
            format!("{} is not a path below the root", quoted(text)),
            "write it like \"$path\", \"$path.html\" or \"/index.html\"",
        );
    }
    Ok(Attempt {
        of_request,
        rest: rest.to_owned(),
    })
}

fn file_name(text: &str) -> Result<String, BadValue> {
    let is_good = |c: char| !c.is_control() && c != '/';
    if matches!(text, "" | "." | "..") || !text.chars().all(is_good) {
        return value::bad(
            format!("{} is not the name of a file", quoted(text)),
            "write it like \"index.html\", without a directory",
        );
    }
    Ok(text.to_owned())
}

/// A pattern of names, or of paths if there is a slash in it. `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether it fits the file at `path`, which begins with a slash.
    pub fn fits(&self, path: &[u8]) -> bool {
        let text = match self.0.contains('/') {
            true => path,
            false => path.rsplit(|byte| *byte == b'/').next().unwrap_or(path),
        };
        fits(self.0.as_bytes(), text)
    }
}

/// Whether `text` is `pattern`, with any bytes for each `*`.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&[u8]> = parts.collect();
    let Some((last, between)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in between.iter().filter(|part| !part.is_empty()) {
        let found = rest.windows(part.len()).position(|window| window == *part);
        let Some(at) = found else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn patterns() -> impl Kind<Value = Vec<Pattern>> {
    let list = NonEmpty {
        empty: "no file (write path = \"*.js\")".to_owned(),
        list: List("[\"*.js\", \"*.css\"]", PATTERN),
    };
    OneOrMore(list, PATTERN)
}

fn pattern(text: &str) -> Result<Pattern, BadValue> {
    let is_path = text.contains('/');
    let is_plain = !text.starts_with('/') || paths::normal(text) == text;
    if text.is_empty() || is_path && !text.starts_with('/') || !is_plain {
        return value::bad(
            format!("{} fits no file", quoted(text)),
            "write a name like \"*.js\", or a path below the root like \"/static/*\"",
        );
    }
    Ok(Pattern(text.to_owned()))
}

fn cache_control() -> impl Kind<Value = Vec<CacheControl>> {
    List(
        "[{ path = \"*.js\", value = \"max-age=31536000, immutable\" }]",
        Sound(sub(RULE)),
    )
}

fn header_value(text: &str) -> Result<String, BadValue> {
    let is_visible = text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    if text.is_empty() || text.trim() != text || !is_visible {
        return value::bad(
            format!("{} is not the value of a header", quoted(text)),
            "write it like \"no-cache\" or \"max-age=3600\"",
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names_and_with_a_slash_whole_paths() {
        let fits = |text: &str, path: &str| pattern(text).unwrap().fits(path.as_bytes());
        assert!(fits("*.js", "/a/b.js"));
        assert!(!fits("*.js", "/a.js/b"));
        assert!(fits("*", "/a"));
        assert!(fits("app.*.js", "/x/app.1f.js"));
        assert!(!fits("app.*.js", "/x/app.js"));
        assert!(fits("/static/*", "/static/x/y"));
        assert!(!fits("/static/*", "/other/static/x"));
        assert!(fits("/a*b*c", "/abbc"));
        assert!(fits("index.html", "/index.html"));
        assert!(!fits("index.html", "/index.htm"));
        for bad in ["", "a/b", "/a/../b"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attempts_stay_below_the_root() {
        for good in ["$path", "$path.html", "$path/index.html", "/index.html"] {
            assert_eq!(attempt(good).unwrap().text(), good);
        }
        for bad in [
            "",
            "index.html",
            "/../x",
            "$path/..",
            "/a?b",
            "$uri",
            "/%2e",
        ] {
            assert!(attempt(bad).is_err(), "{bad}");
        }
    }
}
