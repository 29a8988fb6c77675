//! The bytes of a body: out of a message ([`Decoder`]) and into one ([`Encoder`]).

use crate::fields::{Fields, section_end};
use crate::framing::Framing;

/// Most digits of a chunk's size: more than any body has, fewer than overflow.
const MOST_DIGITS: u32 = 15;
/// Most bytes of extensions after a chunk's size.
const MOST_EXTENSION: u32 = 256;
/// Most bytes of a trailer section.
const MOST_TRAILERS: usize = 8 * 1024;
/// Most lines of a trailer section.
const MOST_TRAILER_LINES: usize = 64;

/// A body that is not framed as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The size of a chunk is no number, or too large.
    #[error("the size of a chunk is malformed")]
    Size,
    /// A chunk does not end at its declared length.
    #[error("a chunk does not end where it says")]
    Chunk,
    /// The extensions of a chunk are too long.
    #[error("the extensions of a chunk are too long")]
    Extension,
    /// The trailer section is malformed or too long.
    #[error("the trailer section is malformed")]
    Trailers,
    /// The connection ended before the body.
    #[error("the body is cut short")]
    CutShort,
}

/// The kind of the next bytes.
#[derive(Debug)]
pub enum Piece<'a> {
    /// Bytes of the body; never none.
    Data(&'a [u8]),
    /// The end, with the trailer section if that has a line.
    End(Option<Fields>),
    /// More bytes are needed.
    More,
}

/// Takes the bytes of a body out of a message.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    Chunked(Chunked),
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Chunked {
    place: Place,
    /// Of the chunk that is being read.
    left: u64,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the digits of a size: how many there were.
    Size(u32),
    /// In the extensions: how many bytes there were.
    Extension(u32),
    /// The line break after a size is to end.
    SizeEnd,
    Data,
    /// The line break after a chunk: how much of it there was.
    DataEnd(u8),
    Trailers,
}

impl Decoder {
    /// For a body with this framing.
    pub const fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunked {
                place: Place::Size(0),
                left: 0,
            }),
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether the end was read.
    pub const fn is_over(&self) -> bool {
        matches!(self.0, State::Over)
    }

    /// Bytes still to come, if the length was declared.
    pub const fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Over => Some(0),
            State::Chunked(_) | State::UntilClose => None,
        }
    }

    /// The next piece at the beginning of `input`, and how many bytes of `input` it took. Trailers
    /// are taken when they are whole.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(Piece<'a>, usize), BodyError> {
        match &mut self.0 {
            State::Over => Ok((Piece::End(None), 0)),
            _ if input.is_empty() => Ok((Piece::More, 0)),
            State::UntilClose => Ok((Piece::Data(input), input.len())),
            State::Length(left) => {
                let here = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= here as u64;
                if *left == 0 {
                    self.0 = State::Over;
                }
                Ok((Piece::Data(&input[..here]), here))
            }
            State::Chunked(chunked) => {
                let (piece, taken) = chunked.next(input)?;
                if matches!(piece, Piece::End(_)) {
                    self.0 = State::Over;
                }
                Ok((piece, taken))
            }
        }
    }

    /// Hands all pieces in `input` to `take`: how many bytes of `input` that took, and whether `take` got
    /// anything. Nothing behind the end is taken.
    pub fn pieces<E: From<BodyError>>(
        &mut self,
        input: &[u8],
        take: &mut dyn FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(usize, bool), E> {
        let (mut at, mut handed_on) = (0, false);
        loop {
            let (piece, taken) = self.next(&input[at..])?;
            at += taken;
            let is_end = matches!(piece, Piece::End(_));
            if matches!(piece, Piece::More) {
                return Ok((at, handed_on));
            }
            take(piece)?;
            handed_on = true;
            if is_end {
                return Ok((at, true));
            }
        }
    }

    /// The connection ended; whether that is the end of the body.
    pub fn end(&mut self) -> Result<(), BodyError> {
        match self.0 {
            State::Over | State::UntilClose => {
                self.0 = State::Over;
                Ok(())
            }
            State::Length(_) | State::Chunked(_) => Err(BodyError::CutShort),
        }
    }
}

