//! The kernel: its version, its features by trial, and the file systems it needs.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::rights::Rights;
use super::{Finding, Level};
use crate::dataplane::bpf::kernel::{Kernel, OLDEST_KERNEL};
use crate::dataplane::bpf::probe::{self, Tried};
use lb_config::{Config, DataPlane};

/// BPF_FS_MAGIC, `linux/magic.h`.
const BPFFS: u64 = 0xcafe_4a11;

pub(super) fn examine(config: &Config, rights: &Rights) -> Vec<Finding> {
    let mut findings = vec![version(&Kernel::running())];
    if config.agent.data_plane == DataPlane::Userspace {
        findings.push(Finding::ok(
            "data plane",
            "userspace, as configured: nothing of BPF is needed",
        ));
        return findings;
    }
    findings.push(bpffs(&config.agent.pin_dir));
    findings.push(cgroup(config));
    findings.push(btf());
    findings.push(jit());
    if !rights.can_load() {
        findings.extend(["kernel feature", "eBPF program"].map(Finding::skipped));
        return findings;
    }
    let fallback = config.agent.data_plane == DataPlane::Auto;
    let mut programs = probe::programs();
    programs.sort_by(|a, b| a.what.cmp(&b.what));
    findings.extend(tried("kernel feature", probe::features(), fallback));
    findings.extend(tried("eBPF program", programs, fallback));
    findings
}

fn version(kernel: &Kernel) -> Finding {
    let release = &kernel.release;
    if !kernel.is_too_old() {
        return Finding::ok("kernel", release.as_str());
    }
    let (major, minor) = OLDEST_KERNEL;
    Finding::failure(
        "kernel",
        format!("{release} is older than {major}.{minor}"),
        "install a newer kernel, or set data_plane = \"userspace\"",
    )
}

fn bpffs(pin_dir: &Path) -> Finding {
    let check = "bpf file system";
    let there = pin_dir.ancestors().find(|dir| dir.exists());
    let there = there.unwrap_or(Path::new("/"));
    match rustix::fs::statfs(there) {
        Ok(stat) if stat.f_type as u64 == BPFFS => {
            Finding::ok(check, format!("{} is in one", pin_dir.display()))
        }
        Ok(_) => Finding::failure(
            check,
            format!("{} is not in one", pin_dir.display()),
            "mount -t bpf bpf /sys/fs/bpf (systemd does that by itself)",
        ),
        Err(error) => Finding::failure(
            check,
            format!("{}: {error}", there.display()),
            Finding::AS_ROOT,
        ),
    }
}

fn cgroup(config: &Config) -> Finding {
    let check = "cgroup v2";
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let dir = fields.next()?;
        (fields.next()? == "cgroup2").then(|| dir.to_owned())
    });
    match (&config.agent.cgroup, mounted) {
        (Some(dir), _) if dir.is_dir() => Finding::ok(check, dir.display().to_string()),
        (Some(dir), _) => Finding::failure(
            check,
            format!("there is no {}", dir.display()),
            "name another in [agent] cgroup, or leave it out",
        ),
        (None, Some(dir)) => Finding::ok(check, format!("mounted at {dir}")),
        (None, None) => Finding::failure(
            check,
            "no hierarchy is mounted",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

fn btf() -> Finding {
    let file = "/sys/kernel/btf/vmlinux";
    if Path::new(file).exists() {
        return Finding::ok("kernel BTF", file);
    }
    Finding::warning(
        "kernel BTF",
        format!("there is no {file}"),
        "use a kernel with CONFIG_DEBUG_INFO_BTF, if programs are refused",
    )
}

fn jit() -> Finding {
    let file = "/proc/sys/net/core/bpf_jit_enable";
    let check = "BPF compiler";
    let setting = match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Finding::skipped(check);
        }
        setting => setting.unwrap_or_default(),
    };
    match setting.trim() {
        "0" => Finding::warning(
            check,
            "off: programs are interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        _ => Finding::ok(check, "on"),
    }
}

/// Results of the trials. Without a needed feature, `auto` still serves in user space.
fn tried(check: &str, tried: Vec<Tried>, fallback: bool) -> Vec<Finding> {
    let finding = |tried: Tried| match tried.outcome {
        Ok(()) => Finding::ok(check, tried.what),
        Err(error) => {
            let (level, remedy) = match (tried.needed, fallback) {
                (false, _) => (
                    Level::Warning,
                    "needed for packet paths only; a newer kernel has it",
                ),
                (true, true) => (
                    Level::Failure,
                    "run this as root on a kernel that has it; until then, connections go through \
                     the agent (data_plane = \"userspace\")",
                ),
                (true, false) => (
                    Level::Failure,
                    "run this as root on a kernel that has it, or set data_plane = \"userspace\"",
                ),
            };
            Finding::bad(level, check, format!("{}: {error}", tried.what), remedy)
        }
    };
    tried.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_a_failure_and_says_what_to_do() {
        let version = |release| version(&Kernel::of(release));
        assert_eq!(version("6.18.1-amd64").level, Level::Ok);
        assert_eq!(version("6.1.0").level, Level::Ok);
        let old = version("5.10.0-30-amd64");
        assert_eq!(old.level, Level::Failure);
        assert!(old.remedy.unwrap().contains("userspace"));
        assert_eq!(version("").level, Level::Failure);
    }
}
