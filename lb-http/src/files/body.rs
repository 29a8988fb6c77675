//! A file on its way to a client, piece by piece. Pieces that are not in memory are read by a thread that may wait.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Buf as _, Bytes};
use lb_http1::body::Piece;
use lb_http1::buffer_pool;
use tokio::task::JoinHandle;

use super::open::{How, Opened};
use crate::compress::Coded;

/// Most bytes that are read at once. Bytes that a slow client does not take are kept.
const CHUNK: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Why a file does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    /// It became shorter, or has other content: bytes of two versions are not to be mixed.
    #[error("a file was changed while it was sent")]
    Changed,
    /// It cannot be read.
    #[error("a file cannot be read")]
    Read(#[source] io::Error),
    /// It cannot be compressed.
    #[error("a file cannot be compressed")]
    Compress(#[source] io::Error),
}

/// A part of a body.
#[derive(Debug)]
pub(crate) enum Part {
    /// These bytes.
    Bytes(Bytes),
    /// Bytes of a file.
    File(Arc<Opened>, Range<u64>),
}

impl Part {
    /// A range of bytes in memory, as far as they reach.
    pub(crate) fn of_memory(content: &Bytes, range: &Range<u64>) -> Self {
        let within =
            |at: u64| usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
        Self::Bytes(content.slice(within(range.start)..within(range.end)))
    }

    /// Bytes of it.
    pub(crate) const fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, range) => range.end - range.start,
        }
    }
}

/// A body made of parts.
pub(crate) struct FileBody {
    parts: VecDeque<Part>,
    coded: Option<Box<Coded>>,
    /// Most bytes that are read or handed on at once, up to [`CHUNK`].
    most: usize,
    reading: Option<JoinHandle<Result<Vec<u8>, PartError>>>,
    is_over: bool,
}

impl FileBody {
    /// These parts, compressed on their way if `coded` is there.
    pub(crate) fn new(
        parts: impl IntoIterator<Item = Part>,
        coded: Option<Box<Coded>>,
        most: usize,
    ) -> Self {
        Self {
            parts: parts.into_iter().collect(),
            coded,
            most: most.min(CHUNK),
            reading: None,
            is_over: false,
        }
    }

