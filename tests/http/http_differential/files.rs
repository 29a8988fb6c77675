//! Files: the same requests to nginx and to the engine, with the same directory. The answers are alike, but for a
//! stated list of differences.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::engine::Engine;
use super::message::{Message, answers_in};
use super::nginx::Nginx;
use super::talk;

const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

/// Fields that are compared. The entity tags of both are made in different ways: that there is one, and whether it is
/// weak.
const FIELDS: [&str; 9] = [
    "content-type",
    "content-length",
    "content-range",
    "content-encoding",
    "last-modified",
    "accept-ranges",
    "cache-control",
    "location",
    "vary",
];

/// Paths, and why nginx answers otherwise, with its status and ours.
const DIFFERENCES: [(&str, u16, u16, &str); 8] = [
    (
        "/empty/",
        403,
        404,
        "a directory without an index file is none that is served",
    ),
    ("/empty", 301, 404, "the same without its slash"),
    ("/.hidden", 200, 404, "names with a dot are not served"),
    ("/out", 200, 404, "a link that leads out"),
    (
        "/../secret",
        400,
        404,
        "more steps up than down lead to the root (RFC 3986, section 5.2.4)",
    ),
    ("/%2e%2e/secret", 400, 404, "the same in disguise"),
    ("/a.txt%00", 400, 404, "no file has such a name"),
    ("/..%2fsecret", 400, 404, "an encoded slash is in no name"),
];

/// A request, for the list of those to which nginx answers otherwise.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    line: &'a str,
}

/// A rule that fits some requests, and the reason for the other answer.
type Other = (fn(&Asked<'_>) -> bool, &'static str);

const OTHERS: [Other; 6] = [
    (|asked| asked.method == "OPTIONS", "405 in place of Allow"),
    (
        |asked| asked.method == "HEAD" && asked.line.contains("Range: "),
        "Range is for GET alone (RFC 9110, section 14.2)",
    ),
    (
        |asked| asked.path == "/none" && asked.line.contains("Range: "),
        "416 for any range of an empty file",
    ),
    (
        |asked| asked.line == "Range: bytes=5-2",
        "416 for a malformed range, which may be ignored",
    ),
    (
        |asked| asked.line == "If-Unmodified-Since: nonsense",
        "412 for a date that is none, which has to be ignored (section 13.1.4)",
    ),
    (
        |asked| asked.path == "/app.js" && asked.line.contains("gzip\r\nRange"),
        "gzip_static has no ranges",
    ),
];

fn fill(root: &Path) {
    let write = |name: &str, content: &str| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(784_111_777))
            .unwrap();
    };
    write("../secret", "secret");
    write("index.html", "home");
    write("a.txt", "content of a file");
    write("app.js", "script");
    write("app.js.gz", "coded");
    write("sub/index.html", "sub");
    write("a b.txt", "blank");
    write("%41.txt", "percent");
    write("large.bin", &"0123456789".repeat(30_000));
    write("none", "");
    write(".hidden", "hidden");
    fs::create_dir(root.join("empty")).unwrap();
    std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
    std::os::unix::fs::symlink("a.txt", root.join("inside")).unwrap();
}

fn servers(root: &Path) -> (Engine, Nginx) {
    let root = root.display();
    let engine = Engine::with(&format!(
        "[[service.route]]\npath = '/'\n[service.route.files]\nroot = '{root}'\n\
         precompressed = ['gzip']\ncache_control = [{{ path = '*.js', value = 'max-age=60' }}]\n"
    ));
    let http = "types { text/html html; text/plain txt; text/javascript js; application/gzip gz; } \
                default_type application/octet-stream; charset utf-8; \
                charset_types text/plain text/javascript; max_ranges 16;";
    let server = format!(
        "root {root}; if_modified_since before; absolute_redirect off; gzip_static on; gzip_vary on; \
         location ~ [.]js$ {{ add_header Cache-Control max-age=60; }}"
    );
    (engine, Nginx::with(&(http.to_owned(), server)))
}

/// The answer of one of them. `{tag}` stands for its own entity tag.
fn answer(to: std::net::SocketAddr, method: &str, path: &str, line: &str) -> Message {
    let once = |line: &str| {
        let lines = if line.is_empty() {
            String::new()
        } else {
            format!("{line}\r\n")
        };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{lines}\r\n");
        let (mut answers, rest) = answers_in(&talk(to, request.as_bytes()), &[method]);
        assert!(rest.is_empty(), "{method} {path} {line}: {rest:?}");
        answers.pop().expect("an answer")
    };
    if !line.contains("{tag}") {
        return once(line);
    }
    let tag = once("").get("etag").unwrap_or("\"none\"").to_owned();
    once(&line.replace("{tag}", &tag))
}

