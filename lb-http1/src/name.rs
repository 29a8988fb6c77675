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

            const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

names! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptRanges = "accept-ranges",
    Age = "age",
    Allow = "allow",
    Authorization = "authorization",
    CacheControl = "cache-control",
    CacheStatus = "cache-status",
    CdnCacheControl = "cdn-cache-control",
    Connection = "connection",
    ContentDigest = "content-digest",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentLocation = "content-location",
    ContentMd5 = "content-md5",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Digest = "digest",
    Etag = "etag",
    Expect = "expect",
    Expires = "expires",
    Forwarded = "forwarded",
    Host = "host",
    Http2Settings = "http2-settings",
    IfMatch = "if-match",
    IfModifiedSince = "if-modified-since",
    IfNoneMatch = "if-none-match",
    IfRange = "if-range",
    IfUnmodifiedSince = "if-unmodified-since",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Location = "location",
    MaxForwards = "max-forwards",
    Pragma = "pragma",
    ProxyConnection = "proxy-connection",
    Range = "range",
    Referer = "referer",
    ReprDigest = "repr-digest",
    SecWebsocketAccept = "sec-websocket-accept",
    SecWebsocketKey = "sec-websocket-key",
    SetCookie = "set-cookie",
    SignatureInput = "signature-input",
    StrictTransportSecurity = "strict-transport-security",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
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

/// Places of the table of names.
const PLACES: usize = 512;

/// The place of a name: by its length and four of its bytes, in lower case.
const fn place(text: &[u8], seed: usize) -> usize {
    let length = text.len();
    if length == 0 {
        return 0;
    }
    let bytes = [
        text[0],
        text[length / 2],
        text[length * 3 / 4],
        text[length - 1],
    ];
    let word = u32::from_le_bytes(bytes) | 0x2020_2020;
    ((word as usize + length).wrapping_mul(seed) >> 20) % PLACES
}

/// A multiplier with which no two names have one place.
const SEED: usize = {
    let mut seed = 0x9e37_79b1;
    'seeds: loop {
        let mut taken = [false; PLACES];
        let mut at = 0;
        while at < Name::ALL.len() {
            let place = place(Name::ALL[at].text().as_bytes(), seed);
            if taken[place] {
                seed += 2;
                continue 'seeds;
            }
            taken[place] = true;
            at += 1;
        }
        break seed;
    }
};

/// A pattern compared with a text: the name as words, and which bits of each may differ, as the cases of a
/// letter do.
#[derive(Clone, Copy)]
struct Pattern {
    name: Name,
    length: usize,
    words: [u64; WORDS],
    folds: [u64; WORDS],
}

/// Words of the longest name.
const WORDS: usize = 4;

impl Pattern {
    const fn of(name: Name) -> Self {
        let text = name.text().as_bytes();
        assert!(text.len() <= 8 * WORDS, "a name is longer than its pattern");
        let mut pattern = Self {
            name,
            length: text.len(),
            words: [0; WORDS],
            folds: [0; WORDS],
        };
        let mut at = 0;
        while at < text.len() {
            let shift = 8 * (at % 8);
            pattern.words[at / 8] |= (text[at] as u64) << shift;
            if text[at].is_ascii_alphabetic() {
                pattern.folds[at / 8] |= 0x20 << shift;
            }
            at += 1;
        }
        pattern
    }

    fn matches(&self, text: &[u8]) -> bool {
        if self.length != text.len() {
            return false;
        }
        let mut differs = 0;
        let (whole, rest) = text.as_chunks::<8>();
        let patterns = self.words.iter().zip(&self.folds);
        for (chunk, (word, fold)) in whole.iter().zip(patterns) {
            differs |= (u64::from_le_bytes(*chunk) ^ word) & !fold;
        }
        let last = rest
            .iter()
            .rev()
            .fold(0, |last, byte| last << 8 | u64::from(*byte));
        if let (Some(word), Some(fold)) = (self.words.get(whole.len()), self.folds.get(whole.len()))
        {
            differs |= (last ^ word) & !fold;
        }
        differs == 0
    }
}

static TABLE: [Pattern; PLACES] = {
    let mut table = [Pattern::of(Name::Other); PLACES];
    let mut at = 0;
    while at < Name::ALL.len() {
        table[place(Name::ALL[at].text().as_bytes(), SEED)] = Pattern::of(Name::ALL[at]);
        at += 1;
    }
    table
};

impl Name {
    /// The name that `text` is, in any case (RFC 9110, section 5.1).
    pub fn of(text: &[u8]) -> Self {
        let pattern = &TABLE[place(text, SEED)];
        match pattern.matches(text) {
            true => pattern.name,
            false => Self::Other,
        }
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
        for name in Name::ALL {
            let text = name.text().as_bytes();
            assert_eq!(Name::of(text), *name);
            assert_eq!(Name::of(&text.to_ascii_uppercase()), *name);
            for at in 0..text.len() {
                for byte in 0..=255 {
                    let mut other = text.to_vec();
                    other[at] = byte;
                    let is_same = other.eq_ignore_ascii_case(text);
                    assert_eq!(Name::of(&other) == *name, is_same, "{other:?}");
                }
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
