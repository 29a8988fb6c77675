//! The three codings behind one face. Their contexts are large and slow to make, so that each
//! thread keeps some of them for the next answer.

use std::cell::RefCell;
use std::io::{self, Write as _};

use brotli::CompressorWriter;
use flate2::{Compress, Compression as Level, Crc, FlushCompress};
use zstd::stream::raw::{CParameter, Encoder as Zstd, Operation as _};
use zstd::zstd_safe::OutBuffer;

use lb_config::http::Algorithm;

/// Levels for content that is made for one client and used once: some more would double the time
/// and take off a few hundredths.
const GZIP_LEVEL: u32 = 2;
const BROTLI_LEVEL: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// 256 KiB: a longer window is memory for every answer under way and helps few of them.
const WINDOW_LOG: u32 = 18;
/// Contexts of each kind that a thread keeps.
const KEPT: usize = 16;
/// Room that is made for output at a time.
const ROOM: usize = 8 * 1024;

/// One answer being compressed.
pub(super) enum Encoder {
    Gzip(Gzip),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    /// `None` once it is finished and given back.
    Zstd(Option<Zstd<'static>>),
}

thread_local! {
    static KEPT_GZIP: RefCell<Vec<Compress>> = const { RefCell::new(Vec::new()) };
    static KEPT_ZSTD: RefCell<Vec<Zstd<'static>>> = const { RefCell::new(Vec::new()) };
}

impl Encoder {
    pub(super) fn new(algorithm: Algorithm) -> io::Result<Self> {
        Ok(match algorithm {
            Algorithm::Gzip => Self::Gzip(Gzip::new()),
            Algorithm::Brotli => {
                let writer = CompressorWriter::new(Vec::new(), ROOM, BROTLI_LEVEL, WINDOW_LOG);
                Self::Brotli(Box::new(writer))
            }
            Algorithm::Zstd => Self::Zstd(Some(zstd()?)),
        })
    }

    /// Compresses `input`; output that is ready by now is added to `out`.
    pub(super) fn write(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.write(input, out),
            Self::Brotli(writer) => {
                writer.write_all(input)?;
                out.append(writer.get_mut());
                Ok(())
            }
            Self::Zstd(encoder) => {
                let encoder = encoder.as_mut().ok_or_else(finished)?;
                let mut input = zstd::zstd_safe::InBuffer::around(input);
                while input.pos() < input.src.len() {
                    into(out, |out| encoder.run(&mut input, out))?;
                }
                Ok(())
            }
        }
    }

    /// Adds to `out` all that was taken so far, so that it can be read.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.flush(out),
            Self::Brotli(writer) => {
                writer.flush()?;
                out.append(writer.get_mut());
                Ok(())
            }
            Self::Zstd(encoder) => {
                let encoder = encoder.as_mut().ok_or_else(finished)?;
                while into(out, |out| encoder.flush(out))? > 0 {}
                Ok(())
            }
        }
    }

    /// Adds the end to `out`.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(gzip) => gzip.finish(out),
            Self::Brotli(writer) => {
                let empty = CompressorWriter::new(Vec::new(), 1, 0, 10);
                out.append(&mut std::mem::replace(&mut **writer, empty).into_inner());
                Ok(())
            }
            Self::Zstd(encoder) => {
                let mut encoder = encoder.take().ok_or_else(finished)?;
                while into(out, |out| encoder.finish(out, true))? > 0 {}
                keep(&KEPT_ZSTD, encoder);
                Ok(())
            }
        }
    }
}

impl Drop for Encoder {
    /// An answer that was broken off leaves its context too.
    fn drop(&mut self) {
        match self {
            Self::Zstd(encoder) => {
                if let Some(encoder) = encoder.take() {
                    keep(&KEPT_ZSTD, encoder);
                }
            }
            Self::Gzip(gzip) => {
                if let Some(deflate) = gzip.deflate.take() {
                    keep(&KEPT_GZIP, deflate);
                }
            }
            Self::Brotli(_) => {}
        }
    }
}

fn keep<T>(kept: &'static std::thread::LocalKey<RefCell<Vec<T>>>, context: T) {
    // A thread that ends has no use for it.
    let _ = kept.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        if kept.len() < KEPT {
            kept.push(context);
        }
    });
}

fn finished() -> io::Error {
    io::Error::other("compression went on after its end")
}

fn zstd() -> io::Result<Zstd<'static>> {
    if let Some(mut kept) = KEPT_ZSTD.with_borrow_mut(Vec::pop) {
        kept.reinit()?;
        return Ok(kept);
    }
    let mut encoder = Zstd::new(ZSTD_LEVEL)?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
    Ok(encoder)
}

