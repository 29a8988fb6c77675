//! Removes the hosts and pins of killed tests, with the processes on the hosts. Each is called
//! `lbt-…` with the process id of its test. If that process is gone, the host or pin is left over.

use crate::sh::{CommandExt, say};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Removes the leftovers. One that cannot be removed disturbs only a test with the same process id.
pub(super) fn remove() {
    for host in names("/run/netns").filter(|name| is_nobodys(name)) {
        say(format!("removing {host}, which a test has left behind"));
        let running = Command::new("ip").args(["netns", "pids", &host]).read();
        for pid in running.unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &host]).status();
    }
    for pins in names("/sys/fs/bpf").filter(|name| is_nobodys(name)) {
        say(format!("removing the pins {pins} of a test that is gone"));
        let _ = fs::remove_dir_all(Path::new("/sys/fs/bpf").join(pins));
    }
}

fn names(dir: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn is_nobodys(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// The id of the process that has made `name`.
fn owner(name: &str) -> Option<u32> {
    let words = name.strip_prefix("lbt-")?.split('-');
    words.filter_map(|word| word.parse().ok()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_made_something_is_in_its_name() {
        assert_eq!(owner("lbt-4711-3-balancer"), Some(4711));
        assert_eq!(owner("lbt-packets-4711-0"), Some(4711));
        assert_eq!(owner("lb-agent"), None);
        assert_eq!(owner("4711"), None);
        assert!(!is_nobodys(&format!("lbt-{}-0-x", std::process::id())));
    }
}
