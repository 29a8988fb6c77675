//! A directory as a small page.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use std::{fmt::Write as _, io};

use hyper::body::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, statat};

use super::cache::{Cache, FindError};
use super::target::encoded;

/// Entries that are shown at most.
const MOST: usize = 10_000;

/// An entry of a directory.
struct Row {
    name: Vec<u8>,
    is_directory: bool,
    /// Bytes; `None` if it is no file.
    size: Option<u64>,
    /// Seconds since 1970.
    modified: u64,
}

/// The page of the directory called `name`, at `path` of the site.
pub(crate) async fn page(
    cache: &Cache,
    (root, name): (&Arc<Path>, &[u8]),
    path: &str,
    hidden: bool,
) -> Result<Bytes, FindError> {
    let directory = cache.directory(root, name).await?;
    let read = tokio::task::spawn_blocking(move || rows(&directory, hidden)).await;
    let (rows, is_whole) = read
        .map_err(io::Error::other)
        .and_then(|rows| rows)
        .map_err(FindError::File)?;
    Ok(Bytes::from(html(path, name.is_empty(), &rows, is_whole)))
}

/// The entries, directories first, and whether these are all.
fn rows(directory: &OwnedFd, hidden: bool) -> io::Result<(Vec<Row>, bool)> {
    let mut rows = Vec::new();
    let mut is_whole = true;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || name.starts_with(b".") && !hidden {
            continue;
        }
        if rows.len() == MOST {
            is_whole = false;
            break;
        }
        // A link may lead out: it is not followed here. One that was removed meanwhile is left out.
        let Ok(stat) = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(
            kind,
            FileType::RegularFile | FileType::Directory | FileType::Symlink
        ) {
            continue;
        }
        let size = (kind == FileType::RegularFile).then(|| u64::try_from(stat.st_size).ok());
        rows.push(Row {
            name: name.to_vec(),
            is_directory: kind == FileType::Directory,
            size: size.flatten(),
            modified: u64::try_from(stat.st_mtime).unwrap_or_default(),
        });
    }
    rows.sort_by(|a, b| (!a.is_directory, &a.name).cmp(&(!b.is_directory, &b.name)));
    Ok((rows, is_whole))
}

fn html(path: &str, is_root: bool, rows: &[Row], is_whole: bool) -> String {
    let title = escaped(path.as_bytes());
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}td,th{{padding:0 1em 0 0;text-align:left}}\
         td:nth-child(2){{text-align:right}}</style>\n\
         <h1>{title}</h1>\n<table>\n<tr><th>Name<th>Bytes<th>Modified\n"
    );
    if !is_root {
        page.push_str("<tr><td><a href=\"../\">../</a><td><td>\n");
    }
    for row in rows {
        let slash = if row.is_directory { "/" } else { "" };
        let (target, name) = (encoded(&row.name), escaped(&row.name));
        let size = row.size.map(|size| size.to_string()).unwrap_or_default();
        let time = UNIX_EPOCH + Duration::from_secs(row.modified);
        let time = humantime::format_rfc3339_seconds(time);
        // Writing to a text does not fail.
        let _ = writeln!(
            page,
            "<tr><td><a href=\"./{target}{slash}\">{name}{slash}</a><td>{size}<td>{time}"
        );
    }
    page.push_str("</table>\n");
    if !is_whole {
        let _ = writeln!(page, "<p>Only {MOST} entries are shown.</p>");
    }
    page.push_str("</html>\n");
    page
}

/// A text in HTML, also in quotes.
fn escaped(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            character if character.is_control() => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_their_place_on_the_page() {
        let row = Row {
            name: b"\"><script>alert(1)</script>&'\n".to_vec(),
            is_directory: false,
            size: Some(5),
            modified: 0,
        };
        let page = html("/<b>/", false, &[row], false);
        assert!(
            !page.contains("<script>") && !page.contains("<b>"),
            "{page}"
        );
        assert!(
            page.contains("href=\"./%22%3E%3Cscript%3Ealert(1)%3C/script%3E%26%27%0A\""),
            "{page}"
        );
        assert!(
            page.contains("&lt;script&gt;") && page.contains("<h1>/&lt;b&gt;/</h1>"),
            "{page}"
        );
        assert!(
            page.contains("../") && page.contains("Only 10000"),
            "{page}"
        );
        assert!(!html("/", true, &[], true).contains("../"));
    }
}
