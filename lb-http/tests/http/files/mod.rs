//! Files that the engine sends by itself.

mod changes;
mod conditions;
mod http2;
mod names;
mod pages;
mod twins;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Client, Proxy, field};

/// A proxy whose routes have files, and no backend.
struct Site {
    dir: TempDir,
    proxy: Proxy,
}

impl Site {
    /// With these settings of `files` beside its root.
    fn new(settings: &str) -> Self {
        Self::with("", "/", settings)
    }

    /// With `service` under `[service.http]`, and the files for paths below `path`.
    fn with(service: &str, path: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("www");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        let proxy = Proxy::new(&[], &format!("{service}\n{}", route(&root, path, settings)));
        Self { dir, proxy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("www").join(name)
    }

    /// Writes a file that has not changed for long.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        set_modified(&path, 784_111_777);
    }

    /// The status and the answer to a GET of `path` with these lines.
    #[track_caller]
    fn get(&self, path: &str, lines: &[&str]) -> (u16, String) {
        self.ask("GET", path, lines).answer()
    }

    /// A client that has asked by `method`.
    fn ask(&self, method: &str, path: &str, lines: &[&str]) -> Client {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.proxy.ask(&format!(
            "{method} {path} HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n"
        ))
    }

    /// The head of the answer to a HEAD.
    #[track_caller]
    fn head(&self, path: &str, lines: &[&str]) -> String {
        let mut client = self.ask("HEAD", path, lines);
        let head = client.head();
        client.is_silent();
        head
    }
}

/// A route with files.
fn route(root: &Path, path: &str, settings: &str) -> String {
    format!(
        "[[service.route]]\npath = '{path}'\n[service.route.files]\nroot = '{}'\n{settings}\n",
        root.display()
    )
}

/// Sets the time of the last change, in seconds since 1970.
fn set_modified(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

/// The body of an answer.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// A text of so many bytes, without a pattern that repeats soon.
fn text(length: usize) -> String {
    let mut text: String = (0u32..).map(|at| format!("{at:x} ")).take(length).collect();
    text.truncate(length);
    text
}
