//! `Cache-Control` (RFC 9111, section 5.2) and its targeted form (RFC 9213).

use lb_http1::{Fields, Name};

/// Longest lifetime, seconds (RFC 9111, section 1.2.2).
const LONGEST: u64 = 1 << 31;

/// The directives of one message that a shared cache heeds. Times are seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    pub(crate) max_stale: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

impl Control {
    /// Of a request. `Pragma` counts where there is no `Cache-Control` (section 5.4).
    pub(crate) fn of_request(fields: &Fields) -> Self {
        if fields.has(Name::CacheControl) {
            return Self::of(fields.all(Name::CacheControl));
        }
        Self {
            no_cache: lb_http1::list::has(fields.all(Name::Pragma), "no-cache"),
            ..Self::default()
        }
    }

    /// Of an answer, and whether it is targeted: `CDN-Cache-Control` takes the place of `Cache-Control` and
    /// `Expires` if it is valid and not empty (RFC 9213, section 2.2).
    pub(crate) fn of_response(fields: &Fields) -> (Self, bool) {
        if fields.has(Name::CdnCacheControl)
            && let Some(targeted) = targeted(fields.all(Name::CdnCacheControl))
        {
            return (targeted, true);
        }
        (Self::of(fields.all(Name::CacheControl)), false)
    }

    fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut control = Self::default();
        for directive in lines.flat_map(members) {
            let (name, value) = match directive.iter().position(|byte| *byte == b'=') {
                Some(at) => (&directive[..at], Some(&directive[at + 1..])),
                None => (directive, None),
            };
            control.note(name, || seconds(value.map(unquoted)));
        }
        control
    }

    /// Notes one directive. Of a number that is there twice the smaller one counts.
    fn note(&mut self, name: &[u8], seconds: impl Fn() -> u64) {
        let least = |known: Option<u64>| {
            let seconds = seconds();
            Some(known.map_or(seconds, |known| known.min(seconds)))
        };
        match name.to_ascii_lowercase().as_slice() {
            b"no-store" => self.no_store = true,
            // With names of fields they hold for these alone; for all is on the safe side.
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => self.max_age = least(self.max_age),
            b"s-maxage" => self.s_maxage = least(self.s_maxage),
            b"min-fresh" => self.min_fresh = least(self.min_fresh),
            b"max-stale" => self.max_stale = least(self.max_stale),
            b"stale-while-revalidate" => {
                self.stale_while_revalidate = least(self.stale_while_revalidate);
            }
            b"stale-if-error" => self.stale_if_error = least(self.stale_if_error),
            _ => {}
        }
    }
}

/// The members of a list, whose commas in quotes part nothing.
fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |byte| {
        let is_escaped = std::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted && !is_escaped => escaped = true,
            b'"' if !is_escaped => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    })
    .map(<[u8]>::trim_ascii)
    .filter(|member| !member.is_empty())
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inside = value.strip_prefix(b"\"");
    inside
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
}

/// Digits. Everything else is as good as stale (RFC 9111, section 4.2.1).
fn seconds(value: Option<&[u8]>) -> u64 {
    let value = value.unwrap_or_default();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let number = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok());
    number.unwrap_or(LONGEST).min(LONGEST)
}

/// A dictionary of structured fields (RFC 9651, section 3.2). `None` if it is none, or empty.
fn targeted<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Control> {
    let mut control = Control::default();
    let mut is_empty = true;
    for member in lines.flat_map(members) {
        is_empty = false;
        let member = member.split(|byte| *byte == b';').next()?.trim_ascii();
        let (name, value) = match member.iter().position(|byte| *byte == b'=') {
            Some(at) => (&member[..at], Some(&member[at + 1..])),
            None => (member, None),
        };
        let is_key = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(byte)
        };
        let begins = name
            .first()
            .is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'*');
        if !begins || !name.iter().all(is_key) || value.is_some_and(|value| !is_bare(value)) {
            return None;
        }
        let is_number = |value: &[u8]| value.iter().all(u8::is_ascii_digit);
        if value.is_none_or(is_number) {
            control.note(name, || seconds(value));
        }
    }
    (!is_empty).then_some(control)
}

/// Whether a value may be a bare item: a number, a string, a token or a boolean.
fn is_bare(value: &[u8]) -> bool {
    let is_token = |byte: &u8| lb_http1::name::is_token_byte(*byte) || b":/".contains(byte);
    match value {
        [b'"', inside @ .., b'"'] => !inside.contains(&b'"'),
        [b'?', b'0' | b'1'] => true,
        [] => false,
        _ => value.iter().all(is_token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Control {
        Control::of([value.as_bytes()].into_iter())
    }

    #[test]
    fn c5_2_directives_are_read_in_any_case_and_with_quotes() {
        let read = of("Max-Age=\"60\", NO-CACHE, private=\"a, max-age=1\", x=\",\"");
        assert_eq!(read.max_age, Some(60));
        assert!(read.no_cache && read.private && !read.no_store);
        assert_eq!(of("max-age=5, max-age=3").max_age, Some(3));
        assert_eq!(of("max-age=99999999999999999999").max_age, Some(LONGEST));
        for stale in [
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.5",
            "max-age= 1",
            "max-age=a",
        ] {
            assert_eq!(of(stale).max_age, Some(0), "{stale}");
        }
        for none in [
            "",
            ",",
            "amax-age=1",
            "max-age =1",
            "x=\"max-age=1\"",
            "x=\"\\\", max-age=1\"",
        ] {
            assert_eq!(of(none), Control::default(), "{none}");
        }
    }

    #[test]
    fn t2_targeted_control_counts_if_it_is_valid() {
        let of = |targeted: &str| {
            let mut fields = Fields::new();
            fields.append(Name::CacheControl, b"no-store");
            fields.append(Name::CdnCacheControl, targeted.as_bytes());
            let (control, is_targeted) = Control::of_response(&fields);
            is_targeted.then_some(control.max_age)
        };
        assert_eq!(of("max-age=60"), Some(Some(60)));
        assert_eq!(of("max-age=60;x=1, foo=\"a\", bar=?1"), Some(Some(60)));
        assert_eq!(of("max-age=\"60\""), Some(None));
        for invalid in ["", "Max-Age=60", "max-age=", "=60", "max-age=6 0", "\"a\""] {
            assert_eq!(of(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn c5_4_pragma_counts_alone() {
        let mut fields = Fields::new();
        fields.append(Name::Pragma, b"no-cache");
        assert!(Control::of_request(&fields).no_cache);
        fields.append(Name::CacheControl, b"max-age=5");
        assert!(!Control::of_request(&fields).no_cache);
    }
}
