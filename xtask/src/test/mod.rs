//! `cargo xtask test`: every suite with all that it needs, and one count at the end.
//!
//! - `unit`: the crates' own tests on the host, no root (see `unit`).
//! - `bpf`: `tests/kernel/bpf_*.rs`, the programs in the kernel (BPF_PROG_TEST_RUN).
//! - `verifier`: two of these: the figures of each program, and the demands of older kernels.
//! - `kernels`: some of all these on other kernels, under an emulator (see `kernels`).
//! - `cache`: one of `e2e` alone, the tests of http-cache-tests.
//! - `soak`: one of `e2e` alone, for ten minutes or a time of choice.
//! - `e2e`: every other test of the areas (`areas`), hosts in network namespaces and real
//!   applications; `kernel_*.rs` is for other kernels alone.
//!
//! - `distributions`: fresh machines set up by the README's commands. Also
//!   `tests/operations/distro_*.rs`, the packages and services on other distributions. By name
//!   only, as it takes long.
//!
//! A test that cannot run adds a line to the file that `LB_TEST_SKIPPED` names. It is then counted
//! as skipped. If `CI` is set, a skip is a failure.

mod apps;
mod binfmt;
mod count;
mod distributions;
mod kernels;
mod leftovers;
mod redbot;
mod roots;
mod unit;

use crate::build::{self, Profile};
use crate::sh::{self, is_root, say};
use crate::target::{Arch, Target};
use crate::{areas, host, setup};
use anyhow::{Context, Result, bail, ensure};
use count::Count;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

/// The files of the suite `verifier`.
const VERIFIER: [&str; 2] = ["bpf_old_kernels", "bpf_verifier"];

/// The file of the suite `cache`.
const CACHE: &str = "http_cache_tests";

/// Test files that need no root.
const NEED_NOTHING: [&str; 1] = ["bpf_old_kernels"];

/// Prefixes of test files that do not belong to `e2e`.
const PREFIXES: [&str; 3] = ["bpf_", "distro_", "kernel_"];

/// Tests in network namespaces wait more than they compute, but each starts several programs.
const E2E_THREADS: &str = "2";

/// Test files that need a clean Debian system.
const NEED_DEBIAN: [&str; 2] = ["package", "systemd"];

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One suite; all of them if left out
    suite: Option<Suite>,
    /// For `kernels`: their series, 6.1 and 6.12 if left out, behind a processor if it is not this
    /// machine's, as in `kernels arm64 6.12`
    #[arg(value_name = "VERSION")]
    versions: Vec<String>,
    /// For `unit`: the processor, under an emulator if it is not this machine's
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Duration of `soak`
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Seed of `soak`'s random choices; it is printed in any case
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Handed to the test programs, for example `-- websocket --nocapture`
    #[arg(last = true)]
    filter: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    /// Tests of each crate by itself; no root
    Unit,
    /// The eBPF programs in the kernel; root
    Bpf,
    /// Some of `bpf`: the verifier's figures of each program (root), and the refusals of older
    /// verifiers
    Verifier,
    /// Hosts in network namespaces with Node.js applications; root
    E2e,
    /// Other kernels, under an emulator: `kernels 6.1 6.12`, `kernels arm64`
    Kernels,
    /// The response cache against http-cache-tests; root. It is one of `e2e`
    Cache,
    /// Everything at random, for minutes; root. Not among "all of them": e2e has half a minute of it
    Soak,
    /// Fresh Debian systems set up, packages and services on them; root. Not among "all of them"
    Distributions,
}

