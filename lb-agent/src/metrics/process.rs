//! Figures of the kernel on the agent's own process (proc(5)).

use std::fs;

use crate::control::stats::ProcessStats;

/// Ticks of processor time per second. USER_HZ is 100 on all present Linux systems.
const TICKS: f64 = 100.0;

/// Reads /proc/self; values that cannot be read stay zero.
pub fn read() -> ProcessStats {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/stat").unwrap_or_default();
    let [user, system, start] = ticks(&stat);
    ProcessStats {
        start_unix_seconds: boot_seconds(&kernel) + start / TICKS,
        resident_bytes: number_after(&status, "VmRSS:") * 1024,
        cpu_seconds: (user + system) / TICKS,
        // The directory itself is open while it is read.
        open_fds: fs::read_dir("/proc/self/fd")
            .map_or(0, |fds| fds.count().saturating_sub(1) as u64),
        max_fds: number_after(&limits, "Max open files"),
        threads: number_after(&status, "Threads:"),
    }
}

/// `utime`, `stime` and `starttime`: the fields 14, 15 and 22, counted from behind the name, which
/// may hold anything.
fn ticks(stat: &str) -> [f64; 3] {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    [11, 12, 19].map(|index| {
        fields
            .get(index)
            .and_then(|field| field.parse().ok())
            .unwrap_or(0.0)
    })
}

/// `btime` of /proc/stat.
fn boot_seconds(kernel: &str) -> f64 {
    number_after(kernel, "btime") as f64
}

fn number_after(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_has_open_files() {
        let now = read();
        assert!(now.resident_bytes > 100_000, "{now:?}");
        assert!(now.open_fds >= 3 && now.max_fds >= now.open_fds, "{now:?}");
        assert!(now.threads >= 1 && now.start_unix_seconds > 1e9, "{now:?}");
    }

    #[test]
    fn a_name_with_spaces_and_brackets_shifts_no_field() {
        let stat = "12 (a) b) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 777 1 2";
        assert_eq!(ticks(stat), [250.0, 50.0, 777.0]);
        assert_eq!(ticks(""), [0.0; 3]);
    }
}
