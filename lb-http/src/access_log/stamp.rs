//! The time of day in the words of the log, put together once a second. In UTC, so that no line
//! needs the rules of a time zone.

use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// `[21/Nov/2026:10:00:00 +0000]`
const COMBINED: usize = 28;
/// `2026-11-21T10:00:00`
const ISO: usize = 19;

struct Stamp {
    second: u64,
    combined: [u8; COMBINED],
    iso: [u8; ISO],
}

thread_local! {
    static STAMP: RefCell<Stamp> = RefCell::new(Stamp::of(0));
}

/// Adds the time now as the combined format has it.
pub(super) fn combined(out: &mut Vec<u8>) {
    with_now(|stamp, _| out.extend_from_slice(&stamp.combined));
}

/// Adds the time now as RFC 3339 has it, in milliseconds.
pub(super) fn iso(out: &mut Vec<u8>) {
    with_now(|stamp, ms| {
        out.extend_from_slice(&stamp.iso);
        let digit = |n: u32| b'0' + n as u8;
        out.extend_from_slice(&[
            b'.',
            digit(ms / 100),
            digit(ms / 10 % 10),
            digit(ms % 10),
            b'Z',
        ]);
    });
}

fn with_now(write: impl FnOnce(&Stamp, u32)) {
    // The coarse clock is a read of memory, and some milliseconds late.
    let now = clock_gettime(ClockId::RealtimeCoarse);
    let second = now.tv_sec as u64;
    STAMP.with_borrow_mut(|stamp| {
        if stamp.second != second {
            *stamp = Stamp::of(second);
        }
        write(stamp, now.tv_nsec as u32 / 1_000_000);
    });
}

impl Stamp {
    fn of(second: u64) -> Self {
        const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let time = UNIX_EPOCH + Duration::from_secs(second);
        let text = humantime::format_rfc3339_seconds(time).to_string();
        let text = text.as_bytes();
        let month = usize::from((text[5] - b'0') * 10 + (text[6] - b'0')) - 1;
        let mut combined = *b"[dd/mmm/yyyy:hh:mm:ss +0000]";
        combined[1..3].copy_from_slice(&text[8..10]);
        combined[4..7].copy_from_slice(&MONTHS[month * 3..][..3]);
        combined[8..12].copy_from_slice(&text[..4]);
        combined[13..21].copy_from_slice(&text[11..19]);
        let mut iso = [0; ISO];
        iso.copy_from_slice(&text[..ISO]);
        Self {
            second,
            combined,
            iso,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_reads_as_both_formats_have_it() {
        let stamp = Stamp::of(1_795_255_205);
        assert_eq!(&stamp.combined, b"[21/Nov/2026:10:00:05 +0000]");
        assert_eq!(&stamp.iso, b"2026-11-21T10:00:05");
        assert_eq!(&Stamp::of(0).combined, b"[01/Jan/1970:00:00:00 +0000]");
    }

    #[test]
    fn the_time_now_is_between_before_and_after() {
        let seconds = || clock_gettime(ClockId::RealtimeCoarse).tv_sec as u64;
        let (before, mut out) = (seconds(), Vec::new());
        iso(&mut out);
        let text = String::from_utf8(out).unwrap();
        let time = humantime::parse_rfc3339(&text).unwrap();
        let second = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((before..=seconds()).contains(&second), "{text}");
    }
}