/// Runs the suites, all of them even if one fails, and prints the count as the last line.
pub(crate) fn test(args: &Args) -> Result<ExitCode> {
    ensure!(
        args.versions.is_empty() || args.suite == Some(Suite::Kernels),
        "{} is no suite and no option; versions go with `kernels`",
        args.versions.join(" ")
    );
    ensure!(
        args.arch.is_none() || args.suite == Some(Suite::Unit),
        "--arch goes with `unit`; for `kernels` the processor is the first word"
    );
    let suites = match args.suite {
        Some(suite) => vec![suite],
        None => vec![Suite::Unit, Suite::Bpf, Suite::E2e, Suite::Kernels],
    };
    let mut total = Count::default();
    for suite in suites {
        total += suite.run(args).unwrap_or_else(|error| {
            say(format!("{}: {error:#}", suite.name()));
            Count::one_failed()
        });
    }
    println!("{total}");
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Unit => "unit",
            Suite::Bpf => "bpf",
            Suite::Verifier => "verifier",
            Suite::E2e => "e2e",
            Suite::Kernels => "kernels",
            Suite::Cache => "cache",
            Suite::Soak => "soak",
            Suite::Distributions => "distributions",
        }
    }

    fn run(self, args: &Args) -> Result<Count> {
        let filter = &args.filter;
        if self == Suite::Unit {
            return unit::run(Target::of(args.arch), filter);
        }
        if self == Suite::Kernels {
            let asked_for = args.suite == Some(self);
            return kernels::run(&args.versions, filter, asked_for);
        }
        let mut files = self.files()?;
        if files.is_empty() {
            say(format!("{}: no test files", self.name()));
            return Ok(Count::default());
        }
        let mut count = Count::default();
        if !is_root() {
            let needs_root =
                |file: &mut PathBuf| !NEED_NOTHING.contains(&areas::name(file).as_str());
            let left_out: Vec<PathBuf> = files.extract_if(.., needs_root).collect();
            count += skip(self, &left_out, "root")?;
        }
        if self == Suite::E2e && !roots::can_be_made() {
            let on_debian = |file: &mut PathBuf| NEED_DEBIAN.contains(&areas::name(file).as_str());
            let left_out: Vec<PathBuf> = files.extract_if(.., on_debian).collect();
            count += skip(self, &left_out, "Debian's apt")?;
        }
        if files.is_empty() {
            return Ok(count);
        }
        if self == Suite::Distributions {
            count += distributions::set_up_machines(filter)?;
            if !filter.is_empty() && count != Count::default() {
                // These machines were asked for by name, and need no suite.
                return Ok(count);
            }
        }
        let mut environment = self.prepare()?;
        if self == Suite::Soak {
            environment.push(("LB_SOAK_SECONDS", (args.minutes * 60).to_string().into()));
            environment.extend(
                args.seed
                    .map(|seed| ("LB_TEST_SEED", seed.to_string().into())),
            );
        }
        let mut filter = filter.to_vec();
        if matches!(self, Suite::Verifier | Suite::Cache | Suite::Soak) {
            filter.push("--nocapture".to_owned());
        }
        let mut arguments = vec!["--package".to_owned(), "lb-tests".to_owned()];
        for name in files.iter().map(|file| areas::name(file)) {
            arguments.extend(["--test".to_owned(), name]);
        }
        if self == Suite::Bpf {
            // The unit tests of the tests' library.
            arguments.push("--lib".to_owned());
        }
        count += cargo_test(&arguments, &filter, &environment, Target::own())?;
        Ok(count)
    }

    /// The test files of the suite, by the convention for their names.
    fn files(self) -> Result<Vec<PathBuf>> {
        let mut files = areas::files()?;
        files.retain(|file| match self {
            Suite::Soak => areas::name(file) == "soak",
            Suite::Cache => areas::name(file) == CACHE,
            Suite::Verifier => VERIFIER.contains(&areas::name(file).as_str()),
            Suite::Distributions => starts_with(file, "distro_"),
            Suite::Bpf => starts_with(file, "bpf_"),
            _ => !PREFIXES.iter().any(|prefix| starts_with(file, prefix)),
        });
        Ok(files)
    }

    /// Prepares the things that the suite needs, and returns their paths as variables for its
    /// tests.
    fn prepare(self) -> Result<Vec<(&'static str, PathBuf)>> {
        setup::ensure_toolchain()?;
        build::build(Profile::Release)?;
        if is_root() {
            host::mount_bpffs()?;
            leftovers::remove();
        }
        let mut environment = vec![
            ("LB_AGENT_BIN", build::agent(Profile::Release)),
            ("LB_EBPF_OBJECT", Target::own().bpf_object()),
        ];
        let needs_apps = matches!(
            self,
            Suite::E2e | Suite::Cache | Suite::Soak | Suite::Distributions
        );
        if needs_apps {
            environment.push(("LB_TEST_APPS", apps::ensure()?));
            environment.push(("RUST_TEST_THREADS", E2E_THREADS.into()));
        }
        if self == Suite::E2e {
            match redbot::ensure() {
                Ok(program) => environment.push(("LB_TEST_REDBOT", program)),
                Err(error) => say(format!("its test will be skipped: {error:#}")),
            }
        }
        if self == Suite::E2e && roots::can_be_made() {
            environment.extend(roots::for_package()?);
        }
        if self == Suite::Distributions {
            environment.extend(distributions::environment()?);
        }
        Ok(environment)
    }
}

