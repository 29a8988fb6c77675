//! `cargo xtask test kernels`: boots Debian's kernels under an emulator, and tests on each the
//! features that the agent needs.
//!
//! A guest (`guest`) has the agent and test programs (`kit`) on a root (`root`). The root has this
//! machine's own programs, or Debian's for another processor (`system`). The guest does its jobs
//! (`jobs`), and its output is counted (`transcript`). Kernels come by apt with a configuration of
//! its own (`mirror`, `sources`) and stay in `target/kernels` (`kernel`). Remove that directory to
//! get newer ones.

mod arch;
mod cpio;
mod guest;
mod jobs;
mod kernel;
mod kit;
mod mirror;
mod root;
mod sources;
mod system;
mod transcript;

use super::count::Count;
use crate::machine::Machine;
use crate::packages;
use crate::setup;
use crate::sh::{self, say};
use anyhow::{Context, Result, ensure};
use arch::Arch;
use jobs::Job;
use kernel::Kernel;
use kit::Kit;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};
use transcript::Outcome;

/// The series that most users have, and that differ most from the newest.
const USUAL: [&str; 2] = ["6.1", "6.12"];

/// Tools that the machine must have beside the guest's own programs, with their packages.
const TOOLS: [(&str, &str); 4] = [
    ("depmod", "kmod"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// A kernel, and the jobs for it.
type Plan = (Kernel, Vec<Job>);

/// Runs the tests on each kernel, several at a time if the machine is large enough. The first name
/// may be that of a processor. A machine that cannot boot them skips the tests, unless they are
/// `asked_for`.
pub(super) fn run(names: &[String], filter: &[String], asked_for: bool) -> Result<Count> {
    let (arch, names) = arch::chosen(names)?;
    let mut series: Vec<&str> = names
        .iter()
        .map(|name| checked(name, arch))
        .collect::<Result<_>>()?;
    if series.is_empty() {
        series.extend(USUAL);
    }
    match ensure_tools(arch) {
        Err(error) if !asked_for => return skip(&series, &error),
        done => done?,
    }
    let is_option = |word: &&String| word.starts_with('-');
    let (options, words): (Vec<&String>, Vec<&String>) = filter.iter().partition(is_option);
    let dir = sh::workspace().join("target/kernels");
    let mut plans: Vec<Plan> = Vec::new();
    for kernel in kernel::ensure_all(&dir, arch, &series)? {
        let jobs = jobs::of(&kernel.series, &words);
        if !jobs.is_empty() {
            plans.push((kernel, jobs));
        }
    }
    if plans.is_empty() {
        ensure!(
            !asked_for,
            "no test for kernels has any of {words:?} in its name"
        );
        return Ok(Count::default());
    }
    let files = plans.iter().flat_map(|(_, jobs)| jobs).map(|job| job.file);
    let kit = Kit::build(&dir, arch, &files.collect())?;
    Ok(total(&boot_all(arch, &plans, &kit, &options)))
}

/// Counts the tests that are not run, and says why.
fn skip(series: &[&str], why: &anyhow::Error) -> Result<Count> {
    let jobs = series.iter().flat_map(|series| jobs::of(series, &[]));
    let skipped = jobs.map(|job| job.tests.len() as u64).sum();
    ensure!(
        env::var_os("CI").is_none(),
        "{why:#}; tests not run: {skipped}"
    );
    say(format!(
        "kernels: SKIPPED, tests not run: {skipped}: {why:#}"
    ));
    Ok(Count {
        skipped,
        ..Count::default()
    })
}

/// A name like `6.12`, or `6.12-16k` if the processor has kernels with such pages.
fn checked(name: &str, arch: Arch) -> Result<&str> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_series = |series: &str| {
        let numbers = series.split_once('.');
        numbers.is_some_and(|(major, minor)| is_number(major) && is_number(minor))
    };
    let mut endings = arch.flavours.iter().map(|(_, ending)| *ending);
    ensure!(
        endings.any(|ending| name.strip_suffix(ending).is_some_and(is_series)),
        "{name} is no series of kernels; they are called 6.1, 6.12 and so on, on arm64 also 6.12-16k for pages of \
         16 KiB, and a processor before them amd64 or arm64"
    );
    Ok(name)
}

/// A program of this machine.
fn find(name: &str) -> Result<PathBuf> {
    Machine::this()
        .find(name)
        .with_context(|| format!("there is no {name}"))
}

/// Installs the emulator and the tools, if they are missing.
fn ensure_tools(arch: Arch) -> Result<()> {
    for program in ["apt-get", "dpkg-deb"] {
        ensure!(
            find(program).is_ok(),
            "Debian's kernels come by {program}, which is not here"
        );
    }
    let target = arch.target();
    setup::ensure_emulator(target)?;
    // Programs for another processor are fetched without being installed.
    let own = system::PROGRAMS
        .into_iter()
        .filter(|_| target.cross.is_none());
    let mut missing: Vec<&str> = own
        .chain(TOOLS)
        .chain([(arch.qemu, arch.qemu_package)])
        .filter(|(program, _)| find(program).is_err())
        .map(|(_, package)| package)
        .collect();
    if !Path::new(mirror::KEYS).exists() {
        missing.push("debian-archive-keyring");
    }
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    packages::ensure(&missing, "booting other kernels")
}

/// Boots all kernels, and returns the outcome of each.
fn boot_all(arch: Arch, plans: &[Plan], kit: &Kit, options: &[&String]) -> Vec<(String, Outcome)> {
    let waiting = Mutex::new(plans.iter());
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some((kernel, jobs)) = next(&waiting) {
            let booted = kit
                .root(jobs, options)
                .and_then(|root| guest::run(arch, kernel, &root, jobs));
            let outcome = booted.unwrap_or_else(|error| Outcome {
                count: Count::one_failed(),
                failures: vec![format!("{error:#}")],
                skips: Vec::new(),
            });
            let mut done = done.lock().expect("no thread has panicked");
            done.push((kernel.series.clone(), outcome));
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once(plans.len()) {
            scope.spawn(work);
        }
    });
    done.into_inner().expect("no thread has panicked")
}

