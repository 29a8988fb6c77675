//! The kernel's clocks for the times in its maps.

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME in nanoseconds, the clock of the affinity entries.
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CLOCK_MONOTONIC in seconds, the clock of the packet paths. Their programs read it as of the last
/// tick, since the exact time would cost as much as half of all their other work.
pub fn monotonic_s() -> u32 {
    clock_gettime(ClockId::Monotonic).tv_sec as u32
}
