//! A body that compresses another one as it passes.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::HeaderMap;
use hyper::body::{Body, Bytes, Frame};

use super::encoder::Encoder;
use crate::config::http::Algorithm;

/// Output that is passed on as soon as there is so much.
const PIECE: usize = 16 * 1024;
/// Input that is worked on at a time, before others on this thread have their turn.
const TURN: usize = 128 * 1024;

/// `B`, compressed. Whenever `B` has nothing more for the moment, all that it has given so far is
/// passed on. Trailers are kept.
pub struct Compressed<B> {
    body: B,
    encoder: Encoder,
    out: Vec<u8>,
    /// Whether the encoder holds something back.
    holds: bool,
    state: State,
}

enum State {
    Flowing,
    /// The end is in `out`.
    Ending(Option<HeaderMap>),
    Over,
    /// The encoder could not be had.
    Failed(Option<std::io::Error>),
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum CompressError<E> {
    /// The body that was being compressed failed.
    #[error(transparent)]
    Body(E),
    /// The compression failed.
    #[error("compress an answer: {0}")]
    Encoder(std::io::Error),
}

impl<B: Body<Data = Bytes>> Compressed<B> {
    /// `body` in this coding.
    pub fn new(algorithm: Algorithm, body: B) -> Self {
        let (encoder, state) = match Encoder::new(algorithm) {
            Ok(encoder) => (encoder, State::Flowing),
            Err(error) => (Encoder::Zstd(None), State::Failed(Some(error))),
        };
        Self {
            body,
            encoder,
            out: Vec::new(),
            holds: false,
            state,
        }
    }

    /// What is in `out`, if that is anything.
    fn piece(&mut self) -> Option<Frame<Bytes>> {
        (!self.out.is_empty()).then(|| Frame::data(std::mem::take(&mut self.out).into()))
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> std::io::Result<()> {
        self.state = State::Ending(trailers);
        self.encoder.finish(&mut self.out)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Compressed<B> {
    type Data = Bytes;
    type Error = CompressError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let mut taken = 0;
        loop {
            match &mut this.state {
                State::Flowing => {}
                State::Ending(trailers) => {
                    let trailers = trailers.take();
                    if let Some(piece) = this.piece() {
                        this.state = State::Ending(trailers);
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    this.state = State::Over;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                State::Over => return Poll::Ready(None),
                State::Failed(error) => {
                    let error = error.take().map(|error| Err(CompressError::Encoder(error)));
                    return Poll::Ready(error);
                }
            }
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending if this.holds => {
                    this.holds = false;
                    this.encoder
                        .flush(&mut this.out)
                        .map_err(CompressError::Encoder)?;
                    return this
                        .piece()
                        .map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(piece))));
                }
                Poll::Pending => return Poll::Pending,
            };
            let frame = frame.transpose().map_err(CompressError::Body)?;
            match frame.map(Frame::into_data) {
                Some(Ok(input)) => {
                    this.encoder
                        .write(&input, &mut this.out)
                        .map_err(CompressError::Encoder)?;
                    this.holds = true;
                    taken += input.len();
                }
                Some(Err(other)) => this
                    .end(other.into_trailers().ok())
                    .map_err(CompressError::Encoder)?,
                None => this.end(None).map_err(CompressError::Encoder)?,
            }
            if this.out.len() >= PIECE {
                return Poll::Ready(this.piece().map(Ok));
            }
            if taken >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoder::tests::decoded;
    use super::*;
    use http_body_util::BodyExt as _;
    use std::collections::VecDeque;
    use std::future::poll_fn;

    const ALL: [Algorithm; 3] = [Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd];

    /// A body that does as it is told.
    struct Script(VecDeque<Step>);

    enum Step {
        Data(Bytes),
        Trailers(HeaderMap),
        Pause,
        Break,
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            match self.0.pop_front() {
                Some(Step::Data(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Some(Step::Pause) => Poll::Pending,
                Some(Step::Break) => Poll::Ready(Some(Err("broken"))),
                None => Poll::Ready(None),
            }
        }
    }

    fn compressed(
        algorithm: Algorithm,
        steps: impl IntoIterator<Item = Step>,
    ) -> Compressed<Script> {
        Compressed::new(algorithm, Script(steps.into_iter().collect()))
    }

    fn data(text: &'static str) -> Step {
        Step::Data(text.into())
    }

    /// What is there without waiting: `None` when that is nothing yet.
    async fn next(body: &mut Compressed<Script>) -> Option<Bytes> {
        let frame = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await;
        match frame {
            Poll::Ready(frame) => frame?.unwrap().into_data().ok(),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn what_was_given_is_passed_on_when_the_backend_pauses() {
        for algorithm in ALL {
            let steps = [
                data("fir"),
                data("st"),
                Step::Pause,
                Step::Pause,
                data("!"),
                Step::Pause,
            ];
            let mut body = compressed(algorithm, steps);
            let mut coded = next(&mut body).await.expect("what there is").to_vec();
            assert_eq!(decoded(algorithm, &coded), b"first");
            assert_eq!(next(&mut body).await, None, "nothing comes from nothing");
            coded.extend(next(&mut body).await.expect("what there is"));
            assert_eq!(decoded(algorithm, &coded), b"first!");
            coded.extend(body.collect().await.unwrap().to_bytes());
            assert_eq!(decoded(algorithm, &coded), b"first!");
        }
    }

    #[tokio::test]
    async fn trailers_come_after_the_end_of_what_is_compressed() {
        for algorithm in ALL {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-check", "sum".parse().unwrap());
            let text = Bytes::from(vec![b'x'; 100_000]);
            let steps = [Step::Data(text.clone()), Step::Trailers(trailers.clone())];
            let collected = compressed(algorithm, steps).collect().await.unwrap();
            assert_eq!(collected.trailers(), Some(&trailers));
            assert!(decoded(algorithm, &collected.to_bytes()) == text);
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_end_well() {
        for algorithm in ALL {
            let ended = compressed(algorithm, [data("part"), Step::Break])
                .collect()
                .await;
            assert!(matches!(ended, Err(CompressError::Body("broken"))));
        }
    }

    #[tokio::test]
    async fn a_long_answer_leaves_the_thread_to_others_now_and_then() {
        let zeros = Bytes::from(vec![0; 64 * 1024]);
        let steps = (0..64).map(|_| Step::Data(zeros.clone()));
        let mut body = compressed(Algorithm::Zstd, steps);
        assert_eq!(next(&mut body).await, None);
        let coded = body.collect().await.unwrap().to_bytes();
        assert_eq!(decoded(Algorithm::Zstd, &coded).len(), 64 * 64 * 1024);
    }
}