/// Runs one step of zstd with some room at the end of `out`.
fn into(
    out: &mut Vec<u8>,
    step: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
) -> io::Result<usize> {
    out.reserve(ROOM);
    let end = out.len();
    step(&mut OutBuffer::around_pos(out, end))
}

/// gzip (RFC 1952) around deflate, so that the large part can be used again.
pub(super) struct Gzip {
    deflate: Option<Compress>,
    checksum: Crc,
    begun: bool,
}

/// No name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

impl Gzip {
    fn new() -> Self {
        let deflate = match KEPT_GZIP.with_borrow_mut(Vec::pop) {
            Some(mut kept) => {
                kept.reset();
                kept
            }
            None => Compress::new(Level::new(GZIP_LEVEL), false),
        };
        Self {
            deflate: Some(deflate),
            checksum: Crc::new(),
            begun: false,
        }
    }

    fn write(&mut self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.checksum.update(input);
        self.run(input, FlushCompress::None, out)
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.run(&[], FlushCompress::Sync, out)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.run(&[], FlushCompress::Finish, out)?;
        out.extend(self.checksum.sum().to_le_bytes());
        out.extend(self.checksum.amount().to_le_bytes());
        Ok(())
    }

    /// Until all input is taken, and with a flush until there is room left in `out`: only then
    /// everything is out.
    fn run(&mut self, mut input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend(GZIP_HEADER);
        }
        let deflate = self.deflate.as_mut().ok_or_else(finished)?;
        loop {
            out.reserve(ROOM);
            let before = deflate.total_in();
            let status = deflate.compress_vec(input, out, flush)?;
            input = &input[(deflate.total_in() - before) as usize..];
            let all_out = out.len() < out.capacity();
            let done = match flush {
                FlushCompress::Finish => status == flate2::Status::StreamEnd,
                _ => all_out,
            };
            if input.is_empty() && done {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Read as _;

    const ALL: [Algorithm; 3] = [Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd];

    /// The readable text of a coded body, whole or not.
    pub(in crate::compress) fn decoded(algorithm: Algorithm, coded: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut reader: Box<dyn io::Read> = match algorithm {
            Algorithm::Gzip => Box::new(flate2::read::GzDecoder::new(coded)),
            Algorithm::Brotli => Box::new(brotli::Decompressor::new(coded, 4096)),
            Algorithm::Zstd => Box::new(zstd::Decoder::new(coded).unwrap()),
        };
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            text.extend_from_slice(&piece[..count]);
        }
        text
    }

    /// Compresses badly, so that the output grows beyond any one piece of room.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_goes_in_comes_out_again_also_with_a_context_that_was_used_before() {
        for algorithm in ALL {
            for length in [0, 1, 100, ROOM - 18, ROOM, 100_000, 100_001] {
                for text in [noise(length), vec![b'a'; length]] {
                    let (mut encoder, mut out) = (Encoder::new(algorithm).unwrap(), Vec::new());
                    for piece in text.chunks(30_000) {
                        encoder.write(piece, &mut out).unwrap();
                    }
                    encoder.finish(&mut out).unwrap();
                    assert!(decoded(algorithm, &out) == text, "{algorithm:?} {length}");
                }
            }
        }
    }

    #[test]
    fn after_a_flush_everything_can_be_read() {
        for algorithm in ALL {
            let (mut encoder, mut out) = (Encoder::new(algorithm).unwrap(), Vec::new());
            for length in [10, 50_000] {
                out.clear();
                let mut encoder_of_one = Encoder::new(algorithm).unwrap();
                let text = noise(length);
                encoder_of_one.write(&text, &mut out).unwrap();
                encoder_of_one.flush(&mut out).unwrap();
                assert!(decoded(algorithm, &out) == text, "{algorithm:?} {length}");
            }
            out.clear();
            encoder.write(b"one", &mut out).unwrap();
            encoder.flush(&mut out).unwrap();
            encoder.write(b"two", &mut out).unwrap();
            encoder.flush(&mut out).unwrap();
            assert_eq!(decoded(algorithm, &out), b"onetwo");
        }
    }

    #[test]
    fn what_was_broken_off_does_not_show_in_the_next() {
        for algorithm in ALL {
            let mut broken = Encoder::new(algorithm).unwrap();
            broken
                .write(b"secret of another client", &mut Vec::new())
                .unwrap();
            drop(broken);
            let (mut next, mut out) = (Encoder::new(algorithm).unwrap(), Vec::new());
            next.write(b"text", &mut out).unwrap();
            next.finish(&mut out).unwrap();
            assert_eq!(decoded(algorithm, &out), b"text");
        }
    }
}
