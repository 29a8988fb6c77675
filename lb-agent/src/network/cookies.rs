//! SYN cookies of this host's listeners: the kernel's setting.

use std::fs;

/// Name of the setting.
pub const SETTING: &str = "net.ipv4.tcp_syncookies";

/// The sentence for the operator if listeners of this host send no SYN cookies. 1, the kernel's default, lets a
/// listener send them while its queue is full, and 2 at any time.
pub fn problem() -> Option<String> {
    let value = fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies").ok()?;
    problem_of(value.trim())
}

fn problem_of(value: &str) -> Option<String> {
    (value == "0").then(|| {
        format!("a SYN flood shuts clients out: {SETTING} is 0 (run sysctl -w {SETTING}=1)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_of_0_is_a_problem() {
        assert!(problem_of("0").unwrap().contains("sysctl -w"));
        assert_eq!(problem_of("1"), None);
        assert_eq!(problem_of("2"), None);
    }
}
