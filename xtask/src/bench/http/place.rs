//! What a program may use: a processor, and open files.

use super::super::net::{CLIENT_HOST, Net};
use crate::build::{self, Profile};
use crate::sh::CommandExt;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// Files that a proxy should be able to have open, two for each WebSocket.
const OPEN_FILES: u32 = 65_536;

/// Files that programs here can have open: [`OPEN_FILES`], or what this machine lets root have.
pub(super) fn open_files() -> u32 {
    static LIMIT: LazyLock<u32> = LazyLock::new(|| {
        let raised = Command::new("prlimit")
            .args([&format!("--nofile={OPEN_FILES}:{OPEN_FILES}"), "true"])
            .read();
        if raised.is_ok() {
            return OPEN_FILES;
        }
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let hard = line.and_then(|line| line.split_whitespace().nth(4)?.parse().ok());
        hard.unwrap_or(1024).min(OPEN_FILES)
    });
    *LIMIT
}

/// Which processor a program runs on.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// That of the proxies; only one of them works at a time.
    Proxies,
    /// That of clients and backends.
    Others,
}

/// A program on the client host.
pub(super) fn client(net: &Net, program: impl AsRef<OsStr>) -> Command {
    command(net, CLIENT_HOST, Place::Others, program)
}

/// A program on one of the hosts, in its place.
pub(super) fn command(net: &Net, host: &str, place: Place, program: impl AsRef<OsStr>) -> Command {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = match place {
        Place::Others if processors > 1 => "1",
        _ => "0",
    };
    let mut command = net.command(host, "prlimit");
    command
        .arg(format!("--nofile={0}:{0}", open_files()))
        .args(["taskset", "--cpu-list", processor])
        .arg(program);
    command
}

/// The program that makes load and echoes.
pub(super) fn load_program() -> PathBuf {
    build::program(Profile::Dist, "lb-load")
}
