//! Values that are lists (RFC 9110, section 5.6.1).

/// The members of a list over all its lines, without those that are empty.
pub fn members<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Whether `wanted`, in any case, is a member.
pub fn has<'a>(lines: impl Iterator<Item = &'a [u8]>, wanted: &str) -> bool {
    members(lines).any(|member| member.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The number that `text` is: digits and nothing else (RFC 9110, section 8.6).
pub fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| is_number)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_those_of_all_lines() {
        let lines = [&b"a, ,b"[..], b"", b" C "];
        let all: Vec<&[u8]> = members(lines.into_iter()).collect();
        assert_eq!(all, [&b"a"[..], b"b", b"C"]);
        assert!(has(lines.into_iter(), "c"));
        assert!(!has(lines.into_iter(), "d"));
    }

    #[test]
    fn numbers_are_digits_alone() {
        assert_eq!(number(b"007"), Some(7));
        for text in ["", "+5", "-1", "5 ", "0x5", "99999999999999999999"] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }
}