/// The parts of an answer that are compared.
fn compared(answer: &Message) -> Vec<(String, String)> {
    let status = answer.status();
    let mut parts = vec![("status".to_owned(), status.to_string())];
    if !matches!(status, 200 | 206 | 304) {
        // Pages for errors are each one's own.
        let told = ["content-range", "location"].map(|name| (name, answer.get(name)));
        parts.extend(
            told.map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned())),
        );
        return parts;
    }
    let boundary = answer
        .get("content-type")
        .and_then(|kind| kind.split_once("boundary="));
    let boundary = boundary.map_or("no boundary", |(_, boundary)| boundary);
    for name in FIELDS {
        // Each has a boundary of its own, of its own length.
        let is_framed = name == "content-length" && boundary != "no boundary";
        let is_left_out = match status {
            // It need not repeat them (RFC 9110, section 15.4.5).
            304 => !matches!(name, "cache-control" | "vary"),
            // nginx says it only with whole files, and not of those by gzip_static.
            206 => name == "accept-ranges",
            _ => name == "accept-ranges" && answer.get("content-encoding").is_some(),
        };
        if !is_framed && !is_left_out {
            let value = answer.get(name).unwrap_or_default().replace(boundary, "B");
            parts.push((name.to_owned(), value.to_ascii_lowercase()));
        }
    }
    let tag = answer.get("etag").map(|tag| tag.starts_with("W/"));
    parts.push(("etag".to_owned(), format!("{tag:?}")));
    let body = String::from_utf8_lossy(&answer.body).replace(boundary, "B");
    parts.push(("body".to_owned(), body));
    parts
}

const METHODS: [&str; 4] = ["GET", "HEAD", "POST", "OPTIONS"];

/// For a message: bodies may be long.
fn shortened(parts: &[(String, String)]) -> String {
    let short = parts.iter().map(|(name, value)| {
        let value: String = value.chars().take(100).collect();
        format!("{name}={value}")
    });
    short.collect::<Vec<_>>().join("; ")
}

#[test]
fn files_are_sent_as_by_nginx() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("www");
    fs::create_dir(&root).unwrap();
    fill(&root);
    // A change of the last two seconds might not be the last one.
    std::thread::sleep(Duration::from_millis(2100));
    let (engine, nginx) = servers(&root);
    let paths = [
        "/",
        "/index.html",
        "/a.txt",
        "/app.js",
        "/app.js.gz",
        "/sub",
        "/sub?a=b",
        "/sub/",
        "/a%20b.txt",
        "/%2541.txt",
        "/large.bin",
        "/none",
        "/inside",
        "/missing",
        "/a.txt/",
        "/a.txt/b",
        "//a.txt",
        "/./a.txt",
        "/sub/../a.txt",
        "/%61.txt",
        "/sub/..",
        "/a.txt?query",
    ];
    let paths = paths.into_iter().chain(DIFFERENCES.map(|(path, ..)| path));
    let dates = ["If-Modified-Since", "If-Unmodified-Since", "If-Range"].map(|name| {
        [THEN, BEFORE, "Sun, 06 Nov 1994 08:49:38 GMT", "nonsense"]
            .map(|date| format!("{name}: {date}"))
    });
    let lines = [
        "",
        "Accept-Encoding: gzip",
        "Accept-Encoding: gzip;q=0",
        "If-None-Match: {tag}",
        "If-None-Match: W/{tag}",
        "If-None-Match: \"other\"",
        "If-None-Match: \"other\", {tag}",
        "If-None-Match: *",
        "If-Match: {tag}",
        "If-Match: \"other\"",
        "If-Match: *",
        "Range: bytes=0-0",
        "Range: bytes=2-5",
        "Range: bytes=3-",
        "Range: bytes=-3",
        "Range: bytes=-999999999",
        "Range: bytes=999999-",
        "Range: bytes=0-1,3-4",
        "Range: bytes=0-,0-",
        "Range: bytes=5-2",
        "Range: lines=1-2",
        "Range: bytes=0-999999",
        "Range: bytes=1-2\r\nIf-Range: {tag}",
        "Range: bytes=1-2\r\nIf-Range: \"other\"",
        "Range: bytes=1-2\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT",
        "Accept-Encoding: gzip\r\nRange: bytes=0-1",
        "If-None-Match: \"other\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    ];
    let lines: Vec<String> = lines
        .map(str::to_owned)
        .into_iter()
        .chain(dates.into_iter().flatten())
        .collect();
    let (mut report, mut count) = (String::new(), 0);
    for (path, method) in paths.flat_map(|path| METHODS.map(|method| (path, method))) {
        for line in &lines {
            let asked = Asked { method, path, line };
            if OTHERS.iter().any(|(is_other, _)| is_other(&asked)) {
                continue;
            }
            count += 1;
            let ours = answer(engine.address(), method, path, line);
            let theirs = answer(nginx.address(), method, path, line);
            if let Some((_, nginx, engine, _)) =
                DIFFERENCES.iter().find(|(known, ..)| *known == path)
            {
                if method != "POST" && line.is_empty() {
                    assert_eq!(
                        (theirs.status(), ours.status()),
                        (*nginx, *engine),
                        "{method} {path}"
                    );
                }
                continue;
            }
            // nginx looks for the file before it looks at the method.
            if method == "POST" && theirs.status() != 405 {
                assert_eq!(ours.status(), 405, "{path}");
                continue;
            }
            let (ours, theirs) = (compared(&ours), compared(&theirs));
            if ours != theirs {
                let (ours, theirs) = (shortened(&ours), shortened(&theirs));
                report +=
                    &format!("\n=== {method} {path} {line:?}\nlb-agent: {ours}\nnginx: {theirs}\n");
            }
        }
    }
    println!("{count} requests");
    assert!(report.is_empty(), "{report}");
}
