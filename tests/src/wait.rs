//! Waiting on conditions, with deadlines.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time after which a test gives up waiting. A correct result takes a moment, and a machine may be
/// busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A deadline on this machine. `LB_TEST_SLOW` is the factor by which an emulated machine is slower.
pub fn slowed(deadline: Duration) -> Duration {
    let factor = std::env::var("LB_TEST_SLOW").ok();
    deadline * factor.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Waits until `condition` gives something.
///
/// # Panics
/// When it has not within [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let patience = slowed(PATIENCE);
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Tells threads to stop when it is dropped, by a panic too: their scope waits for them.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
