//! The machine that a command runs on: its programs, directories and rights.
//!
//! Setup asks every question about a machine here. So tests can hand in a machine with stand-ins as
//! programs.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A machine, real or made by a test.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Directories of programs, in the order in which they are searched.
    pub(crate) search: Vec<PathBuf>,
    /// The cargo that runs this program.
    pub(crate) cargo: PathBuf,
    /// The directory of `cargo install`; its programs are below `bin`.
    pub(crate) cargo_home: PathBuf,
    /// The directory of rustup's toolchains.
    pub(crate) rustup_home: PathBuf,
    /// The directory `/etc`, or a test's.
    pub(crate) etc: PathBuf,
    /// Whether this program runs as root.
    pub(crate) root: bool,
    /// Variables for the programs that are run, beside those of this process.
    pub(crate) vars: Vec<(&'static str, OsString)>,
}

impl Machine {
    /// The machine that this program runs on.
    pub(crate) fn this() -> Self {
        let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let home_of = |name: &str, usual: &str| {
            env::var_os(name).map_or_else(|| home.join(usual), PathBuf::from)
        };
        let cargo_home = home_of("CARGO_HOME", ".cargo");
        let path = env::var_os("PATH").unwrap_or_default();
        // Directories that are missing in the PATH of many users.
        let usual = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
        Self {
            search: env::split_paths(&path)
                .chain([cargo_home.join("bin")])
                .chain(usual.map(PathBuf::from))
                .collect(),
            cargo: env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from),
            cargo_home,
            rustup_home: home_of("RUSTUP_HOME", ".rustup"),
            etc: "/etc".into(),
            root: std::fs::metadata("/proc/self").is_ok_and(|proc| proc.uid() == 0),
            vars: Vec::new(),
        }
    }

    /// The first program called `name`.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        self.find_all(name).next()
    }

    /// Every program called `name`, in the order in which they are searched.
    pub(crate) fn find_all(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let files = self.search.iter().map(move |dir| dir.join(name));
        files.filter(|file| is_executable(file))
    }

    /// A command with this machine's variables.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.envs(self.vars.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A field of `/etc/os-release`, without quotes.
    pub(crate) fn os_release(&self, field: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.etc.join("os-release")).ok()?;
        field_of(&text, field)
    }
}

fn field_of(os_release: &str, field: &str) -> Option<String> {
    let mut fields = os_release.lines().filter_map(|line| line.split_once('='));
    let (_, value) = fields.find(|(name, _)| *name == field)?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_os_release_are_read_with_and_without_quotes() {
        let text = "ID=debian\nVERSION_CODENAME=bookworm\nID_LIKE=\"rhel fedora\"\n";
        assert_eq!(field_of(text, "ID").as_deref(), Some("debian"));
        assert_eq!(field_of(text, "ID_LIKE").as_deref(), Some("rhel fedora"));
        assert_eq!(field_of(text, "VERSION"), None);
    }
}
