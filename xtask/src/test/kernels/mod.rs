//! `cargo xtask test kernels`: Debian's kernels under an emulator, each asked what the agent needs.
//!
//! A guest's root is made of this machine's own programs, the agent and test programs (`root`). It
//! does its jobs (`jobs`), and what it prints is counted (`transcript`). Kernels come by apt with a
//! configuration of its own (`mirror`) and stay in `target/kernels`; whoever wants newer ones removes
//! that directory.

mod arch;
mod cpio;
mod guest;
mod jobs;
mod kernel;
mod mirror;
mod root;
mod sources;
mod transcript;

use super::count::Count;
use crate::build::{self, Profile};
use crate::machine::Machine;
use crate::packages;
use crate::sh::{self, CommandExt, say};
use anyhow::{Context, Result, bail, ensure};
use arch::Arch;
use jobs::Job;
use kernel::Kernel;
use root::Root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};
use transcript::Outcome;

/// Those that most users have, and that most of all differ from the newest.
const USUAL: [&str; 2] = ["6.1", "6.12"];

/// By how much a guest is slower than what the tests' deadlines are for.
const SLOW: &str = "4";

/// What the machine must have beside the guest's own programs.
const TOOLS: [(&str, &str); 3] = [("strip", "binutils"), ("xz", "xz-utils"), ("zstd", "zstd")];

/// Runs the tests on each kernel, several at a time where the machine is large enough. Unless they
/// are `asked_for` by name, a machine that cannot do it skips them.
pub(super) fn run(names: &[String], filter: &[String], asked_for: bool) -> Result<Count> {
    let Some(arch) = arch::own() else {
        bail!("Debian has no kernels for {}", env::consts::ARCH);
    };
    let usual = USUAL.map(str::to_owned);
    let names = if names.is_empty() { &usual[..] } else { names };
    let series: Vec<&str> = names
        .iter()
        .map(|name| checked(name))
        .collect::<Result<_>>()?;
    if let Err(error) = ensure_tools(arch) {
        return if asked_for {
            Err(error)
        } else {
            skip(&series, &error)
        };
    }
    let dir = sh::workspace().join("target/kernels");
    let kernels = kernel::ensure_all(&dir, arch, &series)?;
    let (options, words): (Vec<String>, Vec<String>) = filter
        .iter()
        .cloned()
        .partition(|word| word.starts_with('-'));
    let plans: Vec<(Kernel, Vec<Job>)> = kernels
        .into_iter()
        .map(|kernel| {
            let jobs = jobs::of(&kernel.series, &words);
            (kernel, jobs)
        })
        .collect();
    if plans.iter().all(|(_, jobs)| jobs.is_empty()) {
        ensure!(
            !asked_for,
            "no test of a kernel has {} in its name",
            words.join(" or ")
        );
        return Ok(Count::default());
    }
    build::build(Profile::Release)?;
    let files: BTreeSet<&str> = plans
        .iter()
        .flat_map(|(_, jobs)| jobs)
        .map(|job| job.file)
        .collect();
    let programs = test_programs(&files)?;
    Ok(total(&boot_all(arch, &plans, &programs, &options)?))
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

/// A name like `6.12`.
fn checked(name: &str) -> Result<&str> {
    let numbers = name.split_once('.');
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match numbers {
        Some((major, minor)) if is_number(major) && is_number(minor) => Ok(name),
        _ => bail!("{name} is no series of kernels; they are called 6.1, 6.12 and so on"),
    }
}

/// A program of this machine.
fn find(name: &str) -> Result<PathBuf> {
    Machine::this()
        .find(name)
        .with_context(|| format!("there is no {name}"))
}

/// Installs what is missing of emulator and tools.
fn ensure_tools(arch: Arch) -> Result<()> {
    for program in ["apt-get", "dpkg-deb"] {
        ensure!(
            find(program).is_ok(),
            "Debian's kernels come by {program}, which is not here"
        );
    }
    let mut missing: Vec<&str> = root::PROGRAMS
        .into_iter()
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

/// Compiles the tests; where each program is.
fn test_programs(files: &BTreeSet<&str>) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = Command::new(sh::cargo());
    command
        .current_dir(sh::workspace())
        .env("LB_EBPF_OBJECT", build::object())
        .args(["test", "--no-run", "--package", "lb-tests"])
        .arg("--message-format=json-render-diagnostics");
    for file in files {
        command.args(["--test", file]);
    }
    let messages = build::capture_stdout(&mut command, "compiling the tests")?;
    let program = |file: &&str| {
        let found = build::executable(&messages, file);
        let found = found.with_context(|| format!("cargo named no program for {file}"))?;
        Ok(((*file).to_owned(), found))
    };
    files.iter().map(program).collect()
}

/// Boots all kernels; what came of each.
fn boot_all(
    arch: Arch,
    plans: &[(Kernel, Vec<Job>)],
    programs: &BTreeMap<String, PathBuf>,
    options: &[String],
) -> Result<Vec<(String, Outcome)>> {
    let stripped = Stripped::new()?;
    let waiting = Mutex::new(plans.iter());
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some((kernel, jobs)) = next(&waiting) {
            let outcome = stripped
                .root(jobs, programs, options)
                .and_then(|root| guest::run(arch, kernel, &root, jobs))
                .unwrap_or_else(|error| Outcome {
                    count: Count::one_failed(),
                    failures: vec![format!("{error:#}")],
                    skips: Vec::new(),
                });
            let mut done = done.lock().expect("no thread has panicked");
            done.push((kernel.series.clone(), outcome));
        }
    };
    thread::scope(|scope| {
        (0..at_once(plans.len())).for_each(|_| {
            scope.spawn(work);
        });
    });
    Ok(done.into_inner().expect("no thread has panicked"))
}

fn next<T>(waiting: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    waiting.lock().expect("no thread has panicked").next()
}

/// How many guests run at a time: one for each core, if there is memory for it.
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

/// Programs without what only debuggers need: the root is in the guest's memory.
struct Stripped(PathBuf);

impl Stripped {
    fn new() -> Result<Self> {
        let dir = sh::workspace().join("target/kernels/stripped");
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let stripped = Self(dir);
        stripped.strip(&build::agent(Profile::Release), "lb-agent")?;
        Ok(stripped)
    }

    fn strip(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let to = self.0.join(name);
        let temporary = self.0.join(format!("{name}-{:?}", thread::current().id()));
        Command::new("strip")
            .arg("-o")
            .args([&temporary, from])
            .read()?;
        fs::rename(&temporary, &to).with_context(|| format!("write {}", to.display()))?;
        Ok(to)
    }

    /// A root with the agent, and the programs and the script of these jobs.
    fn root(
        &self,
        jobs: &[Job],
        programs: &BTreeMap<String, PathBuf>,
        options: &[String],
    ) -> Result<Vec<u8>> {
        let mut root = Root::new()?;
        root.program(&self.0.join("lb-agent"), "guest/lb-agent")?;
        for job in jobs {
            let program = programs.get(job.file).context("a test without a program")?;
            let program = self.strip(program, job.file)?;
            root.program(&program, &format!("guest/{}", job.file))?;
        }
        let environment = [("LB_AGENT_BIN", "/guest/lb-agent"), ("LB_TEST_SLOW", SLOW)];
        root.text(
            "guest/run.sh",
            0o644,
            &jobs::script(jobs, &environment, options),
        )?;
        root.finish()
    }
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
        assert_eq!(checked("6.12").unwrap(), "6.12");
        for wrong in ["6", "6.1.0", "linux", "6.x", "../6.1"] {
            assert!(checked(wrong).is_err(), "{wrong}");
        }
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
