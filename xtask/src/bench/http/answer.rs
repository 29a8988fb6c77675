//! An answer of HTTP/1.1, read out of all bytes of a connection.

use crate::sh::CommandExt;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::{fmt, fs};

/// A final answer.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// Without chunks.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Reads it; the connection ends with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.with_context(|| format!("no head: {}", String::from_utf8_lossy(bytes)))?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.and_then(|status| status.parse().ok());
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').context("a line without a name")?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Self {
            status: status.context("no status")?,
            headers,
            body: Vec::new(),
        };
        answer.body = match answer.is_chunked() {
            true => unchunk(&bytes[end + 4..])?,
            false => bytes[end + 4..].to_vec(),
        };
        Ok(answer)
    }

    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }

    /// Whether its head says how long the body is, and it is.
    pub(super) fn has_length(&self) -> bool {
        let length = self.header("content-length").map(str::parse);
        length == Some(Ok(self.body.len()))
    }

    /// The port of the backend, where the body names it.
    pub(super) fn backend(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.body);
        text.split_once("port=").map(|(_, port)| port.to_owned())
    }

    /// The body after gzip. `dir` takes a temporary file.
    pub(super) fn unzip(&self, dir: &Path) -> Result<String> {
        let file = dir.join("answer.gz");
        fs::write(&file, &self.body).context("keep an answer")?;
        Command::new("gzip").arg("-dc").arg(file).read()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body[..self.body.len().min(200)];
        let body = String::from_utf8_lossy(body);
        write!(f, "{} {:?} {body:?}", self.status, self.headers)
    }
}

/// The data of all chunks.
fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n");
        let end = end.context("a chunk without a size")?;
        let size = std::str::from_utf8(&rest[..end]).context("a chunk's size")?;
        let size = usize::from_str_radix(size, 16).context("a chunk's size")?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        if rest.get(size..size + 2) != Some(b"\r\n") {
            bail!("a chunk does not end where it says");
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_and_without_chunks() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-A:  b\r\n\r\nport=5001";
        let plain = Answer::read(plain).unwrap();
        assert_eq!((plain.status, plain.header("x-a")), (200, Some("b")));
        assert_eq!(plain.backend().as_deref(), Some("5001"));
        assert!(plain.has_length() && !plain.is_chunked());
        let head = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked =
            Answer::read(format!("{head}3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n").as_bytes());
        let chunked = chunked.unwrap();
        assert_eq!((chunked.status, chunked.body.len()), (404, 13));
        assert!(chunked.is_chunked() && !chunked.has_length());
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for text in ["", "HTTP/1.1 200", &format!("{head}3\r\nab"), head] {
            assert!(Answer::read(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