    /// Whether the end was handed on.
    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether nothing is to be waited for any more.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.parts.is_empty()
    }

    /// Hands the next pieces to `take`, at least one when it is ready. The last one is the end.
    pub(crate) fn poll_pieces(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>),
    ) -> Poll<Result<(), PartError>> {
        let Some(mut coded) = self.coded.take() else {
            return self.poll_plain(context, &mut |piece| {
                take(piece);
                Ok(())
            });
        };
        let mut out = buffer_pool::take();
        let polled = self.poll_plain(context, &mut |piece| match piece {
            Piece::Data(data) => coded.write(data, &mut out),
            Piece::End(_) => coded.finish(&mut out),
            Piece::More => Ok(()),
        });
        if !out.is_empty() {
            take(Piece::Data(&out));
        }
        let is_silent = out.is_empty() && !self.is_over;
        buffer_pool::give(out);
        self.coded = Some(coded);
        ready!(polled)?;
        if self.is_over {
            take(Piece::End(None));
        } else if is_silent {
            // The encoder holds all of it back, and others on this thread have their turn.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_plain(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
    ) -> Poll<Result<(), PartError>> {
        let mut pass = |piece: Piece<'_>| take(piece).map_err(PartError::Compress);
        match self.parts.front_mut() {
            None => {
                self.is_over = true;
                return Poll::Ready(pass(Piece::End(None)));
            }
            Some(Part::Bytes(bytes)) => {
                let length = bytes.len().min(self.most);
                pass(Piece::Data(&bytes[..length]))?;
                bytes.advance(length);
                if !bytes.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            Some(Part::File(file, range)) => {
                let length = match &mut self.reading {
                    Some(reading) => {
                        let read = ready!(Pin::new(reading).poll(context));
                        self.reading = None;
                        let data = read.map_err(|error| PartError::Read(error.into()))??;
                        pass(Piece::Data(&data))?;
                        data.len()
                    }
                    None => {
                        let read = SCRATCH.with_borrow_mut(|scratch| {
                            let into = &mut scratch[..room(range, self.most)];
                            let length = read(file, range.start, into, How::Cached)?;
                            pass(Piece::Data(&into[..length]))?;
                            Ok(length)
                        });
                        match read {
                            Err(PartError::Read(error))
                                if error.kind() == io::ErrorKind::WouldBlock =>
                            {
                                self.reading = Some(read_apart(file, range, self.most));
                                return self.poll_plain(context, take);
                            }
                            read => read?,
                        }
                    }
                };
                range.start += length as u64;
                if !range.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
        self.parts.pop_front();
        Poll::Ready(Ok(()))
    }
}

/// Bytes of `range` to be read next.
fn room(range: &Range<u64>, most: usize) -> usize {
    usize::try_from(range.end - range.start).map_or(most, |left| left.min(most))
}

/// Has a thread read that may wait.
fn read_apart(
    file: &Arc<Opened>,
    range: &Range<u64>,
    most: usize,
) -> JoinHandle<Result<Vec<u8>, PartError>> {
    let (file, start) = (Arc::clone(file), range.start);
    let mut data = vec![0; room(range, most)];
    tokio::task::spawn_blocking(move || {
        let length = read(&file, start, &mut data, How::Blocking)?;
        data.truncate(length);
        Ok(data)
    })
}

/// Reads at least one byte of the content that the file had when it was opened.
fn read(file: &Opened, start: u64, into: &mut [u8], how: How) -> Result<usize, PartError> {
    let length = file.read(start, into, how).map_err(PartError::Read)?;
    if length == 0 || !file.is_unchanged().map_err(PartError::Read)? {
        return Err(PartError::Changed);
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::super::open::{Found, find, open_root};
    use super::*;
    use std::future::poll_fn;
    use std::path::Path;

    fn opened(dir: &Path, name: &str) -> Arc<Opened> {
        let root = open_root(dir, How::Blocking).unwrap();
        match find(&root, name.as_bytes(), None, How::Blocking).unwrap() {
            Found::Large(opened) => Arc::new(opened),
            other => panic!("{other:?}"),
        }
    }

    /// The next pieces of `body`, or its end.
    async fn next(body: &mut FileBody) -> Result<Vec<u8>, PartError> {
        let mut data = Vec::new();
        poll_fn(|context| {
            body.poll_pieces(context, &mut |piece| {
                if let Piece::Data(more) = piece {
                    data.extend_from_slice(more);
                }
            })
        })
        .await?;
        Ok(data)
    }

    #[tokio::test]
    async fn parts_come_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..300_000u32).map(|at| at as u8).collect();
        std::fs::write(dir.path().join("a"), &content).unwrap();
        let file = opened(dir.path(), "a");
        let parts = [
            Part::Bytes(Bytes::from_static(b"head")),
            Part::File(Arc::clone(&file), 10..200_000),
            Part::Bytes(Bytes::from_static(b"between")),
            Part::File(file, 299_999..300_000),
        ];
        let mut body = FileBody::new(parts, None, usize::MAX);
        let mut sent = Vec::new();
        while !body.is_over() {
            sent.extend(next(&mut body).await.unwrap());
        }
        let wanted = [
            &b"head"[..],
            &content[10..200_000],
            b"between",
            &content[299_999..],
        ];
        assert!(sent == wanted.concat());
    }

    #[tokio::test]
    async fn file_that_is_not_in_memory_is_read_by_a_thread_that_may_wait() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..1_000_000u32).map(|at| (at / 7) as u8).collect();
        std::fs::write(dir.path().join("a"), &content).unwrap();
        let file = opened(dir.path(), "a");
        rustix::fs::fsync(file.fd()).unwrap();
        rustix::fs::fadvise(file.fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let length = content.len() as u64;
        let mut body = FileBody::new([Part::File(file, 0..length)], None, usize::MAX);
        let mut sent = Vec::new();
        while !body.is_over() {
            sent.extend(next(&mut body).await.unwrap());
        }
        assert!(sent == content);
    }

    #[tokio::test]
    async fn file_that_is_cut_or_written_to_ends_early_and_a_replaced_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for change in ["cut", "write", "replace"] {
            std::fs::write(&path, vec![1; 300_000]).unwrap();
            let mut body = FileBody::new(
                [Part::File(opened(dir.path(), "a"), 0..300_000)],
                None,
                1 << 20,
            );
            assert_eq!(next(&mut body).await.unwrap(), vec![1; CHUNK]);
            std::thread::sleep(std::time::Duration::from_millis(20));
            match change {
                "cut" => std::fs::OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(CHUNK as u64)
                    .unwrap(),
                "write" => std::fs::write(&path, vec![2; 300_000]).unwrap(),
                _ => {
                    std::fs::write(dir.path().join("b"), vec![2; 300_000]).unwrap();
                    std::fs::rename(dir.path().join("b"), &path).unwrap();
                }
            }
            match (change, next(&mut body).await) {
                ("replace", Ok(data)) => assert!(data == vec![1; CHUNK]),
                ("cut" | "write", Err(PartError::Changed)) => {}
                (change, other) => panic!("{change}: {other:?}"),
            }
        }
    }
}
