//! Changes settings of interfaces that the packet paths need, and restores them.
//!
//! The kernel answers route lookups only for interfaces that forward. Forwarding of IPv6 would end
//! the use of router advertisements there. The setting `accept_ra` = 2 keeps them in use.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// File in the state directory that keeps the original settings.
const FILE: &str = "network.json";

/// The changed settings, with their original values.
pub struct Sysctls {
    file: PathBuf,
    before: BTreeMap<String, String>,
}

impl Sysctls {
    /// The changes that an earlier agent has recorded in `state_dir`.
    pub fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let before = fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self { file, before }
    }

    /// Turns on forwarding for the interface `name`. Returns the settings that cannot be changed,
    /// each with a remedy.
    pub fn forward(&mut self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let ipv6 = format!("net/ipv6/conf/{name}");
        if read(&format!("{ipv6}/accept_ra")).is_ok_and(|value| value == "1")
            && read(&format!("{ipv6}/forwarding")).is_ok_and(|value| value == "0")
        {
            self.set(&format!("{ipv6}/accept_ra"), "2", &mut problems);
        }
        for key in [
            format!("net/ipv4/conf/{name}/forwarding"),
            format!("{ipv6}/forwarding"),
            // Without this setting, the stack drops the packets left to it on this interface,
            // unless all interfaces forward. It exists since Linux 6.17.
            format!("{ipv6}/force_forwarding"),
        ] {
            self.set(&key, "1", &mut problems);
        }
        problems
    }

    /// Whether the host forwards IPv4 packets that come by the interface `name`.
    pub fn forwards(name: &str) -> bool {
        read(&format!("net/ipv4/conf/{name}/forwarding")).is_ok_and(|value| value == "1")
    }

    fn set(&mut self, key: &str, value: &str, problems: &mut Vec<String>) {
        let now = match read(key) {
            Ok(now) => now,
            // The host has no IPv6, or the interface has just gone.
            Err(_) => return,
        };
        if now == value {
            return;
        }
        let known = self.before.contains_key(key);
        self.before.entry(key.to_owned()).or_insert(now);
        // The record comes first: a change without a record could not be restored.
        let done = if known { Ok(()) } else { self.keep() };
        if let Err(error) = done.and_then(|()| write(key, value)) {
            let name = key.replace('/', ".");
            problems.push(format!(
                "the packet paths need {name} = {value}: {error} (run sysctl -w '{name}={value}')"
            ));
            self.before.remove(key);
        }
    }

    fn keep(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.before)?;
        let fresh = self.file.with_extension("json.new");
        fs::write(&fresh, text)?;
        fs::rename(fresh, &self.file)
    }

    /// Restores all changed settings, and removes the record of them.
    pub fn restore(&mut self) {
        // The forwarding settings come first, as the kernel changes other settings with them.
        for (key, value) in self.before.iter().rev() {
            if let Err(error) = write(key, value) {
                tracing::debug!(%error, key, "a setting of an interface cannot be put back");
            }
        }
        self.before.clear();
        let _ = fs::remove_file(&self.file);
    }
}

/// The first and the last port that the host gives to its own connections.
pub fn local_ports() -> (u16, u16) {
    let range = read("net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = range.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first, last),
        // The kernel's default range.
        _ => (32_768, 60_999),
    }
}

/// Whether the stack forwards IPv6 between interfaces prepared by [`Sysctls::forward`]. It does
/// since Linux 6.17. Before, it does so only if all interfaces forward.
pub fn stack_forwards_ipv6() -> bool {
    path("net/ipv6/conf/all/force_forwarding").exists()
        || read("net/ipv6/conf/all/forwarding").is_ok_and(|value| value == "1")
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

fn read(key: &str) -> io::Result<String> {
    fs::read_to_string(path(key)).map(|text| text.trim().to_owned())
}

fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(path(key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_agent_changed_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut sysctls = Sysctls::open(dir.path());
        sysctls
            .before
            .insert("net/none/conf/x/forwarding".to_owned(), "0".to_owned());
        sysctls.keep().unwrap();
        let mut again = Sysctls::open(dir.path());
        assert_eq!(again.before, sysctls.before);
        again.restore();
        assert!(Sysctls::open(dir.path()).before.is_empty());
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn an_interface_that_does_not_exist_is_no_problem() {
        let dir = tempfile::tempdir().unwrap();
        let problems = Sysctls::open(dir.path()).forward("lbt-none");
        assert_eq!(problems, Vec::<String>::new());
    }
}
