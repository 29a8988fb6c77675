//! Lines of the access log for unusual requests.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Backend, Client, PATIENCE, Proxy};

/// An access log in a directory of its own.
pub(super) struct Log {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Log {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            path: dir.path().join("access.log"),
            _dir: dir,
        }
    }

    /// The settings under `[service.http]`, before any table.
    pub(super) fn settings(&self) -> String {
        let path = self.path.display();
        format!("access_log = {{ file = '{path}', format = 'json' }}")
    }

    /// All lines, once there are so many.
    #[track_caller]
    pub(super) fn lines(&self, count: usize) -> Vec<serde_json::Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            if text.lines().count() >= count && text.ends_with('\n') {
                let line = |line| serde_json::from_str(line).unwrap();
                return text.lines().map(line).collect();
            }
            assert!(Instant::now() < deadline, "{count} lines: {text:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// No line, although there was time for one: they are written every 100 ms.
    #[track_caller]
    pub(super) fn is_empty(&self) {
        std::thread::sleep(Duration::from_millis(500));
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        assert_eq!(text, "");
    }
}

#[test]
fn request_that_is_refused_before_its_head_is_read_has_a_line() {
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("not HTTP at all\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    ] {
        let (log, backend) = (Log::new(), Backend::new());
        let proxy = Proxy::new(&[&backend], &log.settings());
        assert_eq!(proxy.ask(request).status(), status, "{request:?}");
        let lines = log.lines(1);
        assert_eq!(lines.len(), 1, "{request:?}: {lines:?}");
        assert_eq!(lines[0]["status"], status, "{request:?}");
        assert_eq!(lines[0]["client"], "127.0.0.1", "{request:?}");
        backend.was_spared();
    }
}

#[test]
fn tunnel_has_its_line_at_its_end_with_what_went_through() {
    let (log, backend) = (Log::new(), Backend::new());
    let proxy = Proxy::new(&[&backend], &log.settings());
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client: Client = proxy.ask(&format!("GET /chat HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    let (mut behind, _) = backend.request();
    behind.send(&format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}"));
    client.head();
    behind.send("hello");
    client.exactly(5);
    log.is_empty();
    behind.end();
    client.end();
    client.rest();
    let lines = log.lines(1);
    assert_eq!(lines[0]["status"], 101, "{lines:?}");
    assert_eq!(lines[0]["target"], "/chat", "{lines:?}");
    assert_eq!(lines[0]["bytes"], 5, "{lines:?}");
}