impl Chunked {
    fn next<'a>(&mut self, input: &'a [u8]) -> Result<(Piece<'a>, usize), BodyError> {
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            match self.place {
                Place::Size(digits) => {
                    if let Some(digit) = char::from(*byte).to_digit(16) {
                        if digits >= MOST_DIGITS {
                            return Err(BodyError::Size);
                        }
                        self.left = self.left << 4 | u64::from(digit);
                        self.place = Place::Size(digits + 1);
                    } else {
                        self.place = match byte {
                            _ if digits == 0 => return Err(BodyError::Size),
                            b'\r' => Place::SizeEnd,
                            b';' | b' ' | b'\t' => Place::Extension(0),
                            _ => return Err(BodyError::Size),
                        };
                    }
                    at += 1;
                }
                Place::Extension(length) => {
                    self.place = match byte {
                        b'\r' => Place::SizeEnd,
                        b'\n' | 0 => return Err(BodyError::Extension),
                        _ if length >= MOST_EXTENSION => return Err(BodyError::Extension),
                        _ => Place::Extension(length + 1),
                    };
                    at += 1;
                }
                Place::SizeEnd => {
                    if *byte != b'\n' {
                        return Err(BodyError::Size);
                    }
                    at += 1;
                    self.place = match self.left {
                        0 => Place::Trailers,
                        _ => Place::Data,
                    };
                }
                Place::Data => {
                    let input = &input[at..];
                    let here = usize::try_from(self.left)
                        .map_or(input.len(), |left| left.min(input.len()));
                    self.left -= here as u64;
                    if self.left == 0 {
                        self.place = Place::DataEnd(0);
                    }
                    return Ok((Piece::Data(&input[..here]), at + here));
                }
                Place::DataEnd(read) => {
                    self.place = match (read, byte) {
                        (0, b'\r') => Place::DataEnd(1),
                        (1, b'\n') => Place::Size(0),
                        _ => return Err(BodyError::Chunk),
                    };
                    at += 1;
                }
                Place::Trailers => return trailers(&input[at..], at),
            }
        }
        Ok((Piece::More, at))
    }
}

fn trailers<'a>(input: &[u8], before: usize) -> Result<(Piece<'a>, usize), BodyError> {
    let Some(length) = section_end(input) else {
        return match input.len() > MOST_TRAILERS {
            true => Err(BodyError::Trailers),
            false => Ok((Piece::More, before)),
        };
    };
    if length <= 2 {
        return Ok((Piece::End(None), before + length));
    }
    let mut fields = Fields::new();
    let read = fields.read(&input[..length], MOST_TRAILER_LINES);
    read.map_err(|_| BodyError::Trailers)?;
    Ok((Piece::End(Some(fields)), before + length))
}

/// Puts the bytes of a body into a message.
#[derive(Clone, Copy, Debug)]
pub struct Encoder(Framing);

impl Encoder {
    /// For a body with this framing.
    pub const fn new(framing: Framing) -> Self {
        Self(framing)
    }

    /// Whether bytes go as they are.
    pub const fn is_plain(self) -> bool {
        !matches!(self.0, Framing::Chunked)
    }

