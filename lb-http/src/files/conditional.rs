//! Conditional requests for a file, in the order of RFC 9110, section 13.2.2.

use std::time::UNIX_EPOCH;

use lb_http1::{Fields, Name, list};

/// The verdict on the conditions of a GET or HEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They hold, or there are none.
    Send,
    /// 304: the client has it already.
    NotModified,
    /// 412: it is not the one that the client means.
    Failed,
}

/// Judges the conditions in `fields` for a file with this entity tag, last modified at so many seconds after 1970.
pub(crate) fn judge(fields: &Fields, tag: &str, modified: Option<u64>) -> Verdict {
    if fields.has(Name::IfMatch) {
        let mut wanted = list::members(fields.all(Name::IfMatch));
        if !wanted.any(|member| member == b"*" || member == tag.as_bytes()) {
            return Verdict::Failed;
        }
    } else if let (Some(date), Some(modified)) = (date(fields, Name::IfUnmodifiedSince), modified)
        && modified > date
    {
        return Verdict::Failed;
    }
    if fields.has(Name::IfNoneMatch) {
        let mut known = list::members(fields.all(Name::IfNoneMatch));
        let is_known = known.any(|member| member == b"*" || strong(member) == tag.as_bytes());
        return match is_known {
            true => Verdict::NotModified,
            false => Verdict::Send,
        };
    }
    match (date(fields, Name::IfModifiedSince), modified) {
        (Some(date), Some(modified)) if modified <= date => Verdict::NotModified,
        _ => Verdict::Send,
    }
}

/// The tag without the mark of a weak one: most conditions compare weakly (section 8.8.3.2).
fn strong(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// The date in the field called `name`, in seconds since 1970. One that is none is as if it were not there.
fn date(fields: &Fields, name: Name) -> Option<u64> {
    let text = std::str::from_utf8(fields.only(name)?).ok()?;
    seconds(text)
}

/// A date of HTTP in seconds since 1970 (section 5.6.7).
pub(super) fn seconds(text: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"x\"";
    const MODIFIED: u64 = 784_111_777;
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";

    fn verdict(lines: &[(Name, &str)]) -> Verdict {
        let mut fields = Fields::new();
        for (name, value) in lines {
            fields.append(*name, value.as_bytes());
        }
        judge(&fields, TAG, Some(MODIFIED))
    }

    #[test]
    fn h13_1_each_condition_by_itself() {
        use Name::{IfMatch, IfModifiedSince, IfNoneMatch, IfUnmodifiedSince};
        use Verdict::{Failed, NotModified, Send};
        for (name, value, wanted) in [
            (IfMatch, "\"x\"", Send),
            (IfMatch, "\"y\", \"x\"", Send),
            (IfMatch, "*", Send),
            (IfMatch, "\"y\"", Failed),
            (IfMatch, "W/\"x\"", Failed),
            (IfMatch, "", Failed),
            (IfNoneMatch, "\"x\"", NotModified),
            (IfNoneMatch, "W/\"x\"", NotModified),
            (IfNoneMatch, "\"a\" , \"x\"", NotModified),
            (IfNoneMatch, "*", NotModified),
            (IfNoneMatch, "\"y\"", Send),
            (IfNoneMatch, "x", Send),
            (IfModifiedSince, THEN, NotModified),
            (IfModifiedSince, AFTER, NotModified),
            (IfModifiedSince, BEFORE, Send),
            (IfModifiedSince, "yesterday", Send),
            (IfUnmodifiedSince, THEN, Send),
            (IfUnmodifiedSince, AFTER, Send),
            (IfUnmodifiedSince, BEFORE, Failed),
            (IfUnmodifiedSince, "yesterday", Send),
        ] {
            assert_eq!(verdict(&[(name, value)]), wanted, "{name:?}: {value}");
        }
        assert_eq!(verdict(&[]), Send);
    }

    #[test]
    fn h13_2_2_tags_come_before_dates_and_match_before_none_match() {
        use Name::{IfMatch, IfModifiedSince, IfNoneMatch, IfUnmodifiedSince};
        use Verdict::{Failed, NotModified, Send};
        let both = |first, second| verdict(&[first, second]);
        assert_eq!(both((IfMatch, "\"x\""), (IfUnmodifiedSince, BEFORE)), Send);
        assert_eq!(both((IfNoneMatch, "\"y\""), (IfModifiedSince, THEN)), Send);
        assert_eq!(both((IfMatch, "\"y\""), (IfNoneMatch, "\"x\"")), Failed);
        assert_eq!(
            both((IfMatch, "\"x\""), (IfNoneMatch, "\"x\"")),
            NotModified
        );
        assert_eq!(
            both((IfNoneMatch, "\"a\""), (IfNoneMatch, "\"x\"")),
            NotModified
        );
    }

    #[test]
    fn h13_1_3_dates_are_ignored_without_a_time_of_the_file() {
        let mut fields = Fields::new();
        fields.append(Name::IfModifiedSince, AFTER.as_bytes());
        assert_eq!(judge(&fields, TAG, None), Verdict::Send);
        fields = Fields::new();
        fields.append(Name::IfUnmodifiedSince, BEFORE.as_bytes());
        assert_eq!(judge(&fields, TAG, None), Verdict::Send);
    }
}
