//! `Range` and `If-Range` (RFC 9110, section 14).

use std::ops::Range;

use lb_http1::{Fields, Name};

use super::conditional::seconds;

/// Ranges of one request; more of them get the whole file (section 14.2).
const MOST: usize = 16;

/// The part of a file that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// All of it.
    Whole,
    /// Nothing that the file has.
    Unsatisfiable,
    /// These bytes, at least one range.
    Parts(Vec<Range<u64>>),
}

/// The ranges that the fields of a GET ask for, of a file with `size` bytes. It has the entity tag `tag`, and
/// `modified` is the time in its `Last-Modified`, if that tells two versions apart.
pub(crate) fn ranges(fields: &Fields, tag: &str, modified: Option<u64>, size: u64) -> Ranges {
    let Some(value) = fields.only(Name::Range) else {
        return Ranges::Whole;
    };
    if let Some(condition) = fields.get(Name::IfRange)
        && !holds(condition, tag, modified)
    {
        return Ranges::Whole;
    }
    let value = std::str::from_utf8(value).unwrap_or_default();
    // Of nothing there is no part to speak of.
    let read = Some(value).filter(|_| size > 0);
    read.and_then(|value| parse(value, size))
        .unwrap_or(Ranges::Whole)
}

/// `If-Range` compares strongly (section 13.1.5).
fn holds(condition: &[u8], tag: &str, modified: Option<u64>) -> bool {
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return condition == tag.as_bytes();
    }
    let date = std::str::from_utf8(condition).ok().and_then(seconds);
    date.is_some() && date == modified
}

/// `None` for a header that is to be ignored.
fn parse(value: &str, size: u64) -> Option<Ranges> {
    let (unit, specs) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut parts = Vec::new();
    let mut count = 0;
    for spec in specs
        .split(',')
        .map(str::trim)
        .filter(|spec| !spec.is_empty())
    {
        count += 1;
        parts.extend(range(spec, size)?);
    }
    // Ranges that overlap may ask for more than the file has, time and again.
    let asked: u64 = parts.iter().map(|part| part.end - part.start).sum();
    match parts.len() {
        _ if count == 0 || count > MOST || asked > size => None,
        0 => Some(Ranges::Unsatisfiable),
        _ => Some(Ranges::Parts(parts)),
    }
}

/// One range; `Some(None)` if the file does not reach so far.
fn range(spec: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = spec.split_once('-')?;
    let (first, last) = (first.trim_end(), last.trim_start());
    if first.is_empty() {
        let length = number(last)?.min(size);
        return Some((length > 0).then(|| size - length..size));
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        number(last)?
    };
    if last < first {
        return None;
    }
    Some((first < size).then(|| first..last.saturating_add(1).min(size)))
}

/// Digits. A number that is too large is beyond the end of every file.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(value: &str) -> Ranges {
        let mut fields = Fields::new();
        fields.append(Name::Range, value.as_bytes());
        ranges(&fields, "\"x\"", Some(784_111_777), 100)
    }

    fn part(part: Range<u64>) -> Ranges {
        parts(std::slice::from_ref(&part))
    }

    fn parts(parts: &[Range<u64>]) -> Ranges {
        Ranges::Parts(parts.to_vec())
    }

    #[test]
    fn h14_1_2_ranges_of_bytes() {
        assert_eq!(of("bytes=0-0"), part(0..1));
        assert_eq!(of("bytes=0-99"), part(0..100));
        assert_eq!(of("bytes=10-"), part(10..100));
        assert_eq!(of("bytes=10-1000"), part(10..100));
        assert_eq!(of("bytes=-1"), part(99..100));
        assert_eq!(of("bytes=-1000"), part(0..100));
        assert_eq!(of("Bytes= 1-2 , ,-3"), parts(&[1..3, 97..100]));
        assert_eq!(of("bytes=99-99999999999999999999999"), part(99..100));
        assert_eq!(of("bytes=5-6,200-"), part(5..7));
        assert_eq!(of("bytes=5-6,1-2"), parts(&[5..7, 1..3]));
    }

    #[test]
    fn h14_2_nonsense_is_ignored_and_bytes_beyond_the_end_are_refused() {
        for nonsense in [
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=1",
            "lines=1-2",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=--1",
            "bytes=0x1-2",
            "",
            "=1-2",
            "bytes=1-2,x",
        ] {
            assert_eq!(of(nonsense), Ranges::Whole, "{nonsense}");
        }
        for beyond in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=100-,200-"] {
            assert_eq!(of(beyond), Ranges::Unsatisfiable, "{beyond}");
        }
    }

    #[test]
    fn h14_2_many_ranges_and_those_that_overlap_get_the_whole() {
        assert_eq!(of("bytes=0-,0-"), Ranges::Whole);
        assert_eq!(of("bytes=0-60,50-"), Ranges::Whole);
        let many = |count: u64| {
            let specs: Vec<String> = (0..count).map(|at| format!("{at}-{at}")).collect();
            of(&format!("bytes={}", specs.join(",")))
        };
        assert!(matches!(many(16), Ranges::Parts(parts) if parts.len() == 16));
        assert_eq!(many(17), Ranges::Whole);
    }

    #[test]
    fn h14_2_empty_file_has_no_part() {
        let mut fields = Fields::new();
        fields.append(Name::Range, b"bytes=0-");
        assert_eq!(ranges(&fields, "\"x\"", None, 0), Ranges::Whole);
    }

    #[test]
    fn h13_1_5_if_range_wants_the_same_version() {
        let of = |condition: &str, modified| {
            let mut fields = Fields::new();
            fields.append(Name::Range, b"bytes=0-0");
            fields.append(Name::IfRange, condition.as_bytes());
            ranges(&fields, "\"x\"", modified, 100) != Ranges::Whole
        };
        let then = Some(784_111_777);
        assert!(of("\"x\"", then));
        assert!(!of("\"y\"", then));
        assert!(!of("W/\"x\"", then));
        assert!(of("Sun, 06 Nov 1994 08:49:37 GMT", then));
        assert!(!of("Sun, 06 Nov 1994 08:49:38 GMT", then));
        assert!(!of("Sun, 06 Nov 1994 08:49:37 GMT", None));
        assert!(!of("nonsense", None));
    }

    proptest! {
        #[test]
        fn parts_are_within_the_file(value in "bytes=[0-9, -]{0,40}", size in 0u64..200) {
            let mut fields = Fields::new();
            fields.append(Name::Range, value.as_bytes());
            if let Ranges::Parts(parts) = ranges(&fields, "\"x\"", None, size) {
                prop_assert!(!parts.is_empty() && parts.len() <= MOST);
                for part in parts {
                    prop_assert!(part.start < part.end && part.end <= size);
                }
            }
        }
    }
}
