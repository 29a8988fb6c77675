//! The one thread that writes logs.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::sink::{Batch, Message, Sink};
use crate::tables::{Confine, Role, confine_or_warn};
use lb_config::http::{AccessLog, LogTarget};

/// Buffers that may wait to be written: 8 MiB.
const WAITING: usize = 256;
/// Buffers that are kept for use again.
const SPARES: usize = 32;

/// All logs and the thread that writes them. It ends, with everything written, when this and all
/// sinks are dropped.
pub(crate) struct Writer {
    sender: SyncSender<Message>,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    dropped: Arc<AtomicU64>,
    problems: Problems,
    sinks: Vec<(AccessLog, Arc<Sink>)>,
}

/// Targets that cannot be written, with the reason.
type Problems = Arc<Mutex<HashMap<LogTarget, String>>>;

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(confine: Confine) -> io::Result<Self> {
        let (sender, inbox) = sync_channel(WAITING);
        let mut desk = Desk {
            files: HashMap::new(),
            spare: Arc::default(),
            dropped: Arc::default(),
            problems: Arc::default(),
        };
        let (spare, dropped) = (Arc::clone(&desk.spare), Arc::clone(&desk.dropped));
        let problems = Arc::clone(&desk.problems);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                confine_or_warn(confine, Role::AccessLog);
                desk.work(&inbox);
            })?;
        Ok(Self {
            sender,
            spare,
            dropped,
            problems,
            sinks: Vec::new(),
        })
    }

    /// The log that was configured like this. Its file is opened by the first line.
    pub(crate) fn sink(&mut self, log: &AccessLog) -> Arc<Sink> {
        if let Some((_, sink)) = self.sinks.iter().find(|(known, _)| known == log) {
            return Arc::clone(sink);
        }
        let sink = Sink::new(
            log.target.clone(),
            log.format,
            self.sender.clone(),
            Arc::clone(&self.spare),
            Arc::clone(&self.dropped),
        );
        self.sinks.push((log.clone(), Arc::clone(&sink)));
        sink
    }

    /// Forgets the logs that are not configured any more.
    pub(crate) fn keep_only(&mut self, wanted: &[&AccessLog]) {
        self.sinks.retain(|(log, _)| wanted.contains(&log));
    }

    /// Opens every file anew: it was moved away.
    pub(crate) fn reopen(&self) {
        // Unlike lines this may wait a moment: the caller is log rotation, not a request.
        let _ = self.sender.send(Message::Reopen);
    }

    /// Waits until all that was sent to the writer is written, or for `most`.
    pub(crate) fn flush(&self, most: Duration) {
        let (done, written) = sync_channel(0);
        if self.sender.send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(most);
        }
    }

    /// Problems for `status`: files that cannot be written, lines that were dropped.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<String> = problems.values().cloned().collect();
        found.sort();
        match self.dropped.load(Relaxed) {
            0 => {}
            dropped => found.push(format!(
                "access log: {dropped} lines dropped since the start, as they could not be \
                 written in time"
            )),
        }
        found
    }
}

/// The state of the writer thread.
struct Desk {
    files: HashMap<LogTarget, File>,
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    dropped: Arc<AtomicU64>,
    problems: Problems,
}

impl Desk {
    fn work(&mut self, inbox: &Receiver<Message>) {
        for message in inbox {
            match message {
                Message::Lines(batch) => self.take(batch),
                Message::Reopen => self.reopen(),
                Message::Flush(done) => drop(done),
            }
        }
    }

    fn take(&mut self, mut batch: Batch) {
        let written = self.write(&batch);
        if written.is_err() {
            self.dropped.fetch_add(batch.lines, Relaxed);
        }
        self.note(&batch.target, written);
        batch.text.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARES {
            spare.push(batch.text);
        }
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let path = match &batch.target {
            LogTarget::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&batch.text)?;
                return stdout.flush();
            }
            LogTarget::File(path) => path,
        };
        if !self.files.contains_key(&batch.target) {
            self.files.insert(batch.target.clone(), open(path)?);
        }
        match self.files.get_mut(&batch.target) {
            Some(file) => file.write_all(&batch.text),
            None => Ok(()),
        }
    }

    /// A file that cannot be opened anew stays the one that it was: better there than nowhere.
    fn reopen(&mut self) {
        let targets: Vec<LogTarget> = self.files.keys().cloned().collect();
        for target in targets {
            let LogTarget::File(path) = &target else {
                continue;
            };
            let opened = open(path);
            let opened = opened.map(|file| drop(self.files.insert(target.clone(), file)));
            self.note(&target, opened);
        }
    }

    /// Notes whether a log can be written; says so when that changes.
    fn note(&self, target: &LogTarget, outcome: io::Result<()>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let name = match target {
            LogTarget::Stdout => "standard output".to_owned(),
            LogTarget::File(path) => path.display().to_string(),
        };
        match outcome {
            Ok(()) => {
                if problems.remove(target).is_some() {
                    tracing::info!("the access log {name} can be written again");
                }
            }
            Err(error) => {
                let problem = format!(
                    "access log {name}: {error} (mend that, then send SIGUSR1 to the agent)"
                );
                if problems.insert(target.clone(), problem.clone()).is_none() {
                    tracing::error!("{problem}");
                }
            }
        }
    }
}

