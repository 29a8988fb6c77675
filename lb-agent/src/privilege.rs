//! Giving up privileges: of the process at its start, and of every thread that needs none.
//!
//! Capabilities belong to threads, and a new thread has those of the one that starts it. The main thread, which
//! loads programs, changes maps and opens sockets, keeps what [`NEEDED`] lists; each other one calls [`keep`].

mod maps;
mod worker;

use std::io;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
pub use worker::Worker;

use rustix::thread::{
    CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits,
    set_no_new_privs,
};

/// Capabilities that the agent needs. The systemd unit says the purpose of each.
pub const NEEDED: [Capability; 7] = [
    Capability::CAP_NET_RAW,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Capabilities cannot be set.
    #[error("capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// The kernel refused a setting of the process.
    #[error("{0}: {1}")]
    Process(&'static str, #[source] io::Error),
}

/// Makes the process one that can gain no privileges any more, and whose memory no other process reads. It
/// gains none by execve(2), under any user or from any file (PR_SET_NO_NEW_PRIVS, SECBIT_NOROOT, bounding
/// and ambient set). There is no core dump, and no ptrace(2) by its own user. Beside [`NEEDED`] the calling
/// thread keeps CAP_CHOWN, for the control socket, until it calls [`settle`]. To be called before there is
/// another thread.
///
/// # Errors
/// The kernel's; the agent should not go on then.
pub fn confine() -> Result<(), PrivilegeError> {
    let process =
        |what| move |error: rustix::io::Errno| PrivilegeError::Process(what, error.into());
    set_no_new_privs(true).map_err(process("PR_SET_NO_NEW_PRIVS"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(process("PR_SET_DUMPABLE"))?;
    let needed = needed()?;
    // A process that may not change these has got them from a supervisor that may.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        let bounding = caps::read(None, CapSet::Bounding)?;
        for capability in bounding.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
        let bits = capabilities_secure_bits().map_err(process("PR_GET_SECUREBITS"))?;
        set_capabilities_secure_bits(bits | secure_bits()).map_err(process("PR_SET_SECUREBITS"))?;
    }
    let mut kept = needed;
    kept.insert(Capability::CAP_CHOWN);
    restrict(&kept)?;
    Ok(())
}

/// Takes from the calling thread the capabilities that only the start needed.
///
/// # Errors
/// The kernel's.
pub fn settle() -> Result<(), PrivilegeError> {
    Ok(restrict(&needed()?)?)
}

/// Takes every capability from the calling thread but `wanted`, for good; call it first thing in a thread.
/// Sockets and maps that are open stay usable. If the kernel wants CAP_BPF for a look into an open map
/// (before 5.19), that one is kept. Other threads of the process keep theirs.
///
/// # Errors
/// The kernel's; the thread should not go on then.
pub fn keep(wanted: &[Capability]) -> Result<(), CapsError> {
    restrict(&wanted.iter().copied().collect())?;
    let bpf = Capability::CAP_BPF;
    if wanted.contains(&bpf) || !caps::has_cap(None, CapSet::Permitted, bpf)? {
        return Ok(());
    }
    // The kernel is asked without it.
    caps::drop(None, CapSet::Effective, bpf)?;
    match maps::are_locked() {
        true => caps::raise(None, CapSet::Effective, bpf),
        false => caps::drop(None, CapSet::Permitted, bpf),
    }
}

/// The same in a thread that does its work in any case: a failure is logged.
pub fn keep_or_warn(wanted: &[Capability]) {
    if let Err(error) = keep(wanted) {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        tracing::warn!(%error, name, "a thread keeps capabilities that it does not need");
    }
}

/// Leaves the calling thread no more than `kept`, and CAP_BPF.
fn restrict(kept: &CapsHashSet) -> Result<(), CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let held = caps::read(None, CapSet::Permitted)?;
    let kept = |capability: &&Capability| {
        kept.contains(*capability) || **capability == Capability::CAP_BPF
    };
    let left: CapsHashSet = held.iter().filter(kept).copied().collect();
    // A capability that is not permitted cannot come back.
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)
}

/// [`NEEDED`], and CAP_SYS_ADMIN if it stands for a younger capability that the kernel lacks.
fn needed() -> Result<CapsHashSet, CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let mut needed = CapsHashSet::from(NEEDED);
    let younger = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    if !younger.iter().all(|capability| held.contains(capability)) {
        needed.insert(Capability::CAP_SYS_ADMIN);
    }
    Ok(needed)
}

fn secure_bits() -> CapabilitiesSecureBits {
    CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These fields of the calling thread in /proc/thread-self/status.
    fn status(names: &[&str]) -> Vec<String> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = |name: &&str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(*name)?.strip_prefix(':'));
            value.unwrap().trim().to_owned()
        };
        names.iter().map(field).collect()
    }

    fn capabilities() -> Vec<String> {
        status(&["CapInh", "CapPrm", "CapEff", "CapAmb"])
    }

    fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn thread_gives_up_all_it_has_and_no_other_does() {
        let before = capabilities();
        let after = in_a_thread(|| {
            keep(&[]).unwrap();
            capabilities()
        });
        assert_eq!(after, ["0000000000000000"; 4]);
        assert_eq!(capabilities(), before);
    }

    #[test]
    fn thread_keeps_what_it_wants_of_what_it_has() {
        let reads = Capability::CAP_DAC_READ_SEARCH;
        let has = caps::has_cap(None, CapSet::Permitted, reads).unwrap();
        let kept = in_a_thread(move || {
            keep(&[reads]).unwrap();
            capabilities()
        });
        let expected = match has {
            true => "0000000000000004",
            false => "0000000000000000",
        };
        assert_eq!(kept[1..3], [expected, expected]);
    }

    #[test]
    fn confined_thread_gains_nothing_by_execve() {
        let names = ["NoNewPrivs", "CapBnd", "CapAmb", "CapPrm"];
        let (before, own, child) = in_a_thread(move || {
            let before = status(&["CapPrm"]);
            confine().unwrap();
            settle().unwrap();
            let own = status(&names);
            let grep = "^CapPrm";
            let child = std::process::Command::new("grep");
            let child = { child }
                .args([grep, "/proc/self/status"])
                .output()
                .unwrap();
            (before, own, String::from_utf8(child.stdout).unwrap())
        });
        assert_eq!(
            (own[0].as_str(), own[2].as_str()),
            ("1", "0000000000000000")
        );
        let child = child.split_whitespace().last().unwrap().to_owned();
        assert_eq!(child, "0000000000000000");
        let needed = NEEDED
            .iter()
            .fold(0u64, |mask, capability| mask | capability.bitmask());
        let mask = |text: &str| u64::from_str_radix(text, 16).unwrap();
        assert_eq!(mask(&own[3]), mask(&before[0]) & needed);
        // Without CAP_SETPCAP the bounding set is that of the parent process.
        if mask(&before[0]) & Capability::CAP_SETPCAP.bitmask() != 0 {
            assert_eq!(mask(&own[1]) & !needed, 0);
        }
    }
}
