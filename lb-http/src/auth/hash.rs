//! The hash of one password: bcrypt, or argon2id as a PHC string.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Costs of bcrypt: more takes longer than a client waits.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=16;
/// Most memory of argon2 in KiB, and most passes over it.
const ARGON2_KIB: u32 = 256 * 1024;
const ARGON2_PASSES: u32 = 16;
/// Bytes of an argon2 hash.
const ARGON2_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// A hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    /// The whole text, which begins with `$2y$`, `$2b$` or `$2a$`.
    Bcrypt(String),
    Argon2 {
        params: Params,
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
}

impl Hash {
    /// Reads a hash. The error says what it is instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if ["$2y$", "$2b$", "$2a$"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            return bcrypt(text);
        }
        if let Some(rest) = text.strip_prefix("$argon2id$") {
            return argon2(rest).ok_or_else(|| {
                format!(
                    "is no argon2id hash that can be used (write v=19, at most m={ARGON2_KIB} and t={ARGON2_PASSES})"
                )
            });
        }
        let kind = match text {
            _ if text.starts_with("$apr1$") => "is apr1 (MD5), which is guessed in no time",
            _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => {
                "is SHA-1, which is guessed in no time"
            }
            _ if text.starts_with("$1$") => "is crypt with MD5, which is guessed in no time",
            _ if text.starts_with("$5$") || text.starts_with("$6$") => "is crypt with SHA-2",
            _ if text.starts_with("$argon2") => "is not argon2id",
            _ => "is crypt or a plain password",
        };
        Err(kind.to_owned())
    }

    /// Whether it is the hash of `password`. It takes as long as its costs say: some 50 ms.
    pub(super) fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
            Self::Argon2 { params, salt, hash } => {
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
                let mut computed = vec![0; hash.len()];
                argon2
                    .hash_password_into(password, salt, &mut computed)
                    .is_ok()
                    && aws_lc_rs::constant_time::verify_slices_are_equal(&computed, hash).is_ok()
            }
        }
    }
}

fn bcrypt(text: &str) -> Result<Hash, String> {
    let parts: Vec<&str> = text.split('$').collect();
    let [_, _, cost, rest] = parts[..] else {
        return Err("is no whole bcrypt hash".to_owned());
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
    if rest.len() != 53 || !rest.bytes().all(known) {
        return Err("is no whole bcrypt hash".to_owned());
    }
    match cost.parse::<u32>() {
        Ok(cost) if BCRYPT_COSTS.contains(&cost) => Ok(Hash::Bcrypt(text.to_owned())),
        _ => Err(format!(
            "has a cost that is out of range (use {} to {})",
            BCRYPT_COSTS.start(),
            BCRYPT_COSTS.end()
        )),
    }
}

/// A PHC string after its algorithm: `v=19$m=65536,t=3,p=4$SALT$HASH`.
fn argon2(text: &str) -> Option<Hash> {
    let parts: Vec<&str> = text.split('$').collect();
    let ["v=19", costs, salt, hash] = parts[..] else {
        return None;
    };
    let (mut memory, mut passes, mut lanes) = (None, None, None);
    for cost in costs.split(',') {
        let (name, value) = cost.split_once('=')?;
        let value: u32 = value.parse().ok()?;
        match name {
            "m" => memory = Some(value),
            "t" => passes = Some(value),
            "p" => lanes = Some(value),
            _ => return None,
        }
    }
    let (memory, passes) = (memory?, passes?);
    let salt = STANDARD_NO_PAD.decode(salt).ok()?;
    let hash = STANDARD_NO_PAD.decode(hash).ok()?;
    if memory > ARGON2_KIB || passes > ARGON2_PASSES || !ARGON2_BYTES.contains(&hash.len()) {
        return None;
    }
    let params = Params::new(memory, passes, lanes?, Some(hash.len())).ok()?;
    Some(Hash::Argon2 { params, salt, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `secret`, by crypt(3) and by the argon2 of its authors.
    const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
    const ARGON2: &str = "$argon2id$v=19$m=1024,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$azfZBd5qxhOl2u4YH28/7xKwTHeWsd0r8eHso4Brzb4";

    #[test]
    fn hashes_of_other_programs_are_those_of_their_password() {
        for text in [BCRYPT, ARGON2] {
            let hash = Hash::parse(text).unwrap();
            assert!(hash.is_of(b"secret"), "{text}");
            assert!(!hash.is_of(b"Secret"), "{text}");
            assert!(!hash.is_of(b""), "{text}");
        }
    }

    #[test]
    fn weak_and_broken_hashes_are_named() {
        for (text, message) in [
            ("$apr1$x$y", "apr1"),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
            ("$6$salt$hash", "SHA-2"),
            ("secret", "plain"),
            (
                "$2y$31$abcdefghijklmnopqrstuuu5s1yB1yO5ePjhTmx4xGiqVv0nWjcTm",
                "out of range",
            ),
            ("$2y$10$short", "no whole"),
            (
                "$argon2i$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$aGFzaA",
                "not argon2id",
            ),
            (
                "$argon2id$v=19$m=9999999,t=3,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
                "no argon2id",
            ),
        ] {
            let error = Hash::parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
