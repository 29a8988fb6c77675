//! The thread that exports spans to a collector by OTLP/HTTP, in batches.
//!
//! A batch is sent again after the answers that OTLP calls retryable, and after broken connections, with growing
//! pauses or that of `Retry-After`. No worker waits meanwhile: the queue fills, and spans are dropped.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use hyper::{Method, StatusCode, Version};
use lb_config::OtlpUrl;
use lb_http1::body::Decoder;
use lb_http1::{Framing, Name, RequestHead, ResponseHead, list};
use lb_net::admission::Admission;
use lb_net::seldom::Seldom;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::context::SpanId;
use super::otlp;
use super::queue::{Counts, SpanFigures, SpanQueue};
use super::span::Spans;
use crate::auth::{Fault, Incoming};
use crate::stream::Stream;
use crate::tables::{Confine, Role, confine_or_warn};

/// Requests in one batch at most, and how long the first one waits for the others.
const BATCH: usize = 512;
const GATHERS: Duration = Duration::from_secs(1);
/// How often it is looked whether a batch is full, or whether the agent ends.
const STEP: Duration = Duration::from_millis(50);
/// Time for a collector to answer, as SDKs of OpenTelemetry have it.
const ANSWERS: Duration = Duration::from_secs(10);
/// How often a batch is sent at most, the pause after the first time, and the longest pause.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Bytes of a collector's answer at most.
const MOST_BODY: usize = 64 * 1024;

type Inbox = mpsc::Receiver<Spans>;

/// The exporter, for the engine.
pub(crate) struct Exporter {
    queue: Arc<SpanQueue>,
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

impl Exporter {
    /// Starts the thread.
    pub(crate) fn start(
        url: &OtlpUrl,
        admission: &Admission,
        confine: Confine,
    ) -> io::Result<Self> {
        let counts = Arc::<Counts>::default();
        let (queue, inbox) = SpanQueue::new(Arc::clone(&counts));
        let courier = Courier {
            url: url.clone(),
            admission: admission.clone(),
            counts: Arc::clone(&counts),
            idle: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || {
                confine_or_warn(confine, Role::Traces);
                runtime.block_on(courier.work(inbox));
            })?;
        Ok(Self {
            queue,
            counts,
            thread,
        })
    }

    /// The queue for the workers.
    pub(crate) fn queue(&self) -> Arc<SpanQueue> {
        Arc::clone(&self.queue)
    }

    /// The spans so far.
    pub(crate) fn figures(&self) -> SpanFigures {
        self.counts.figures()
    }

