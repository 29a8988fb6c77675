//! What hyper mends or drops in a request without telling: seen in the bytes as they are read.
//!
//! A fragment in the target (RFC 9112, section 3.2) and `Content-Length` beside
//! `Transfer-Encoding` (section 6.3) are gone when the request is handed over. The sentry follows
//! the bytes just far enough to know where a head is, and says of each request whether it was
//! clean. After a chunked body it finds the next head by the next read; what hides from it there
//! is still framed as RFC 9112 has it, and the connection closed after it.

use hyper::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};

/// Where in the bytes of a connection the sentry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the request line; empty lines before it are skipped (RFC 9112, section 2.2).
    Target { begun: bool },
    /// In the first bytes of a header line: how many, and which names they may still be.
    Name(u8, Names),
    /// In the rest of a line; the number of a Content-Length is gathered.
    Line { length: bool },
    /// So many bytes of a body are to come.
    Body(u64),
    /// Somewhere in a chunked body.
    Unknown,
}

/// The names that the beginning of a line may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Names {
    length: bool,
    encoding: bool,
}

const BEGINNING: Place = Place::Target { begun: false };

const EITHER: Names = Names {
    length: true,
    encoding: true,
};

/// Watches the bytes of one connection.
pub(super) struct Sentry {
    place: Place,
    /// The length of the body, of the head that is being read.
    length: u64,
    has_length: bool,
    has_encoding: bool,
    unclean: bool,
    /// Heads read to their end so far.
    heads: u64,
    /// The first of them that was not clean.
    first_unclean: Option<u64>,
    /// Requests handed over so far.
    handed_over: u64,
}

impl Default for Sentry {
    fn default() -> Self {
        Self {
            place: BEGINNING,
            length: 0,
            has_length: false,
            has_encoding: false,
            unclean: false,
            heads: 0,
            first_unclean: None,
            handed_over: 0,
        }
    }
}

impl Sentry {
    /// A request has been handed over: whether it is one to refuse.
    pub(super) fn hand_over(&mut self) -> bool {
        self.handed_over += 1;
        self.first_unclean
            .is_some_and(|unclean| unclean <= self.handed_over)
    }

    /// The body of a request, or its answer, is over: what is read next begins a head.
    pub(super) fn resume(&mut self) {
        if self.place == Place::Unknown {
            self.begin();
            self.heads = self.handed_over;
        }
    }

    fn begin(&mut self) {
        self.place = BEGINNING;
        self.length = 0;
        self.has_length = false;
        self.has_encoding = false;
        self.unclean = false;
    }

