//! Messages of HTTP/1.1, read by code that has nothing in common with the agent's.

use std::fmt;

/// A request or an answer.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) line: String,
    /// Names in lower case, values trimmed; as latin-1.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body is complete, by its own framing.
    pub(crate) is_whole: bool,
}

impl Message {
    /// The head at the beginning of `bytes` and its length.
    pub(crate) fn head(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let text: String = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
        let mut lines = text.split("\r\n");
        let line = lines.next()?.to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or((line, "[no colon]"));
            (
                name.to_ascii_lowercase(),
                value.trim_matches([' ', '\t']).to_owned(),
            )
        };
        let message = Self {
            line,
            fields: lines.map(field).collect(),
            body: Vec::new(),
            is_whole: true,
        };
        Some((message, end + 4))
    }

    /// The value of the first line of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_chunked(&self) -> bool {
        let coding = self.get("transfer-encoding");
        coding.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    pub(crate) fn length(&self) -> Option<usize> {
        self.get("content-length")?.parse().ok()
    }

    /// The second word of an answer's first line.
    pub(crate) fn status(&self) -> u16 {
        let word = self.line.split(' ').nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {:?} {:?} ", self.line, self.fields)?;
        write!(f, "{:?}", String::from_utf8_lossy(&self.body))?;
        if self.is_whole {
            Ok(())
        } else {
            write!(f, " (cut short)")
        }
    }
}

/// The data of the chunks at the beginning of `bytes`, and how many bytes they are, trailers included;
/// `Err` has the data before an error, and `Ok(None)` stands for more bytes that are needed.
pub(crate) fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Vec<u8>> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&rest[..end]).unwrap_or_default();
        let size = size.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            return Err(body);
        };
        at += end + 2;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if &data[size..] != b"\r\n" {
            return Err(body);
        }
        body.extend_from_slice(&data[..size]);
        at += size + 2;
    }
    loop {
        let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        at += end + 2;
        if end == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// All answers in the bytes of a connection that has ended, and the bytes left over.
pub(crate) fn answers_in(mut bytes: &[u8], methods: &[&str]) -> (Vec<Message>, Vec<u8>) {
    let (mut answers, mut methods) = (Vec::new(), methods.iter());
    while bytes.starts_with(b"HTTP/1.")
        && let Some((mut answer, length)) = Message::head(bytes)
    {
        bytes = &bytes[length..];
        let status = answer.status();
        if (100..200).contains(&status) && status != 101 {
            answers.push(answer);
            continue;
        }
        let method = methods.next().copied().unwrap_or_default();
        if method != "HEAD" && !matches!(status, 204 | 304) {
            bytes = body_of(&mut answer, bytes);
        }
        answers.push(answer);
    }
    (answers, bytes.to_vec())
}

/// Takes the body of `answer` from `bytes`.
fn body_of<'a>(answer: &mut Message, bytes: &'a [u8]) -> &'a [u8] {
    if answer.is_chunked() {
        return match unchunk(bytes) {
            Ok(Some((body, length))) => {
                answer.body = body;
                &bytes[length..]
            }
            Ok(None) | Err(_) => {
                answer.is_whole = false;
                answer.body = loose_chunks(bytes);
                &[]
            }
        };
    }
    let length = answer.length().unwrap_or(bytes.len());
    answer.is_whole = length <= bytes.len();
    let (body, rest) = bytes.split_at(length.min(bytes.len()));
    answer.body = body.to_vec();
    rest
}

/// The data of chunks that end too early.
fn loose_chunks(bytes: &[u8]) -> Vec<u8> {
    for end in (0..bytes.len()).rev() {
        let closed = [&bytes[..end], b"0\r\n\r\n"].concat();
        if let Ok(Some((body, _))) = unchunk(&closed) {
            return body;
        }
    }
    Vec::new()
}