/// Lines are only ever added, by one write each batch, so that several agents may share a file.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::{End, Ended, Line, LogFields, flush_thread};
    use hyper::{Method, Version};
    use lb_config::http::LogFormat;
    use lb_http1::RequestHead;

    fn log(path: &Path) -> AccessLog {
        AccessLog {
            target: LogTarget::File(path.to_owned()),
            format: LogFormat::Combined,
        }
    }

    fn write(sink: &Arc<Sink>, target: &str) {
        let head = RequestHead::new(Method::GET, target.as_bytes(), Version::HTTP_11);
        Line::begin(
            sink,
            [127, 0, 0, 1].into(),
            head.version,
            &LogFields::of(&head),
        )
        .write(&Ended {
            status: None,
            first_byte: None,
            total: Duration::ZERO,
            bytes: 0,
            end: End::Complete,
        });
    }

    fn lines(path: &Path) -> usize {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .count()
    }

    const PLENTY: Duration = Duration::from_secs(30);

    #[test]
    fn lines_of_all_threads_arrive_also_those_of_threads_that_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let mut writer = Writer::start(|_| Ok(())).unwrap();
        let sink = writer.sink(&log(&path));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let sink = Arc::clone(&sink);
                std::thread::spawn(move || (0..1000).for_each(|_| write(&sink, "/")))
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        writer.flush(PLENTY);
        assert_eq!(lines(&path), 4000);
        assert!(writer.problems().is_empty());
    }

    #[test]
    fn no_line_is_lost_or_torn_when_the_file_is_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (
            dir.path().join("access.log"),
            dir.path().join("access.log.1"),
        );
        let mut writer = Writer::start(|_| Ok(())).unwrap();
        let sink = writer.sink(&log(&path));
        for n in 0..500 {
            write(&sink, &format!("/{n}"));
            if n == 250 {
                flush_thread();
                writer.flush(PLENTY);
                std::fs::rename(&path, &moved).unwrap();
                write(&sink, "/after-the-move");
                flush_thread();
                writer.reopen();
            }
        }
        flush_thread();
        writer.flush(PLENTY);
        let old = std::fs::read_to_string(&moved).unwrap();
        assert!(old.contains("/after-the-move"));
        assert_eq!((lines(&moved), lines(&path)), (252, 249));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_and_its_lines_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, path) = (
            dir.path().join("folder"),
            dir.path().join("folder/access.log"),
        );
        let mut writer = Writer::start(|_| Ok(())).unwrap();
        let sink = writer.sink(&log(&path));
        write(&sink, "/");
        flush_thread();
        writer.flush(PLENTY);
        let problems = writer.problems().join("\n");
        assert!(problems.contains("No such file"), "{problems}");
        assert!(problems.contains("1 lines dropped"), "{problems}");
        std::fs::create_dir(&folder).unwrap();
        write(&sink, "/");
        flush_thread();
        writer.flush(PLENTY);
        assert_eq!(lines(&path), 1);
        assert!(!writer.problems().join("\n").contains("No such file"));
    }

    #[test]
    fn when_the_writer_does_not_keep_up_lines_are_dropped_and_counted() {
        let (sender, inbox) = sync_channel(1);
        let (spare, dropped) = (Arc::default(), Arc::<AtomicU64>::default());
        let format = LogFormat::Json;
        let sink = Sink::new(
            LogTarget::Stdout,
            format,
            sender,
            spare,
            Arc::clone(&dropped),
        );
        for _ in 0..3 {
            write(&sink, "/");
            flush_thread();
        }
        assert_eq!(dropped.load(Relaxed), 2);
        assert!(matches!(inbox.try_recv(), Ok(Message::Lines(batch)) if batch.lines == 1));
    }

    #[test]
    fn logs_configured_alike_are_one_and_those_of_before_are_forgotten() {
        let mut writer = Writer::start(|_| Ok(())).unwrap();
        let (one, other) = (log(Path::new("/a")), log(Path::new("/b")));
        let sink = writer.sink(&one);
        assert!(Arc::ptr_eq(&sink, &writer.sink(&one)));
        assert!(!Arc::ptr_eq(&sink, &writer.sink(&other)));
        writer.keep_only(&[&other]);
        assert!(!Arc::ptr_eq(&sink, &writer.sink(&one)));
    }
}
