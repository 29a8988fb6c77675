//! Giving up privileges: threads that serve clients need none.

use std::collections::HashSet;

use caps::errors::CapsError;
use caps::{CapSet, Capability};

use crate::dataplane::bpf::locks_maps;

/// Takes every capability from the calling thread, for good. Sockets and maps that are open stay
/// usable; where the kernel wants CAP_BPF for a look into an open map (before 5.19), that one is
/// kept. Other threads of the process keep theirs, so call it first thing in a thread.
///
/// # Errors
/// The kernel's; the thread should not go on then.
pub fn drop_capabilities() -> Result<(), CapsError> {
    // What is not permitted cannot come back; the rest is for whoever reads /proc.
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective] {
        caps::clear(None, set)?;
    }
    let bpf = Capability::CAP_BPF;
    if !(locks_maps() && caps::has_cap(None, CapSet::Permitted, bpf)?) {
        return caps::clear(None, CapSet::Permitted);
    }
    let kept = HashSet::from([bpf]);
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `CapInh`, `CapPrm`, `CapEff` and `CapAmb` of the calling thread.
    fn capabilities() -> Vec<String> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        status
            .lines()
            .filter(|line| line.starts_with("Cap") && !line.starts_with("CapBnd"))
            .map(|line| line.split_whitespace().last().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_thread_gives_up_all_it_has_and_no_other_does() {
        let before = capabilities();
        let after = std::thread::spawn(|| {
            drop_capabilities().unwrap();
            capabilities()
        });
        assert_eq!(after.join().unwrap(), ["0000000000000000"; 4]);
        assert_eq!(capabilities(), before);
    }
}
