//! Privileges of this process, and the checks that need them.

use caps::{CapSet, Capability};

use super::{Finding, Level};

/// Purpose of each capability.
const CAPABILITIES: [(Capability, &str); 6] = [
    (Capability::CAP_BPF, "loads programs and makes maps"),
    (Capability::CAP_PERFMON, "lets programs compare pointers"),
    (Capability::CAP_NET_ADMIN, "attaches programs"),
    (
        Capability::CAP_SYS_PTRACE,
        "borrows listening sockets of before the agent's start",
    ),
    (
        Capability::CAP_DAC_READ_SEARCH,
        "finds the sockets of other users' processes",
    ),
    (
        Capability::CAP_NET_BIND_SERVICE,
        "listens on ports below 1024",
    ),
];

/// Privileges of a process.
pub(super) struct Rights {
    /// Indices into [`CAPABILITIES`] of those that are missing.
    missing: Vec<usize>,
    /// Whether the effective user is root.
    pub(super) is_root: bool,
}

impl Rights {
    /// The privileges of this process.
    pub(super) fn own() -> Self {
        let lacks =
            |capability| !caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
        let all = CAPABILITIES.iter().enumerate();
        Self {
            missing: all
                .filter(|(_, (capability, _))| lacks(*capability))
                .map(|(index, _)| index)
                .collect(),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    fn has(&self, wanted: &[Capability]) -> bool {
        let mut missing = self.missing.iter().map(|index| CAPABILITIES[*index].0);
        !missing.any(|capability| wanted.contains(&capability))
    }

    /// Whether programs can be loaded, and hooks and pins be asked.
    pub(super) fn can_load(&self) -> bool {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON};
        self.has(&[CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN])
    }

    /// Whether the sockets of other users' processes can be seen.
    pub(super) fn can_see_processes(&self) -> bool {
        use Capability::{CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE};
        self.has(&[CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE])
    }

    /// The one finding about privileges, which names the checks that were skipped for want of them.
    pub(super) fn finding(&self, findings: &[Finding]) -> Finding {
        let check = "privileges";
        if self.missing.is_empty() {
            return Finding::ok(check, "all capabilities that are used");
        }
        let skipped = findings
            .iter()
            .filter(|finding| finding.level == Level::Skipped);
        let mut checks: Vec<&str> = skipped.map(|finding| finding.check.as_str()).collect();
        checks.dedup();
        let found = format!("{}; not looked at: {}", self.lack(), checks.join(", "));
        Finding::failure(
            check,
            found.trim_end_matches("; not looked at: "),
            Finding::AS_ROOT,
        )
    }

    fn lack(&self) -> String {
        if !self.is_root && self.missing.len() == CAPABILITIES.len() {
            return "this is not root".to_owned();
        }
        let named = self.missing.iter().map(|index| {
            let (capability, purpose) = CAPABILITIES[*index];
            format!("{capability} ({purpose})")
        });
        format!("missing: {}", named.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_that_were_skipped_are_one_finding() {
        let findings = [
            Finding::skipped("eBPF program"),
            Finding::ok("clock", "set"),
            Finding::skipped("pins"),
        ];
        let user = Rights {
            missing: (0..CAPABILITIES.len()).collect(),
            is_root: false,
        };
        let finding = user.finding(&findings);
        assert_eq!(finding.level, Level::Failure);
        assert_eq!(
            finding.found,
            "this is not root; not looked at: eBPF program, pins"
        );
        assert!(!user.can_load() && !user.can_see_processes());
        let container = Rights {
            missing: vec![3],
            is_root: true,
        };
        assert!(container.can_load() && !container.can_see_processes());
        let expected =
            "missing: CAP_SYS_PTRACE (borrows listening sockets of before the agent's start)";
        assert_eq!(container.finding(&[]).found, expected);
        let root = Rights {
            missing: Vec::new(),
            is_root: true,
        };
        assert_eq!(root.finding(&findings).level, Level::Ok);
    }
}
