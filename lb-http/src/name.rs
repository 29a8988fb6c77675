//! Field names that code depends on, as numbers: comparing two of them is one instruction.

macro_rules! names {
    ($($name:ident = $text:literal,)*) => {
        /// A field name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Name {
            /// One that no code depends on.
            Other,
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Name {
            /// How many there are.
            pub const COUNT: usize = [Self::Other, $(Self::$name),*].len();

            /// The name in lower case; empty for [`Name::Other`].
            pub const fn text(self) -> &'static str {
                match self {
                    Self::Other => "",
                    $(Self::$name => $text,)*
                }
            }

            /// All names of `length` bytes.
            const fn candidates(length: usize) -> &'static [Self] {
                const ALL: &[Name] = &[$(Name::$name),*];
                const LONGEST: usize = 32;
                const fn count(length: usize) -> usize {
                    let (mut at, mut count) = (0, 0);
                    while at < ALL.len() {
                        count += (ALL[at].text().len() == length) as usize;
                        at += 1;
                    }
                    count
                }
                const fn sorted() -> ([Name; ALL.len()], [usize; LONGEST + 2]) {
                    let mut names = [Name::Other; ALL.len()];
                    let mut starts = [0; LONGEST + 2];
                    let (mut length, mut filled) = (0, 0);
                    while length <= LONGEST {
                        starts[length] = filled;
                        let mut at = 0;
                        while at < ALL.len() {
                            if ALL[at].text().len() == length {
                                names[filled] = ALL[at];
                                filled += 1;
                            }
                            at += 1;
                        }
                        assert!(filled - starts[length] == count(length));
                        length += 1;
                    }
                    assert!(filled == ALL.len(), "a name is longer than LONGEST");
                    starts[length] = filled;
                    (names, starts)
                }
                static SORTED: ([Name; ALL.len()], [usize; LONGEST + 2]) = sorted();
                if length > LONGEST {
                    return &[];
                }
                let (_, from) = SORTED.0.split_at(SORTED.1[length]);
                from.split_at(SORTED.1[length + 1] - SORTED.1[length]).0
            }
        }
    };
}

names! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptRanges = "accept-ranges",
    Allow = "allow",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentDigest = "content-digest",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentMd5 = "content-md5",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Digest = "digest",
    Etag = "etag",
    Expect = "expect",
    Forwarded = "forwarded",
    Host = "host",
    Http2Settings = "http2-settings",
    IfMatch = "if-match",
    IfNoneMatch = "if-none-match",
    IfRange = "if-range",
    KeepAlive = "keep-alive",
    Location = "location",
    MaxForwards = "max-forwards",
    ProxyConnection = "proxy-connection",
    Referer = "referer",
    ReprDigest = "repr-digest",
    SecWebsocketAccept = "sec-websocket-accept",
    SecWebsocketKey = "sec-websocket-key",
    SetCookie = "set-cookie",
    SignatureInput = "signature-input",
    StrictTransportSecurity = "strict-transport-security",
    Te = "te",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    Via = "via",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
}

impl Name {
    /// The name that `text` is, in any case (RFC 9110, section 5.1).
    pub fn of(text: &[u8]) -> Self {
        let is = |name: &&Self| name.text().as_bytes().eq_ignore_ascii_case(text);
        let found = Self::candidates(text.len()).iter().find(is);
        found.copied().unwrap_or(Self::Other)
    }

    pub(crate) const fn bit(self) -> u64 {
        const { assert!(Self::COUNT <= 64) };
        1 << self as u8
    }
}

/// Whether `byte` may be in a token (RFC 9110, section 5.6.2).
pub const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_only_whole() {
        assert_eq!(Name::of(b"Content-LENGTH"), Name::ContentLength);
        assert_eq!(Name::of(b"te"), Name::Te);
        assert_eq!(Name::of(b"x-forwarded-fo"), Name::Other);
        assert_eq!(Name::of(b""), Name::Other);
        assert_eq!(Name::of(&[b'x'; 100]), Name::Other);
        for length in 0..40 {
            for name in Name::candidates(length) {
                assert_eq!(Name::of(name.text().as_bytes()), *name);
            }
        }
    }

    #[test]
    fn token_bytes_are_those_of_rfc_9110() {
        let others = (0..=255u8).filter(|byte| !byte.is_ascii_alphanumeric());
        let symbols: Vec<u8> = others.filter(|byte| is_token_byte(*byte)).collect();
        assert_eq!(symbols, b"!#$%&'*+-.^_`|~");
    }
}