    /// Writes a piece.
    pub fn data(self, data: &[u8], out: &mut Vec<u8>) {
        if data.is_empty() {
            return;
        }
        if self.is_plain() {
            out.extend_from_slice(data);
            return;
        }
        size_to(data.len(), out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the end.
    pub fn end(self, trailers: Option<&Fields>, out: &mut Vec<u8>) {
        if self.is_plain() {
            return;
        }
        out.extend_from_slice(b"0\r\n");
        if let Some(trailers) = trailers {
            trailers.write(out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A size in hexadecimal digits.
fn size_to(size: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[size >> (4 * place) & 15]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The result of decoding a body of `input`, read in pieces of `size` bytes: its bytes, its trailers, and
    /// how many bytes of `input` were left.
    fn read(
        framing: Framing,
        input: &[u8],
        size: usize,
    ) -> Result<Option<(Vec<u8>, String, usize)>, BodyError> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut buffer, mut rest) = (Vec::new(), Vec::new(), input);
        loop {
            let (piece, taken) = decoder.next(&buffer)?;
            match piece {
                Piece::Data(data) => {
                    assert!(!data.is_empty());
                    body.extend_from_slice(data);
                }
                Piece::End(trailers) => {
                    let mut text = Vec::new();
                    trailers
                        .iter()
                        .for_each(|trailers| trailers.write(&mut text));
                    let left = buffer.len() - taken + rest.len();
                    assert!(decoder.is_over());
                    return Ok(Some((body, String::from_utf8(text).unwrap(), left)));
                }
                Piece::More => {
                    if rest.is_empty() {
                        return Ok(None);
                    }
                    let (more, after) = rest.split_at(size.min(rest.len()));
                    buffer.drain(..taken);
                    buffer.extend_from_slice(more);
                    rest = after;
                    continue;
                }
            }
            buffer.drain(..taken);
        }
    }

    #[test]
    fn m7_1_chunks_come_to_the_same_however_they_are_cut() {
        let text = b"5\r\nhello\r\n6;a=\"b\"\r\n world\r\n00\r\nX-A: 1\r\n\r\nGET";
        for size in 1..text.len() {
            let (body, trailers, left) = read(Framing::Chunked, text, size).unwrap().unwrap();
            assert_eq!((&body[..], left), (&b"hello world"[..], 3), "{size}");
            assert_eq!(trailers, "X-A: 1\r\n");
        }
    }

    #[test]
    fn m7_1_chunks_that_are_malformed_are_an_error() {
        let long = format!("5;{}\r\nhello\r\n", "x".repeat(300));
        for (text, error) in [
            ("0x5\r\nhello\r\n", BodyError::Size),
            ("-1\r\n", BodyError::Size),
            ("\r\n", BodyError::Size),
            ("5\nhello\r\n", BodyError::Size),
            ("5\rhello", BodyError::Size),
            ("FFFFFFFFFFFFFFFFF\r\n", BodyError::Size),
            ("0000000000000000005\r\nhello\r\n", BodyError::Size),
            ("5\r\nhelloX\r\n", BodyError::Chunk),
            ("5\r\nhello\n", BodyError::Chunk),
            ("5;a\nhello", BodyError::Extension),
            (&long, BodyError::Extension),
            ("0\r\nX A: 1\r\n\r\n", BodyError::Trailers),
        ] {
            for size in [1, 3, 1000] {
                let found = read(Framing::Chunked, text.as_bytes(), size);
                assert_eq!(found.err(), Some(error), "{text:?}");
            }
        }
        let endless = [&b"0\r\n"[..], &b"X-A: 1\r\n".repeat(2000)].concat();
        assert_eq!(
            read(Framing::Chunked, &endless, 500).err(),
            Some(BodyError::Trailers)
        );
    }

    #[test]
    fn m6_3_a_body_ends_where_its_framing_says() {
        let ends = |framing, text: &[u8]| read(framing, text, 2).unwrap();
        let whole = |text: &str, left| Some((text.as_bytes().to_vec(), String::new(), left));
        assert_eq!(ends(Framing::Length(3), b"abcd"), whole("abc", 1));
        assert_eq!(ends(Framing::None, b"abcd"), whole("", 4));
        assert_eq!(ends(Framing::Length(3), b"ab"), None);
        let end = |framing, text: &[u8]| {
            let mut decoder = Decoder::new(framing);
            decoder.next(text).unwrap();
            decoder.end()
        };
        assert_eq!(end(Framing::UntilClose, b"ab"), Ok(()));
        assert_eq!(end(Framing::Length(3), b"abc"), Ok(()));
        assert_eq!(end(Framing::Length(3), b"ab"), Err(BodyError::CutShort));
        assert_eq!(end(Framing::Chunked, b"5\r\nhe"), Err(BodyError::CutShort));
    }

    proptest! {
        /// A body written in chunks is read back unchanged.
        #[test]
        fn what_is_encoded_is_decoded(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            size in 1usize..200,
        ) {
            let encoder = Encoder::new(Framing::Chunked);
            let mut out = Vec::new();
            pieces.iter().for_each(|piece| encoder.data(piece, &mut out));
            let mut trailers = Fields::new();
            trailers.append_called(b"X-Sum", b"1");
            encoder.end(Some(&trailers), &mut out);
            let found = read(Framing::Chunked, &out, size).unwrap().unwrap();
            prop_assert_eq!(found, (pieces.concat(), "X-Sum: 1\r\n".to_owned(), 0));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, size in 1usize..20) {
            let whole = read(Framing::Chunked, &bytes, bytes.len().max(1));
            prop_assert_eq!(read(Framing::Chunked, &bytes, size), whole);
        }
    }
}
