//! Addresses as both sides store them: sixteen bytes, IPv4 as `::ffff:a.b.c.d` (RFC 4291, section
//! 2.5.5.2), so that one key type serves both families.

use core::net::IpAddr;

/// An IPv6 address, or an IPv4 address mapped into one; network byte order.
pub type Addr = [u8; 16];

/// `::`, the IPv6 wildcard.
pub const ANY_V6: Addr = [0; 16];
/// `::ffff:0.0.0.0`, the IPv4 wildcard.
pub const ANY_V4: Addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];

/// `127.0.0.1`.
pub const LOOPBACK_V4: Addr = from_v4([127, 0, 0, 1]);
/// `::1`.
pub const LOOPBACK_V6: Addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Maps four bytes in network order to an [`Addr`].
#[inline(always)]
pub const fn from_v4(v4: [u8; 4]) -> Addr {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// Whether `addr` holds an IPv4 address.
#[inline(always)]
pub const fn is_v4(addr: &Addr) -> bool {
    // Two wide comparisons instead of twelve narrow ones: this runs in the kernel.
    let (high, low) = halves(addr);
    high == 0 && low >> 32 == 0xffff
}

/// Whether `addr` is in 127.0.0.0/8 or is `::1`.
#[inline(always)]
pub const fn is_loopback(addr: &Addr) -> bool {
    let (high, low) = halves(addr);
    high == 0 && (low == 1 || low >> 24 == 0x00ff_ff7f)
}

/// The wildcard of the family of `addr`.
#[inline(always)]
pub const fn wildcard_of(addr: &Addr) -> Addr {
    if is_v4(addr) { ANY_V4 } else { ANY_V6 }
}

/// The part of a client's address that is hashed and remembered: its first `ipv4_prefix` or
/// `ipv6_prefix` bits, the others zero.
///
/// Prefix lengths above 32 and 128 count as 32 and 128.
#[inline(always)]
pub const fn client_prefix(addr: &Addr, ipv4_prefix: u8, ipv6_prefix: u8) -> Addr {
    let (high, low) = prefix_of(halves(addr), ipv4_prefix, ipv6_prefix);
    join(high, low)
}

/// [`client_prefix`] of an address in two halves.
#[inline(always)]
pub(crate) const fn prefix_of(
    (high, low): (u64, u64),
    ipv4_prefix: u8,
    ipv6_prefix: u8,
) -> (u64, u64) {
    let bits = if high == 0 && low >> 32 == 0xffff {
        96 + if ipv4_prefix > 32 {
            32
        } else {
            ipv4_prefix as u32
        }
    } else if ipv6_prefix > 128 {
        128
    } else {
        ipv6_prefix as u32
    };
    if bits >= 64 {
        (high, low & ones(bits - 64))
    } else {
        (high & ones(bits), 0)
    }
}

/// A 64-bit mask whose first `count` bits are set; `count` is at most 64.
#[inline(always)]
const fn ones(count: u32) -> u64 {
    if count == 0 {
        0
    } else {
        u64::MAX << ((64 - count) & 63)
    }
}

/// The two halves of an address as numbers, most significant first.
#[inline(always)]
pub const fn halves(a: &Addr) -> (u64, u64) {
    (
        u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    )
}

/// The address whose halves are these numbers, most significant first. Byte by byte, the eBPF
/// compiler would keep each byte in eight bytes of the stack.
#[inline(always)]
pub const fn join(high: u64, low: u64) -> Addr {
    ((high as u128) << 64 | low as u128).to_be_bytes()
}

/// The stored form of `ip`. An IPv4-mapped IPv6 address becomes the IPv4 address it stands for.
pub fn from_ip(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => from_v4(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that `addr` stands for.
pub fn to_ip(addr: &Addr) -> IpAddr {
    IpAddr::from(*addr).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    fn parse(text: &str) -> Addr {
        from_ip(text.parse().unwrap())
    }

    #[test]
    fn an_ipv4_address_survives_the_round_trip() {
        let addr = parse("203.0.113.9");
        assert!(is_v4(&addr));
        assert_eq!(to_ip(&addr).to_string(), "203.0.113.9");
        assert_eq!(wildcard_of(&addr), ANY_V4);
        assert_eq!(wildcard_of(&parse("2001:db8::1")), ANY_V6);
    }

    #[test]
    fn loopback_addresses_are_told_from_others() {
        for own in ["127.0.0.1", "127.255.0.9", "::1"] {
            assert!(is_loopback(&parse(own)), "{own}");
        }
        for other in [
            "128.0.0.1",
            "126.1.1.1",
            "0.0.0.0",
            "::",
            "::2",
            "1::1",
            "::7f00:1",
        ] {
            assert!(!is_loopback(&parse(other)), "{other}");
        }
    }

    #[test]
    fn prefixes_cut_where_they_say() {
        assert_eq!(
            client_prefix(&parse("203.0.113.9"), 24, 64),
            parse("203.0.113.0")
        );
        assert_eq!(
            client_prefix(&parse("203.0.113.9"), 32, 64),
            parse("203.0.113.9")
        );
        assert_eq!(client_prefix(&parse("203.0.113.9"), 0, 64), ANY_V4);
        assert_eq!(
            client_prefix(&parse("2001:db8:1:2:3:4:5:6"), 32, 64),
            parse("2001:db8:1:2::")
        );
        assert_eq!(
            client_prefix(&parse("2001:db8:1:2:3:4:5:6"), 32, 48),
            parse("2001:db8:1::")
        );
        assert_eq!(
            client_prefix(&parse("2001:db8::6"), 32, 128),
            parse("2001:db8::6")
        );
        assert_eq!(client_prefix(&parse("2001:db8::6"), 32, 0), ANY_V6);
    }

    proptest! {
        #[test]
        fn masking_keeps_exactly_the_prefix(bytes: [u8; 16], bits in 0u8..=128) {
            prop_assume!(!is_v4(&bytes));
            let value = u128::from_be_bytes(bytes);
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - u32::from(bits)) };
            prop_assert_eq!(u128::from_be_bytes(client_prefix(&bytes, 32, bits)), value & mask);
        }
    }
}