fn next<T>(waiting: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    waiting.lock().expect("no thread has panicked").next()
}

/// Guests that run at a time: one for each core, if there is memory for it.
fn at_once(guests: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    // The emulator needs some as well.
    let by_memory = available_mib(&info) / (guest::MEMORY + 512);
    guests.min(cores).min(by_memory as usize).max(1)
}

fn available_mib(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// One count of all kernels. Each failure is told with its kernel.
fn total(outcomes: &[(String, Outcome)]) -> Count {
    let mut total = Count::default();
    for (series, outcome) in outcomes {
        for failure in &outcome.failures {
            say(format!("FAILED on Linux {series}: {failure}"));
        }
        let skips: String = outcome
            .skips
            .iter()
            .map(|skip| format!("on Linux {series}: {skip}\n"))
            .collect();
        total += super::with_skips(outcome.count, &skips, env::var_os("CI").is_some());
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_known_by_their_form() {
        for arch in [arch::AMD64, arch::ARM64] {
            assert_eq!(checked("6.12", arch).unwrap(), "6.12");
            for wrong in ["6", "6.1.0", "linux", "6.x", "../6.1", "6.1-64k"] {
                assert!(checked(wrong, arch).is_err(), "{wrong}");
            }
        }
        assert!(checked("6.12-16k", arch::ARM64).is_ok());
        assert!(checked("6.12-16k", arch::AMD64).is_err());
    }

    #[test]
    fn memory_is_read_in_mib() {
        assert_eq!(
            available_mib("MemTotal: 9 kB\nMemAvailable:  2097152 kB\n"),
            2048
        );
        assert_eq!(available_mib(""), 0);
    }
}
