//! Files over HTTP/2, which takes the same way.

use super::super::Backend;
use super::super::h2::{
    Connection, DATA, END_HEADERS, END_STREAM, GET, HEADERS, SETTINGS, Secure, fields, status,
};
use super::{route, text};

const WINDOW_UPDATE: u8 = 8;

/// The status and the body of the answer on `stream`.
fn answer(connection: &mut Connection, stream: u32) -> (u16, Vec<u8>) {
    let head = connection.next_of(&[HEADERS]).unwrap();
    let status = status(&head.payload);
    let mut body = Vec::new();
    let mut is_over = head.flags & END_STREAM != 0;
    while !is_over {
        let data = connection.next_of(&[DATA]).unwrap();
        is_over = data.flags & END_STREAM != 0;
        body.extend(&data.payload);
        if !data.payload.is_empty() && !is_over {
            let taken = u32::try_from(data.payload.len()).unwrap().to_be_bytes();
            connection.send(WINDOW_UPDATE, 0, 0, &taken);
            connection.send(WINDOW_UPDATE, 0, stream, &taken);
        }
    }
    (status, body)
}

#[test]
fn small_and_large_files_parts_and_heads_come_over_http2() {
    let dir = tempfile::tempdir().unwrap();
    let content = text(1_000_000);
    std::fs::write(dir.path().join("small"), "content").unwrap();
    std::fs::write(dir.path().join("large"), &content).unwrap();
    let secure = Secure::with(&Backend::new(), &route(dir.path(), "/", ""));
    let mut connection = secure.connect();
    connection.send(SETTINGS, 1, 0, &[]);
    for (at, (method, path, range, wanted)) in (0u32..).zip([
        ("GET", "/small", "none", (200, &b"content"[..])),
        ("GET", "/large", "none", (200, content.as_bytes())),
        (
            "GET",
            "/large",
            "bytes=500000-500009",
            (206, &content.as_bytes()[500_000..500_010]),
        ),
        ("HEAD", "/large", "none", (200, b"")),
        ("HEAD", "/small", "none", (200, b"")),
    ]) {
        let stream = 1 + 2 * at;
        let request = [
            (":method", method),
            GET[1],
            (":path", path),
            GET[3],
            ("range", range),
        ];
        connection.send(HEADERS, END_HEADERS | END_STREAM, stream, &fields(&request));
        let (status, body) = answer(&mut connection, stream);
        assert_eq!(status, wanted.0, "{method} {path}");
        assert!(body == wanted.1, "{method} {path}: {} bytes", body.len());
    }
}
