//! The path of lines: a buffer of the thread, and from there to the writer.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex};

use lb_config::http::{LogFormat, LogTarget};

/// A buffer goes to the writer when it holds so many bytes.
const FULL: usize = 32 * 1024;

/// One log, shared by all threads.
pub(crate) struct Sink {
    pub(super) target: LogTarget,
    format: LogFormat,
    writer: SyncSender<Message>,
    /// Written buffers, free for reuse by any thread.
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    dropped: Arc<AtomicU64>,
}

/// A message to the writer.
pub(super) enum Message {
    /// Lines for a log.
    Lines(Batch),
    /// Open every file anew.
    Reopen,
    /// Everything sent before has been written when this is dropped.
    Flush(SyncSender<()>),
}

/// Some lines of one thread.
pub(super) struct Batch {
    pub(super) target: LogTarget,
    pub(super) text: Vec<u8>,
    pub(super) lines: u64,
}

/// A thread's lines for one log.
struct Buffer {
    sink: Arc<Sink>,
    text: Vec<u8>,
    lines: u64,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers(Vec::new())) };
}

/// All buffers of a thread. Their content is written when the thread ends.
struct Buffers(Vec<Buffer>);

impl Drop for Buffers {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Buffer::send);
    }
}

impl Sink {
    pub(super) fn new(
        target: LogTarget,
        format: LogFormat,
        writer: SyncSender<Message>,
        spare: Arc<Mutex<Vec<Vec<u8>>>>,
        dropped: Arc<AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            target,
            format,
            writer,
            spare,
            dropped,
        })
    }

    /// How its lines are formatted.
    pub(super) const fn format(&self) -> LogFormat {
        self.format
    }

    /// Adds a line, which `put` writes, to this thread's buffer.
    pub(super) fn write(self: &Arc<Self>, put: impl FnOnce(&mut Vec<u8>)) {
        // When a thread ends, values that it drops last find no buffer any more.
        let _ = BUFFERS.try_with(|buffers| {
            let Buffers(buffers) = &mut *buffers.borrow_mut();
            let known = buffers
                .iter()
                .position(|buffer| Arc::ptr_eq(&buffer.sink, self));
            let index = known.unwrap_or_else(|| {
                buffers.push(Buffer::new(Arc::clone(self)));
                buffers.len() - 1
            });
            let buffer = &mut buffers[index];
            put(&mut buffer.text);
            buffer.lines += 1;
            if buffer.text.len() >= FULL {
                buffer.send();
            }
        });
    }
}

/// Sends this thread's lines to the writer. To be called now and then, so that a line is not long
/// in coming.
pub(crate) fn flush_thread() {
    BUFFERS.with_borrow_mut(|Buffers(buffers)| {
        buffers.iter_mut().for_each(Buffer::send);
        // Only this buffer still holds a log that was removed from the configuration.
        buffers.retain(|buffer| Arc::strong_count(&buffer.sink) > 1);
    });
}

impl Buffer {
    fn new(sink: Arc<Sink>) -> Self {
        Self {
            sink,
            text: Vec::new(),
            lines: 0,
        }
    }

    fn send(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let spare = self.sink.spare.lock().ok().and_then(|mut kept| kept.pop());
        let empty = spare.unwrap_or_else(|| Vec::with_capacity(FULL + 4096));
        let batch = Batch {
            target: self.sink.target.clone(),
            text: std::mem::replace(&mut self.text, empty),
            lines: std::mem::take(&mut self.lines),
        };
        match self.sink.writer.try_send(Message::Lines(batch)) {
            Ok(()) => {}
            // The disk does not keep up, or the agent ends: requests must not wait for it.
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Lines(mut batch) = message {
                    self.sink.dropped.fetch_add(batch.lines, Relaxed);
                    batch.text.clear();
                    self.text = batch.text;
                }
            }
        }
    }
}
