//! `Accept-Encoding` (RFC 9110, section 12.5.3).

use lb_config::http::Algorithm;

/// The codings that a client accepts, with weights in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    gzip: u16,
    brotli: u16,
    zstd: u16,
    identity: Option<u16>,
    any: Option<u16>,
    /// Which of the three are named: the others have the weight of `*`.
    named: [bool; 3],
}

impl Accepted {
    /// Reads the lines of the header. Without any, a client accepts only uncompressed answers.
    pub(super) fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut accepted = Self {
            gzip: 0,
            brotli: 0,
            zstd: 0,
            identity: None,
            any: None,
            named: [false; 3],
        };
        for line in lines {
            // A line that is no text names nothing that we know.
            let items = std::str::from_utf8(line).unwrap_or_default().split(',');
            items.for_each(|item| accepted.take(item));
        }
        accepted
    }

    fn take(&mut self, item: &str) {
        let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
        let Some(weight) = weight(parameters) else {
            return;
        };
        let coding = coding.trim();
        let is = |name: &str| coding.eq_ignore_ascii_case(name);
        if is("gzip") || is("x-gzip") {
            (self.gzip, self.named[0]) = (weight, true);
        } else if is("br") {
            (self.brotli, self.named[1]) = (weight, true);
        } else if is("zstd") {
            (self.zstd, self.named[2]) = (weight, true);
        } else if is("identity") {
            self.identity = Some(weight);
        } else if is("*") {
            self.any = Some(weight);
        }
    }

    fn weight(&self, algorithm: Algorithm) -> u16 {
        let (weight, named) = match algorithm {
            Algorithm::Gzip => (self.gzip, self.named[0]),
            Algorithm::Brotli => (self.brotli, self.named[1]),
            Algorithm::Zstd => (self.zstd, self.named[2]),
        };
        if named { weight } else { self.any.unwrap_or(0) }
    }

    /// Whether the client refuses an uncompressed answer.
    pub(super) fn refuses_identity(&self) -> bool {
        self.identity.or(self.any) == Some(0)
    }

    /// The coding that the client likes best, the first of `offered` among equals; `None` if it
    /// would rather have none.
    pub(super) fn best(&self, offered: &[Algorithm]) -> Option<Algorithm> {
        let mut best = None;
        let mut most = self.identity.unwrap_or(0).max(1) - 1;
        for &algorithm in offered {
            let weight = self.weight(algorithm);
            if weight > most {
                (best, most) = (Some(algorithm), weight);
            }
        }
        best
    }
}

/// The weight among the parameters, in thousandths; `None` if it is none (section 12.4.2).
fn weight(parameters: &str) -> Option<u16> {
    for parameter in parameters.split(';') {
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        if name.trim().eq_ignore_ascii_case("q") {
            let value: f32 = value.trim().parse().ok()?;
            let valid = (0.0..=1.0).contains(&value);
            return valid.then(|| (value * 1000.0).round() as u16);
        }
    }
    Some(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Algorithm::{Brotli, Gzip, Zstd};

    const ALL: &[Algorithm] = &[Zstd, Brotli, Gzip];

    fn accepted(lines: &[&str]) -> Accepted {
        Accepted::of(lines.iter().map(|line| line.as_bytes()))
    }

    fn best(line: &str) -> Option<Algorithm> {
        accepted(&[line]).best(ALL)
    }

    #[test]
    fn the_heaviest_wins_and_among_equals_our_first() {
        assert_eq!(best("gzip, deflate, br, zstd"), Some(Zstd));
        assert_eq!(best("gzip, deflate, br"), Some(Brotli));
        assert_eq!(best("gzip;q=1.0, br;q=0.9, zstd;q=0.8"), Some(Gzip));
        assert_eq!(best("GZIP"), Some(Gzip));
        assert_eq!(best("x-gzip"), Some(Gzip));
        assert_eq!(accepted(&["gzip", "br;q=0.5"]).best(ALL), Some(Gzip));
        assert_eq!(accepted(&["gzip, br"]).best(&[Gzip, Brotli]), Some(Gzip));
    }

    #[test]
    fn nothing_is_forced_on_a_client() {
        assert_eq!(accepted(&[]).best(ALL), None);
        assert_eq!(best(""), None);
        assert_eq!(best("deflate"), None);
        assert_eq!(best("gzip;q=0"), None);
        assert_eq!(best("identity, gzip;q=0.5"), None);
        assert_eq!(best("gzip;q=nonsense"), None);
        assert_eq!(best("gzip;q=2"), None);
    }

    #[test]
    fn equal_to_identity_is_good_enough() {
        assert_eq!(best("gzip, identity"), Some(Gzip));
        assert_eq!(best("gzip;q=0.5, identity;q=0.5"), Some(Gzip));
    }

    #[test]
    fn a_star_is_what_is_not_named() {
        assert_eq!(best("*"), Some(Zstd));
        assert_eq!(best("zstd;q=0, *"), Some(Brotli));
        assert_eq!(best("gzip;q=0.5, *;q=0.1"), Some(Gzip));
        assert_eq!(best("*;q=0"), None);
    }

    #[test]
    fn identity_is_refused_by_name_or_by_a_star() {
        assert!(accepted(&["gzip, identity;q=0"]).refuses_identity());
        assert!(accepted(&["gzip, *;q=0"]).refuses_identity());
        assert!(!accepted(&["gzip, identity, *;q=0"]).refuses_identity());
        assert!(!accepted(&["gzip"]).refuses_identity());
        assert_eq!(best("gzip;q=0.1, identity;q=0"), Some(Gzip));
    }
}