    /// Follows `bytes`, which have just been read.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.first_unclean.is_none() {
            bytes = match self.place {
                Place::Target { begun } => self.target(bytes, begun),
                Place::Name(read, names) => self.name(bytes, read, names),
                Place::Line { length } => self.line(bytes, length),
                Place::Body(left) => self.body(bytes, left),
                Place::Unknown => return,
            };
        }
    }

    fn target<'a>(&mut self, bytes: &'a [u8], mut begun: bool) -> &'a [u8] {
        let end = find(bytes, b'\n');
        let line = &bytes[..end.unwrap_or(bytes.len())];
        self.unclean |= memchr::memchr(b'#', line).is_some();
        begun |= !line.is_empty() && line != b"\r";
        self.place = match end {
            Some(_) if begun => Place::Name(0, EITHER),
            _ => Place::Target { begun },
        };
        end.map_or(&[], |end| &bytes[end + 1..])
    }

    /// Compares the beginning of a line with the names that count.
    fn name<'a>(&mut self, bytes: &'a [u8], mut read: u8, mut names: Names) -> &'a [u8] {
        for (index, byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' if read == 0 => {
                    self.end_of_head();
                    return &bytes[index + 1..];
                }
                b'\r' if read == 0 => continue,
                b':' => {
                    let named = |name: &HeaderName| usize::from(read) == name.as_str().len();
                    let length = names.length && named(&CONTENT_LENGTH);
                    let encoding = names.encoding && named(&TRANSFER_ENCODING);
                    self.has_length |= length;
                    self.has_encoding |= encoding;
                    self.length = if length { 0 } else { self.length };
                    self.place = Place::Line { length };
                    return &bytes[index + 1..];
                }
                _ => {}
            }
            let is_at = |name: &HeaderName| {
                let letter = name.as_str().as_bytes().get(usize::from(read));
                letter.is_some_and(|letter| byte.eq_ignore_ascii_case(letter))
            };
            names.length &= is_at(&CONTENT_LENGTH);
            names.encoding &= is_at(&TRANSFER_ENCODING);
            if !names.length && !names.encoding {
                self.place = Place::Line { length: false };
                return &bytes[index..];
            }
            read += 1;
        }
        self.place = Place::Name(read, names);
        &[]
    }

    fn line<'a>(&mut self, bytes: &'a [u8], length: bool) -> &'a [u8] {
        let end = find(bytes, b'\n');
        if length {
            let line = &bytes[..end.unwrap_or(bytes.len())];
            for digit in line.iter().filter(|byte| byte.is_ascii_digit()) {
                let digit = u64::from(digit - b'0');
                self.length = self.length.saturating_mul(10).saturating_add(digit);
            }
        }
        match end {
            Some(end) => {
                self.place = Place::Name(0, EITHER);
                &bytes[end + 1..]
            }
            None => &[],
        }
    }

    fn end_of_head(&mut self) {
        self.heads += 1;
        if self.unclean || (self.has_length && self.has_encoding) {
            self.first_unclean = Some(self.heads);
        }
        let (length, chunked) = (self.length, self.has_encoding);
        self.begin();
        if chunked {
            self.place = Place::Unknown;
        } else if length > 0 {
            self.place = Place::Body(length);
        }
    }

    fn body<'a>(&mut self, bytes: &'a [u8], left: u64) -> &'a [u8] {
        let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.place = match left - here as u64 {
            0 => BEGINNING,
            left => Place::Body(left),
        };
        &bytes[here..]
    }
}

fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    memchr::memchr(wanted, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Which of the requests in `text` are refused, when it is read in pieces of `size` bytes.
    fn refused(text: &str, requests: usize, size: usize) -> Vec<bool> {
        let mut sentry = Sentry::default();
        for piece in text.as_bytes().chunks(size) {
            sentry.read(piece);
        }
        (0..requests).map(|_| sentry.hand_over()).collect()
    }

    const CLEAN: &str = "GET / HTTP/1.1\r\nHost: a\r\nContent: 1\r\nContent-Length-X: 9\r\n\r\n";
    const BODY: &str = "POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 5\r\n\r\n#\n#\n#";
    const BOTH: &str = "POST / HTTP/1.1\r\nTransfer-encoding: chunked\r\nContent-Length: 3\r\n\r\n";
    const FRAGMENT: &str = "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n";

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(size in 1usize..200) {
            prop_assert_eq!(refused(CLEAN, 1, size), [false]);
            prop_assert_eq!(refused(&format!("{CLEAN}{BODY}{CLEAN}"), 3, size), [false; 3]);
            prop_assert_eq!(refused(BOTH, 1, size), [true]);
            prop_assert_eq!(refused(FRAGMENT, 1, size), [true]);
            let third = format!("{CLEAN}\r\n{BODY}{FRAGMENT}");
            prop_assert_eq!(refused(&third, 3, size), [false, false, true]);
        }

        #[test]
        fn noise_does_no_harm(noise: Vec<u8>) {
            let mut sentry = Sentry::default();
            sentry.read(&noise);
            sentry.hand_over();
            sentry.resume();
            sentry.read(&noise);
        }
    }

    #[test]
    fn the_next_head_after_a_chunked_body_is_seen() {
        let mut sentry = Sentry::default();
        sentry.read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        sentry.read(b"3\r\n#\n#\r\n0\r\n\r\n");
        assert!(!sentry.hand_over());
        sentry.resume();
        sentry.read(FRAGMENT.as_bytes());
        assert!(sentry.hand_over());
    }
}
