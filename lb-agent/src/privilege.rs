//! Giving up privileges: threads that serve clients need none.

use caps::CapSet;
use caps::errors::CapsError;

/// Takes every capability from the calling thread, for good. Sockets and maps that are open stay
/// usable. Others threads of the process keep theirs, so call it first thing in a thread.
///
/// # Errors
/// The kernel's; the thread should not go on then.
pub fn drop_capabilities() -> Result<(), CapsError> {
    // What is not permitted cannot come back; the rest is for whoever reads /proc.
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set)?;
    }
    Ok(())
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
