//! Programs on a host, ended with the test.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use crate::wait;

/// A running program; killed and reaped when dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    output: PathBuf,
    read: usize,
}

impl Process {
    /// Starts `command` with its output in the file `output`.
    #[track_caller]
    pub fn start(mut command: Command, output: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(output)
            .unwrap();
        let read = fs::read_to_string(output)
            .unwrap_or_default()
            .lines()
            .count();
        command
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            output: output.to_owned(),
            read,
        }
    }

    /// Waits for a line that contains `text`, among those it has printed since the last call.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let what = format!("a line with {text:?} from {}", self.output.display());
        let line = wait::until(&what, || {
            // `text` is searched first: the process may print the line and end at once.
            let has_ended = self.child.try_wait().unwrap().is_some();
            let printed = self.printed();
            // Bytes after the last line break are not a whole line yet.
            let whole = printed.rsplit_once('\n').map_or("", |(lines, _)| lines);
            let mut lines = whole.lines().enumerate().skip(self.read);
            let found = lines.find(|(_, line)| line.contains(text));
            let found = found.map(|(number, line)| (number, line.to_owned()));
            assert!(
                found.is_some() || !has_ended,
                "{what}, but it has ended:\n{}",
                self.printed()
            );
            found
        });
        self.read = line.0 + 1;
        line.1
    }

    /// Writes a line to it.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        writeln!(stdin, "{line}").expect("it reads its input");
    }

    /// All output of the process so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait::until("the end of a program", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
