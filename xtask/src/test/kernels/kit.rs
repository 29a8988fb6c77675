//! The contents of guests: the agent, the test programs, and the programs that these run.

use super::arch::Arch;
use super::jobs::{self, Job};
use super::root::Root;
use super::system::System;
use crate::build::{self, Profile};
use crate::sh::{self, CommandExt};
use crate::target::Target;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Factor by which a guest is slower than the machine that the tests' deadlines are for.
const SLOW: &str = "4";

/// The programs that guests get, stripped of debug information: a root is in a guest's memory.
pub(super) struct Kit {
    system: System,
    agent: PathBuf,
    tests: BTreeMap<&'static str, PathBuf>,
}

impl Kit {
    /// Builds the agent and these tests for a processor.
    pub(super) fn build(dir: &Path, arch: Arch, files: &BTreeSet<&'static str>) -> Result<Self> {
        let system = System::ensure(dir, arch)?;
        let target = arch.target();
        build::build_for(Profile::Release, target)?;
        let tests = compile_tests(files, target)?;
        let dir = dir.join(arch.debian).join("programs");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let strip = |from: &Path, name: &str| -> Result<PathBuf> {
            let to = dir.join(name);
            let mut command = Command::new(target.tool("strip"));
            command.arg("-o").args([&to, from]).read()?;
            Ok(to)
        };
        Ok(Self {
            system,
            agent: strip(&build::agent_for(Profile::Release, target), "lb-agent")?,
            tests: tests
                .iter()
                .map(|(name, program)| Ok((*name, strip(program, name)?)))
                .collect::<Result<_>>()?,
        })
    }

    /// A root with the agent, and the programs and the script of these jobs.
    pub(super) fn root(&self, jobs: &[Job], options: &[&String]) -> Result<Vec<u8>> {
        let mut root = Root::new(&self.system)?;
        root.program(&self.agent, "guest/lb-agent")?;
        for job in jobs {
            let program = self
                .tests
                .get(job.file)
                .context("a test without a program")?;
            root.program(program, &format!("guest/{}", job.file))?;
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

/// Compiles the tests, and returns the path of each program.
fn compile_tests(
    files: &BTreeSet<&'static str>,
    target: Target,
) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut command = Command::new(sh::cargo());
    command
        .current_dir(sh::workspace())
        .env("LB_EBPF_OBJECT", target.bpf_object())
        .args(["test", "--no-run", "--package", "lb-tests"])
        .arg("--message-format=json-render-diagnostics");
    target.apply(&mut command);
    for file in files {
        command.args(["--test", file]);
    }
    let messages = build::capture_stdout(&mut command, "compiling the tests")?;
    let program = |file: &&'static str| {
        let found = build::executable(&messages, file);
        Ok((
            *file,
            found.with_context(|| format!("cargo named no program for {file}"))?,
        ))
    };
    files.iter().map(program).collect()
}
