//! A guest: a kernel under an emulator, which does its jobs and turns itself off.

use super::arch::{self, Arch};
use super::jobs::Job;
use super::kernel::Kernel;
use super::transcript::{Outcome, Transcript};
use crate::sh::say;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Memory of a guest, MiB; a third of it is the root.
pub(super) const MEMORY: u64 = 2048;

/// CPUs of a guest: the programs' per-CPU maps should have more than one part.
const CPUS: &str = "2";

/// A guest that prints nothing for so long hangs. A test prints nothing while it runs. It may wait
/// more than once, four minutes at most, before it gives up by itself.
const SILENCE: Duration = Duration::from_secs(600);

/// Longest run of a guest.
const LIMIT: Duration = Duration::from_secs(1800);

/// With virtualization, a guest that prints nothing for so long after its start hangs.
const START: Duration = Duration::from_secs(60);

/// Characters of a line that are shown at most.
const LONGEST: usize = 2000;

/// Whether virtualization has been tried, and failed.
static IS_BROKEN: AtomicBool = AtomicBool::new(false);

/// The means to run a guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Kvm,
    Emulator,
}

/// Boots a kernel with a root, and has it do its jobs.
pub(super) fn run(arch: Arch, kernel: &Kernel, root: &[u8], jobs: &[Job]) -> Result<Outcome> {
    let initrd = kernel.image.with_file_name("initrd");
    let modules = fs::read(&kernel.modules);
    let modules = modules.with_context(|| format!("read {}", kernel.modules.display()))?;
    // The kernel unpacks one archive after the other.
    fs::write(&initrd, [&modules, root].concat())
        .with_context(|| format!("write {}", initrd.display()))?;
    let mut outcome = None;
    if can_virtualize(arch) {
        outcome = boot(arch, kernel, &initrd, jobs, By::Kvm)?;
    }
    if outcome.is_none() {
        outcome = boot(arch, kernel, &initrd, jobs, By::Emulator)?;
    }
    let _ = fs::remove_file(&initrd);
    outcome.context("the emulator does not start")
}

/// Boots the kernel once; `None` if virtualization turns out not to work.
fn boot(
    arch: Arch,
    kernel: &Kernel,
    initrd: &Path,
    jobs: &[Job],
    by: By,
) -> Result<Option<Outcome>> {
    let series = &kernel.series;
    let how = if by == By::Kvm { "by KVM" } else { "emulated" };
    say(format!("booting Linux {series}, {how}"));
    let begun = Instant::now();
    let mut child = start(arch, kernel, initrd, by)?;
    let mut transcript = Transcript::new(jobs);
    let end = watch(&mut child, by, |line| {
        println!("{series}| {line}");
        transcript.line(line);
    });
    let _ = child.kill();
    let _ = child.wait();
    let Some(why) = end else {
        IS_BROKEN.store(true, Ordering::Relaxed);
        say("KVM does not work on this machine");
        return Ok(None);
    };
    let seconds = begun.elapsed().as_secs();
    let outcome = transcript.finish(&why);
    say(format!("Linux {series}: {} in {seconds} s", outcome.count));
    Ok(Some(outcome))
}

fn start(arch: Arch, kernel: &Kernel, initrd: &Path, by: By) -> Result<Child> {
    let qemu = super::find(arch.qemu)?;
    let accelerator = match by {
        By::Kvm => "kvm",
        By::Emulator => "tcg,thread=multi",
    };
    let mut command = Command::new(qemu);
    command
        .args(["-accel", accelerator])
        .args(arch.machine)
        .args(["-smp", CPUS, "-m", &MEMORY.to_string()])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        // The console has only the lines of the tests, and those that end the machine.
        .arg(format!(
            "console={} rdinit=/init quiet loglevel=1 panic=-1 oops=panic mitigations=off audit=0 {}",
            arch.console, arch.parameters
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().context("start the emulator")
}

/// Whether this machine's own processor can run the guest, which is ten times faster.
fn can_virtualize(arch: Arch) -> bool {
    !IS_BROKEN.load(Ordering::Relaxed)
        && arch::own() == Some(arch)
        && File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}

/// Hands on every line that a guest prints, until it ends or hangs. Returns the reason of the end;
/// `None` if virtualization does not work.
fn watch(child: &mut Child, by: By, mut each: impl FnMut(&str)) -> Option<String> {
    let (send, lines) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        read_lines(output, send.clone());
    }
    if let Some(errors) = child.stderr.take() {
        read_lines(errors, send);
    }
    let begun = Instant::now();
    let mut has_started = by == By::Emulator;
    loop {
        match lines.recv_timeout(if has_started { SILENCE } else { START }) {
            Ok(line) if by == By::Kvm && is_refusal(&line) => return None,
            Ok(line) => {
                has_started = true;
                each(&line);
            }
            Err(_) if !has_started => return None,
            Err(RecvTimeoutError::Disconnected) => return Some("the guest ended".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                let silence = SILENCE.as_secs();
                return Some(format!("nothing was heard of the guest for {silence} s"));
            }
        }
        if begun.elapsed() > LIMIT {
            return Some(format!("the guest took more than {} s", LIMIT.as_secs()));
        }
    }
}

/// A line by which the emulator says that virtualization is missing, in whole or in part.
fn is_refusal(line: &str) -> bool {
    line.contains("KVM internal error") || line.contains("failed to initialize kvm")
}

/// A line as it is shown, cut to [`LONGEST`].
fn shown(line: &str) -> String {
    let line = line.trim_end();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_owned(),
    }
}

fn read_lines(from: impl Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = shown(&String::from_utf8_lossy(&line));
            line.clear();
            if to.send(text).is_err() {
                return;
            }
        }
    });
}
