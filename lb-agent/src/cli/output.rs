//! Standard output: whole lines, and no panic when the reader has gone.

use std::io::{self, IsTerminal as _, Write as _};

use super::failure::Failure;

/// Permitted appearance of the output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Colours may be used.
    pub(super) colour: bool,
    /// Columns that fit in a line.
    pub(super) width: usize,
}

impl Look {
    /// The abilities of standard output. A file or a pipe gets long lines, which suit grep.
    pub(super) fn of_stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self {
                colour: false,
                width: usize::MAX,
            };
        }
        let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col);
        Self {
            colour: may_colour(),
            width: if columns == 0 { 80 } else { columns.into() },
        }
    }
}

/// Whether the user has nothing against colours (<https://no-color.org>).
pub(super) fn may_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// "1 service", "2 services".
pub(super) fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// Prints one line.
pub(super) fn line(line: &str) -> Result<(), Failure> {
    text(&format!("{line}\n"))
}

/// Prints one line on standard error. A reader who has gone is nobody to tell.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints whole lines.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    goes_on(text).map(drop)
}

/// Prints whole lines. `false` when the reader has gone.
pub(super) fn goes_on(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        // `lb-agent status | head -1` has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written
            .map(|()| true)
            .map_err(|error| Failure::failed(format!("write the answer: {error}"))),
    }
}