    /// Waits until the spans in the queue are exported, but not for longer than `most`. The workers have ended.
    pub(crate) fn finish(self, most: Duration) {
        drop(self.queue);
        let end = Instant::now() + most;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The work of the thread.
struct Courier {
    url: OtlpUrl,
    admission: Admission,
    counts: Arc<Counts>,
    /// The connection of the last batch.
    idle: Option<Stream>,
}

/// Why a batch was not taken.
enum Refused {
    /// It may be taken later, after a pause if the collector says how long.
    Later(String, Option<Duration>),
    Never(String),
}

impl Courier {
    async fn work(mut self, mut inbox: Inbox) {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            gather(&mut inbox, &mut batch).await;
            self.deliver(&batch, &inbox).await;
            batch.clear();
        }
    }

    /// Sends a batch until it is taken, or given up.
    async fn deliver(&mut self, batch: &[Spans], inbox: &Inbox) {
        let (body, count) = (otlp::body(batch), batch.len() as u64);
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            let why = match self.post(&body).await {
                Ok(rejected) => {
                    let rejected = rejected.min(count);
                    self.counts.exported.fetch_add(count - rejected, Relaxed);
                    self.counts.failed.fetch_add(rejected, Relaxed);
                    return;
                }
                Err(Refused::Later(why, wait)) if attempt < ATTEMPTS && !inbox.is_closed() => {
                    self.tell(&why);
                    rest(wait.unwrap_or_else(|| spread(pause)), inbox).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Err(Refused::Later(why, _) | Refused::Never(why)) => why,
            };
            self.tell(&why);
            break;
        }
        self.counts.failed.fetch_add(count, Relaxed);
    }

    fn tell(&self, why: &str) {
        static LINE: Seldom = Seldom::new();
        if let Some(count) = LINE.cause() {
            tracing::warn!(count, "{} does not take spans: {why}", self.url);
        }
    }

    /// Sends a batch once. Returns how many requests of it are rejected.
    async fn post(&mut self, body: &[u8]) -> Result<u64, Refused> {
        let answer = timeout(ANSWERS, self.ask(body)).await;
        let (head, answer) = answer
            .unwrap_or(Err(Fault::Late))
            .map_err(|fault| Refused::Later(fault.to_string(), None))?;
        match head.status {
            status if status.is_success() => Ok(match otlp::rejected(&answer) {
                Some((count, why)) => {
                    self.tell(&format!("{count} are rejected: {why}"));
                    count
                }
                None => 0,
            }),
            // "Retryable Response Codes" of the specification.
            status @ (StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => {
                Err(Refused::Later(status.to_string(), retry_after(&head)))
            }
            status => Err(Refused::Never(status.to_string())),
        }
    }

    async fn ask(&mut self, body: &[u8]) -> Result<(ResponseHead, Vec<u8>), Fault> {
        let mut request = Vec::with_capacity(512 + body.len());
        self.head().write(&mut request);
        Framing::Length(body.len() as u64).write(&mut request);
        request.extend_from_slice(body);
        if let Some(mut stream) = self.idle.take()
            && stream.is_quiet()
        {
            let mut incoming = Incoming::new(stream);
            match incoming.exchange(&request).await {
                // Not a byte came: the collector has most likely closed a connection that was idle.
                Err(Fault::Broken) if incoming.is_untouched() => {}
                head => return self.rest_of(incoming, head?).await,
            }
        }
        let stream = Stream::open(self.url.address(), &self.admission).await;
        let mut incoming = Incoming::new(stream.map_err(Fault::Connect)?);
        let head = incoming.exchange(&request).await?;
        self.rest_of(incoming, head).await
    }

    /// Reads the body behind `head`, and keeps the connection.
    async fn rest_of(
        &mut self,
        mut incoming: Incoming,
        head: ResponseHead,
    ) -> Result<(ResponseHead, Vec<u8>), Fault> {
        let mut decoder = Decoder::new(head.framing(&Method::POST)?);
        let body = incoming.body(&mut decoder, MOST_BODY).await?;
        self.idle = incoming.into_idle().filter(|_| head.stays());
        Ok((head, body))
    }

    fn head(&self) -> RequestHead {
        let target = self.url.traces();
        let mut head = RequestHead::new(Method::POST, target.as_bytes(), Version::HTTP_11);
        let agent = concat!("lb-agent/", env!("CARGO_PKG_VERSION"));
        head.fields.append(Name::Host, self.url.host().as_bytes());
        head.fields.append(Name::UserAgent, agent.as_bytes());
        head.fields.append(Name::ContentType, b"application/json");
        head
    }
}

/// Fills a batch from the queue, for some time.
async fn gather(inbox: &mut Inbox, batch: &mut Vec<Spans>) {
    let end = Instant::now() + GATHERS;
    loop {
        while batch.len() < BATCH
            && let Ok(spans) = inbox.try_recv()
        {
            batch.push(spans);
        }
        if batch.len() >= BATCH || inbox.is_closed() || Instant::now() >= end {
            return;
        }
        // A wake-up for each request would cost the workers more.
        sleep(STEP).await;
    }
}

/// Pauses, unless the agent ends.
async fn rest(pause: Duration, inbox: &Inbox) {
    let end = Instant::now() + pause.min(LONGEST_PAUSE);
    while Instant::now() < end && !inbox.is_closed() {
        sleep(STEP).await;
    }
}

/// A pause of about this length: many agents do not come back at once.
fn spread(pause: Duration) -> Duration {
    let id = SpanId::generate();
    let percent = u32::from_str_radix(&id.as_str()[..4], 16).unwrap_or(0) % 50;
    pause * (75 + percent) / 100
}

/// The pause that a collector asks for: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(head: &ResponseHead) -> Option<Duration> {
    let value = head.fields.called(b"retry-after").next()?;
    if let Some(seconds) = list::number(value) {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
