//! A header section: its bytes, and an index of its lines.
//!
//! Edits append: a line that is set is written to the end of the bytes, one that is removed is
//! marked. Names keep their case, lines their order.

use std::cell::RefCell;

use crate::buffer_pool;
use crate::name::Name;

/// A header section, or a trailer section.
#[derive(Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    lines: Vec<Line>,
    /// Which names there are: a bit for each.
    present: u64,
    /// Lines that are marked as removed.
    removed: usize,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    name: Span,
    value: Span,
    known: Name,
    removed: bool,
    /// It stands in the text as it is written: `name: value`, CR and LF.
    plain: bool,
}

/// Bytes of the section's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    length: u32,
}

impl Span {
    pub(crate) const fn new(start: usize, length: usize) -> Self {
        Self {
            start: start as u32,
            length: length as u32,
        }
    }

    const fn end(self) -> u32 {
        self.start + self.length
    }

    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        let start = self.start as usize;
        text.get(start..start + self.length as usize)
            .unwrap_or_default()
    }
}

thread_local! {
    static INDEXES: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Indexes that a thread keeps.
const MOST_INDEXES: usize = 64;
/// Longer ones are not kept.
const LONGEST_INDEX: usize = 256;

/// Why a header section was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// It is not well-formed (RFC 9112, section 5).
    #[error("a header line is not well-formed")]
    Malformed,
    /// It has too many lines.
    #[error("there are more header lines than allowed")]
    TooMany,
}

impl Fields {
    /// An empty section, in buffers that the thread has used before.
    pub fn new() -> Self {
        Self {
            text: buffer_pool::take(),
            lines: INDEXES.with_borrow_mut(Vec::pop).unwrap_or_default(),
            present: 0,
            removed: 0,
        }
    }

    /// Reads the lines at the beginning of `bytes`, which must hold the empty line at their end.
    pub(crate) fn read(&mut self, bytes: &[u8], most: usize) -> Result<(), FieldsError> {
        /// Room for the lines of nearly all messages.
        const USUAL: usize = 40;
        let mut usual = [httparse::EMPTY_HEADER; USUAL];
        match httparse::parse_headers(bytes, &mut usual) {
            Ok(httparse::Status::Complete((_, lines))) => self.take(bytes, lines, most),
            Err(httparse::Error::TooManyHeaders) if most > USUAL => {
                let mut many = vec![httparse::EMPTY_HEADER; most];
                match httparse::parse_headers(bytes, &mut many) {
                    Ok(httparse::Status::Complete((_, lines))) => self.take(bytes, lines, most),
                    Err(httparse::Error::TooManyHeaders) => Err(FieldsError::TooMany),
                    _ => Err(FieldsError::Malformed),
                }
            }
            Err(httparse::Error::TooManyHeaders) => Err(FieldsError::TooMany),
            _ => Err(FieldsError::Malformed),
        }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        lines: &[httparse::Header<'_>],
        most: usize,
    ) -> Result<(), FieldsError> {
        if lines.len() > most {
            return Err(FieldsError::TooMany);
        }
        let base = self.text.len();
        self.text.extend_from_slice(bytes);
        let place = |part: &[u8]| {
            let offset = (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
            Span::new(base + offset, part.len())
        };
        for line in lines {
            let known = Name::of(line.name.as_bytes());
            self.present |= known.bit();
            let name = place(line.name.as_bytes());
            let value = match line.value.is_empty() {
                true => Span::default(),
                false => place(line.value),
            };
            self.lines.push(Line {
                name,
                value,
                known,
                removed: false,
                plain: value.start == name.end() + 2
                    && self.text[name.end() as usize..].starts_with(b": ")
                    && self.text[value.end() as usize..].starts_with(b"\r\n"),
            });
        }
        Ok(())
    }

    /// A copy that takes no more memory than it needs, to be kept.
    pub fn packed(&self) -> Self {
        Self {
            text: self.text.as_slice().into(),
            lines: self.lines.as_slice().into(),
            present: self.present,
            removed: self.removed,
        }
    }

    /// Bytes of memory on the heap.
    pub fn memory(&self) -> usize {
        self.text.capacity() + self.lines.capacity() * size_of::<Line>()
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.lines.len() - self.removed
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a line of this name.
    pub fn has(&self, name: Name) -> bool {
        self.present & name.bit() != 0 && self.get(name).is_some()
    }

    /// The value of the first line of this name.
    pub fn get(&self, name: Name) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The value of the line of this name, if there is exactly one.
    pub fn only(&self, name: Name) -> Option<&[u8]> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// The values of all lines of this name, in their order.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        let lines: &[Line] = if self.present & name.bit() == 0 {
            &[]
        } else {
            &self.lines
        };
        lines
            .iter()
            .filter(move |line| line.known == name && !line.removed)
            .map(|line| line.value.of(&self.text))
    }

    /// The values of all lines that are called `name`, in any case.
    pub fn called<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Names and values of all lines, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.lines.iter().filter(|line| !line.removed);
        lines.map(|line| (line.name.of(&self.text), line.value.of(&self.text)))
    }

