//! A clock that can be stepped, for one program (libfaketime).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The wall clock of the programs that it rules; CLOCK_MONOTONIC is left alone, as it is by a step.
pub struct Clock(PathBuf);

impl Clock {
    /// A clock that shows the right time, with its file in `dir`.
    pub fn new(dir: &Path) -> Self {
        let clock = Self(dir.join("clock"));
        clock.step("+0");
        clock
    }

    /// From now on it is off by this much, as in `+400d`.
    pub fn step(&self, offset: &str) {
        fs::write(&self.0, offset).unwrap();
    }

    /// Has `command` run by this clock.
    pub fn rule(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

/// Path of the library that `faketime` preloads into a program.
fn faketime() -> String {
    let output = Command::new("faketime")
        .args(["-f", "+0", "sh", "-c", "echo $LD_PRELOAD"])
        .output()
        .expect("faketime");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