fn starts_with(file: &Path, prefix: &str) -> bool {
    file.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Counts the tests that are left out, and says why.
fn skip(suite: Suite, files: &[PathBuf], needs: &str) -> Result<Count> {
    if files.is_empty() {
        return Ok(Count::default());
    }
    let skipped = files
        .iter()
        .map(|file| count::tests_in(&fs::read_to_string(file).unwrap_or_default()))
        .sum();
    if env::var_os("CI").is_some() {
        bail!("the tests need {needs}, and CI has to run them; tests not run: {skipped}");
    }
    let name = suite.name();
    say(format!(
        "{name}: SKIPPED, as the tests need {needs}; tests not run: {skipped}"
    ));
    Ok(Count {
        skipped,
        ..Count::default()
    })
}

/// Runs `cargo test` with its output passed through, and counts.
fn cargo_test(
    arguments: &[String],
    filter: &[String],
    environment: &[(&str, PathBuf)],
    target: Target,
) -> Result<Count> {
    let skips = env::temp_dir().join(format!("lb-skipped-{}", std::process::id()));
    let mut command = Command::new(sh::cargo());
    command
        .current_dir(sh::workspace())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env("LB_TEST_SKIPPED", &skips)
        .args(["test", "--no-fail-fast"])
        .args(arguments);
    target.apply(&mut command);
    command.arg("--").args(filter).stdout(Stdio::piped());
    say(format!(
        "cargo test {} -- {}",
        arguments.join(" "),
        filter.join(" ")
    ));
    let counted = count_output(&mut command);
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let _ = fs::remove_file(&skips);
    Ok(with_skips(counted?, &skipped, env::var_os("CI").is_some()))
}

fn count_output(command: &mut Command) -> Result<Count> {
    let mut child = command.spawn().context("run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut count = Count::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("read the output of cargo test")?;
        println!("{line}");
        count += Count::of_result_line(&line).unwrap_or_default();
    }
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() && count.failed == 0 {
        // The tests did not compile, or died before they could count.
        count.failed = 1;
    }
    Ok(count)
}

/// A test that skips itself has passed as far as its harness knows.
fn with_skips(mut count: Count, skipped: &str, in_ci: bool) -> Count {
    for line in skipped.lines().filter(|line| !line.trim().is_empty()) {
        say(format!("SKIPPED {line}"));
        count.passed = count.passed.saturating_sub(1);
        if in_ci {
            count.failed += 1;
        } else {
            count.skipped += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_skips_itself_did_not_pass_and_fails_in_ci() {
        let count = Count {
            passed: 3,
            failed: 0,
            skipped: 1,
        };
        let skipped = "udp: no such socket option\n";
        assert_eq!(
            with_skips(count, skipped, false).to_string(),
            "2 passed, 0 failed, 2 skipped"
        );
        assert_eq!(
            with_skips(count, skipped, true).to_string(),
            "2 passed, 1 failed, 1 skipped"
        );
    }

    #[test]
    fn a_run_that_fails_before_it_counts_is_one_failure() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo error: does not compile; exit 101"])
            .stdout(Stdio::piped());
        assert_eq!(count_output(&mut command).unwrap(), Count::one_failed());
    }

    #[test]
    fn the_name_of_a_file_says_which_suite_it_belongs_to() {
        let is_bpf = |path| starts_with(Path::new(path), "bpf_");
        assert!(is_bpf("tests/kernel/bpf_agreement.rs"));
        assert!(!is_bpf("tests/kernel/sticky.rs"));
    }
}