    /// Removes all lines of this name.
    pub fn remove(&mut self, name: Name) {
        if self.present & name.bit() == 0 || name == Name::Other {
            return;
        }
        self.present &= !name.bit();
        for line in self.lines.iter_mut().filter(|line| line.known == name) {
            self.removed += usize::from(!line.removed);
            line.removed = true;
        }
    }

    /// Removes all lines that are called `name`, in any case.
    pub fn remove_called(&mut self, name: &[u8]) {
        match Name::of(name) {
            Name::Other => self.retain(|other, _| !other.eq_ignore_ascii_case(name)),
            known => self.remove(known),
        }
    }

    /// Removes the lines for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], Name) -> bool) {
        for line in self.lines.iter_mut().filter(|line| !line.removed) {
            if !keep(line.name.of(&self.text), line.known) {
                line.removed = true;
                self.removed += 1;
            }
        }
    }

    /// Adds a line at the end. Bytes that would end the line or the section are left out.
    pub fn append(&mut self, name: Name, value: &[u8]) {
        self.push(name, name.text().as_bytes(), value);
    }

    /// Adds a line called `name` at the end.
    pub fn append_called(&mut self, name: &[u8], value: &[u8]) {
        self.push(Name::of(name), name, value);
    }

    /// Sets a line; all others of its name go.
    pub fn set(&mut self, name: Name, value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Sets a line called `name`; all others of its name go.
    pub fn set_called(&mut self, name: &[u8], value: &[u8]) {
        self.remove_called(name);
        self.append_called(name, value);
    }

    /// Sets a line to the value of another's first one; without that one it is removed.
    pub fn set_same(&mut self, name: Name, other: Name) {
        self.remove(name);
        let is_other = |line: &&Line| line.known == other && !line.removed;
        if let Some(value) = self.lines.iter().find(is_other).map(|line| line.value) {
            let line = Line {
                name: self.add_text(name.text().as_bytes()),
                value,
                known: name,
                removed: false,
                plain: false,
            };
            self.lines.push(line);
            self.present |= name.bit();
        }
    }

    /// Adds a line at the end whose value is a text and a number.
    pub fn append_number(&mut self, name: Name, text: &[u8], number: i64) {
        self.append(name, text);
        if let Some(line) = self.lines.last_mut() {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(number).as_bytes();
            self.text.truncate(line.value.end() as usize);
            self.text.extend_from_slice(digits);
            self.text.extend_from_slice(b"\r\n");
            line.value.length += digits.len() as u32;
        }
    }

    /// Sets a line to a number.
    pub fn set_number(&mut self, name: Name, value: u64) {
        self.set(name, itoa::Buffer::new().format(value).as_bytes());
    }

    fn push(&mut self, known: Name, name: &[u8], value: &[u8]) {
        let text = &mut self.text;
        text.reserve(name.len() + value.len() + 4);
        let name_at = text.len();
        text.extend_from_slice(name);
        text.extend_from_slice(b": ");
        let value_at = text.len();
        // Without an early end the loop needs an instruction or two for each byte.
        let has_controls = value.iter().fold(false, |any, byte| any | (*byte < b' '));
        if has_controls {
            let is_good = |byte: &&u8| !matches!(byte, b'\r' | b'\n' | 0);
            text.extend(value.iter().filter(is_good));
        } else {
            text.extend_from_slice(value);
        }
        let value = Span::new(value_at, text.len() - value_at);
        text.extend_from_slice(b"\r\n");
        self.lines.push(Line {
            name: Span::new(name_at, name.len()),
            value,
            known,
            removed: false,
            plain: true,
        });
        self.present |= known.bit();
    }

    /// Writes all lines, without the empty one at their end.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(self.text.len() + 4 * self.lines.len());
        // Lines that stand behind each other in the text are written at once.
        let (mut start, mut end) = (0, 0);
        for line in self.lines.iter().filter(|line| !line.removed) {
            if line.plain && line.name.start == end {
                end = line.value.end() + 2;
                continue;
            }
            out.extend_from_slice(&self.text[start as usize..end as usize]);
            if line.plain {
                (start, end) = (line.name.start, line.value.end() + 2);
            } else {
                (start, end) = (0, 0);
                line_to(out, line.name.of(&self.text), line.value.of(&self.text));
            }
        }
        out.extend_from_slice(&self.text[start as usize..end as usize]);
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Adds bytes that are no line, for a head that has some of its own.
    pub(crate) fn add_text(&mut self, text: &[u8]) -> Span {
        let span = Span::new(self.text.len(), text.len());
        self.text.extend_from_slice(text);
        span
    }
}

