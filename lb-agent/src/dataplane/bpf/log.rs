//! The log of the eBPF programs.

use std::io;

use aya::Ebpf;
use rustix::event::{PollFd, PollFlags, poll};

use crate::privilege::keep_or_warn;

/// Source of the log lines that the eBPF programs write.
pub struct KernelLog(aya_log::EbpfLogger<&'static dyn ::log::Log>);

impl KernelLog {
    /// Opens the log of the programs in an object.
    pub(super) fn of(object: &mut Ebpf) -> io::Result<Self> {
        aya_log::EbpfLogger::init(object)
            .map(Self)
            .map_err(io::Error::other)
    }

    /// Forwards the log lines as they arrive, on a thread of its own. They are few.
    pub fn forward(mut self) {
        let read = move || {
            keep_or_warn(&[]);
            loop {
                let mut source = [PollFd::new(&self.0, PollFlags::IN)];
                match poll(&mut source, None) {
                    Ok(_) => self.0.flush(),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the log of the eBPF programs cannot be read");
                        return;
                    }
                }
            }
        };
        if let Err(error) = std::thread::Builder::new()
            .name("kernel-log".into())
            .spawn(read)
        {
            tracing::warn!(%error, "no thread for the log of the eBPF programs");
        }
    }
}
