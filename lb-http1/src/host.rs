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
    let (is_good_name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = memchr::memchr(b']', rest) else {
                return false;
            };
            let is_of_ip = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            (rest[..end].iter().all(is_of_ip), &rest[end + 1..])
        }
        None => {
            let end = memchr::memchr(b':', host).unwrap_or(host.len());
            let (name, port) = host.split_at(end);
            if port.len() > 1 && port[1..].contains(&b':') {
                let text = std::str::from_utf8(host).unwrap_or_default();
                return text.parse::<std::net::Ipv6Addr>().is_ok();
            }
            let is_of_name = |byte: &u8| OF_NAMES[*byte as usize];
            (!name.is_empty() && name.iter().all(is_of_name), port)
        }
    };
    let is_good_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_good_name && is_good_port
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
            "", ":80", "[::1]a", "[::1]]", "[a]:b", "a b", "a/b", "a@b", "a:b", "a:80:80", "[::1",
            "a,b c", "a:123456", "a\u{e9}",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
