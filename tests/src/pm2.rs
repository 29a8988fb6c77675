//! PM2, with the files of `examples/pm2`: four copies of the web application on 127.0.0.1:5000 to
//! 5003, which put themselves in service and are drained before they are stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::agent::{Agent, Outcome, program};
use crate::node::apps_dir;
use crate::topology::hosts::Host;

/// The repository's examples.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// A daemon of its own for a test. When it is dropped it ends, with all that it has started.
pub struct Pm2<'a> {
    host: &'a Host,
    agent: &'a Agent<'a>,
    script: &'static str,
}

impl<'a> Pm2<'a> {
    /// Starts copies of a test application; they are in service when this returns.
    #[track_caller]
    pub fn start(host: &'a Host, agent: &'a Agent<'a>, script: &'static str) -> Self {
        let pm2 = Self {
            host,
            agent,
            script,
        };
        pm2.run(&["start", "ecosystem.config.js"]);
        pm2
    }

    /// Restarts the copy on `port`; it is in service again when this returns.
    #[track_caller]
    pub fn restart(&self, port: u16) {
        self.run(&["restart", &format!("app-{port}")]);
    }

    /// The standard error of the copy on `port`.
    pub fn errors(&self, port: u16) -> String {
        let log = format!("logs/app-{port}-error.log");
        fs::read_to_string(self.home().join(log)).unwrap_or_default()
    }

    /// The log of the daemon, which has the exit codes.
    pub fn events(&self) -> String {
        fs::read_to_string(self.home().join("pm2.log")).unwrap_or_default()
    }

    fn home(&self) -> PathBuf {
        self.agent.dir().join("pm2")
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) {
        let outcome: Outcome = self.command(arguments).output().expect("pm2").into();
        assert_eq!(outcome.code, 0, "{arguments:?}: {outcome:?}");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(apps_dir().join("node_modules/.bin/pm2"));
        command
            .args(arguments)
            .current_dir(examples().join("pm2"))
            .env("PM2_HOME", self.home())
            .env("APP_SCRIPT", apps_dir().join(self.script))
            .env("LB_AGENT", program())
            .env("LB_AGENT_CONTROL", self.agent.control())
            .env("LB_DRAIN_TIMEOUT", "3s")
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Pm2<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["kill"]).output();
    }
}
