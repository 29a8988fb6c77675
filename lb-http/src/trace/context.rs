//! The value of `traceparent`: a version, a trace id, a parent id and flags.

use crate::forwarded;

/// Bytes of a value of version 00.
const LENGTH: usize = 55;
/// The flag of a sampled trace.
const SAMPLED: u8 = 1;

/// Lower-case hexadecimal digits that name a trace or a span.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id<const DIGITS: usize>([u8; DIGITS]);

/// The name of a trace.
pub(crate) type TraceId = Id<32>;
/// The name of a span.
pub(crate) type SpanId = Id<16>;

/// The trace of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    pub(crate) trace: TraceId,
    /// The parent id: the span by which the request was sent.
    pub(crate) span: SpanId,
    /// Whether the spans of the trace are recorded.
    pub(crate) is_sampled: bool,
}

impl<const DIGITS: usize> Id<DIGITS> {
    /// An id as it is written; `None` if it is malformed or zero.
    fn parse(text: &[u8]) -> Option<Self> {
        let digits: [u8; DIGITS] = text.try_into().ok()?;
        let is_known = digits.iter().all(is_digit) && digits.iter().any(|digit| *digit != b'0');
        is_known.then_some(Self(digits))
    }

    /// A new one.
    pub(crate) fn generate() -> Self {
        let mut digits = [b'0'; DIGITS];
        digits.copy_from_slice(&forwarded::id()[..DIGITS]);
        Self(digits)
    }

    /// Its digits.
    pub(crate) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<const DIGITS: usize> std::fmt::Debug for Id<DIGITS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TraceContext {
    /// Reads a value. Of a version after 00 the fields that are known count (section 3.2.4 of the specification).
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let version = byte(&known[..2])?;
        let is_whole = match version {
            0 => text.len() == LENGTH,
            0xff => false,
            _ => matches!(text.get(LENGTH), None | Some(b'-')),
        };
        let is_split = [2, 35, 52].iter().all(|place| known[*place] == b'-');
        if !is_whole || !is_split {
            return None;
        }
        Some(Self {
            trace: Id::parse(&known[3..35])?,
            span: Id::parse(&known[36..52])?,
            is_sampled: byte(&known[53..])? & SAMPLED != 0,
        })
    }

    /// A trace that begins here, and is sampled with a probability of so many millionths.
    pub(crate) fn begin(sample_millionths: u32) -> Self {
        let trace = TraceId::generate();
        // The id is random, so its end decides.
        let end = u64::from_str_radix(&trace.as_str()[16..], 16).unwrap_or(u64::MAX);
        Self {
            trace,
            span: SpanId::generate(),
            is_sampled: end % 1_000_000 < u64::from(sample_millionths),
        }
    }

    /// The value, of version 00.
    pub(crate) fn to_field(self) -> [u8; LENGTH] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        text[3..35].copy_from_slice(self.trace.as_bytes());
        text[36..52].copy_from_slice(self.span.as_bytes());
        text[54] += u8::from(self.is_sampled);
        text
    }
}

/// Upper-case digits are malformed.
fn is_digit(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The value of two digits.
fn byte(text: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(text).ok()?;
    let is_hex = text.bytes().all(|byte| is_digit(&byte));
    u8::from_str_radix(text, 16).ok().filter(|_| is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn value_is_read_and_written_again() {
        let context = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert_eq!(context.trace.as_str(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span.as_str(), "b7ad6b7169203331");
        assert!(context.is_sampled);
        assert_eq!(context.to_field(), VALID.as_bytes());
        let other = VALID.replace("-01", "-fe");
        assert!(!TraceContext::parse(other.as_bytes()).unwrap().is_sampled);
    }

    #[test]
    fn later_versions_may_have_more_fields() {
        for (text, is_valid) in [
            (VALID.replacen("00", "cc", 1), true),
            (VALID.replacen("00", "cc", 1) + "-what", true),
            (VALID.replacen("00", "cc", 1) + ".what", false),
            (VALID.to_owned() + "-what", false),
            (VALID.replacen("00", "ff", 1), false),
        ] {
            let context = TraceContext::parse(text.as_bytes());
            assert_eq!(context.is_some(), is_valid, "{text}");
        }
    }

    #[test]
    fn malformed_values_are_none() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
        for cut in 0..VALID.len() {
            assert_eq!(TraceContext::parse(&VALID.as_bytes()[..cut]), None);
        }
    }

    #[test]
    fn new_traces_are_valid_and_differ_and_some_are_sampled() {
        for (millionths, range) in [
            (0, 0..=0),
            (1_000_000, 10_000..=10_000),
            (100_000, 700..=1300),
        ] {
            let begun: Vec<_> = (0..10_000)
                .map(|_| TraceContext::begin(millionths))
                .collect();
            let sampled = begun.iter().filter(|context| context.is_sampled).count();
            assert!(range.contains(&sampled), "{sampled} of {millionths}");
            let [first, second, ..] = begun[..] else {
                panic!("nothing has begun");
            };
            assert!(first.trace != second.trace && first.span != second.span);
            assert_eq!(TraceContext::parse(&first.to_field()), Some(first));
        }
    }
}