impl Clone for Fields {
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        copy.text.extend_from_slice(&self.text);
        copy.lines.extend_from_slice(&self.lines);
        copy.present = self.present;
        copy.removed = self.removed;
        copy
    }
}

impl Drop for Fields {
    fn drop(&mut self) {
        buffer_pool::give(std::mem::take(&mut self.text));
        let mut lines = std::mem::take(&mut self.lines);
        if lines.capacity() == 0 || lines.capacity() > LONGEST_INDEX {
            return;
        }
        lines.clear();
        // A thread that ends has no use for it.
        let _ = INDEXES.try_with(|indexes| {
            let mut indexes = indexes.borrow_mut();
            if indexes.len() < MOST_INDEXES {
                indexes.push(lines);
            }
        });
    }
}

/// Writes a line.
pub fn line_to(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Offset of the first line that is not empty.
pub(crate) fn start(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &bytes[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            _ => return at,
        }
    }
}

/// The length of the header section at the beginning of `bytes` with its empty line; `None` if that
/// is not there.
pub(crate) fn section_end(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => return Some(1),
        [b'\r', b'\n', ..] => return Some(2),
        _ => {}
    }
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match &bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Fields, FieldsError> {
        let mut fields = Fields::new();
        fields.read(text.as_bytes(), 100)?;
        Ok(fields)
    }

    #[test]
    fn number_stands_behind_its_text() {
        let mut fields = read("a: b\r\n\r\n").unwrap();
        fields.append_number(Name::CacheStatus, b"lb-agent; hit; ttl=", -12);
        fields.append(Name::Vary, b"x");
        let lines = "a: b\r\nCache-Status: lb-agent; hit; ttl=-12\r\nVary: x\r\n";
        assert_eq!(written(&fields).to_lowercase(), lines.to_lowercase());
        assert_eq!(
            fields.get(Name::CacheStatus),
            Some(&b"lb-agent; hit; ttl=-12"[..])
        );
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_keep_their_order_and_names_their_case() {
        let fields = read("hOST:  a \r\nX-A: 1\nx-a:\t2\r\nX-Empty:\r\n\r\n").unwrap();
        assert_eq!(
            written(&fields),
            "hOST: a\r\nX-A: 1\r\nx-a: 2\r\nX-Empty: \r\n"
        );
        assert_eq!(fields.get(Name::Host), Some(&b"a"[..]));
        let all: Vec<&[u8]> = fields.called(b"X-a").collect();
        assert_eq!(all, [b"1", b"2"]);
        assert_eq!(fields.len(), 4);
    }

    #[test]
    fn what_is_set_is_there_once_and_what_is_removed_is_gone() {
        let mut fields = read("Cookie: a\r\nX-A: 1\r\ncookie: b\r\nx-a: 2\r\n\r\n").unwrap();
        fields.set(Name::Cookie, b"c");
        fields.set_called(b"X-A", b"3");
        fields.append_called(b"X-A", b"4");
        assert_eq!(written(&fields), "cookie: c\r\nX-A: 3\r\nX-A: 4\r\n");
        fields.set_same(Name::Vary, Name::Cookie);
        assert_eq!(fields.only(Name::Vary), Some(&b"c"[..]));
        fields.set_same(Name::Vary, Name::Host);
        assert!(!fields.has(Name::Vary));
        fields.remove(Name::Cookie);
        assert!(!fields.has(Name::Cookie));
        assert_eq!(fields.only(Name::Cookie), None);
        fields.remove_called(b"x-A");
        assert!(fields.is_empty());
    }

    #[test]
    fn no_value_ends_its_line() {
        let mut fields = Fields::new();
        fields.append(Name::Location, b"/a\r\nX-B: 1\0");
        assert_eq!(written(&fields), "location: /aX-B: 1\r\n");
    }

    #[test]
    fn m5_malformed_lines_are_refused() {
        for line in [
            "X-A : 1",
            " folded: 1",
            "X A: 1",
            "no colon",
            ": 1",
            "X-A: a\0b",
            "X-A: 1\r\n 2",
        ] {
            let read = read(&format!("{line}\r\n\r\n"));
            assert_eq!(read.err(), Some(FieldsError::Malformed), "{line:?}");
        }
    }

    #[test]
    fn h5_4_more_lines_than_allowed_are_refused() {
        for most in [3, 40, 41, 200] {
            let lines = |count| "X-A: 1\r\n".repeat(count) + "\r\n";
            let read = |count| Fields::new().read(lines(count).as_bytes(), most);
            assert_eq!(read(most), Ok(()));
            assert_eq!(read(most + 1), Err(FieldsError::TooMany));
        }
    }
}
