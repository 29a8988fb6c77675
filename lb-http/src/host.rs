//! Hosts as requests name them.

/// Bytes of a registered name (RFC 3986, section 3.2.2).
static OF_NAMES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&'..=b',' | b';' | b'='
            );
        byte += 1;
    }
    table
};

/// Whether `host` is `uri-host [ ":" port ]` of RFC 3986, section 3.2.2. A name that is empty is
/// allowed there, and no server has it. An IPv6 address without its brackets is what Socket.IO's
/// client sends in Node.js; it can be taken for nothing else.
pub fn is_valid(host: &[u8]) -> bool {
    // Most are names without anything else.
    if !host.is_empty() && host.iter().all(|byte| OF_NAMES[*byte as usize]) {
        return true;
    }
    let colons = host.iter().filter(|byte| **byte == b':').count();
    if colons > 1 && host.first() != Some(&b'[') {
        let text = std::str::from_utf8(host).unwrap_or_default();
        return text.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (name, port) = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host[colon..].contains(&b']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, &[][..]),
    };
    let in_brackets = name
        .strip_prefix(b"[")
        .and_then(|name| name.strip_suffix(b"]"));
    let good_name = match in_brackets {
        Some(ip) => ip
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte)),
        None => name.iter().all(|byte| OF_NAMES[*byte as usize]),
    };
    !name.is_empty() && good_name && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h7_2_hosts_are_names_or_addresses_with_a_port() {
        for good in [
            "a",
            "a.example:80",
            "[::1]:443",
            "192.0.2.1",
            "a_b:",
            "xn--a",
            "2001:db8::1",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:80:80", "[::1", "a,b c", "a:123456",
            "a\u{e9}",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
