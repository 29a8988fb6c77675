//! Licence expressions (SPDX 2.3, annex D; cargo's older `MIT/Apache-2.0` is an "or").

/// Whether a licence of `allowed` is enough for `expression`.
///
/// # Errors
/// Fails if it is no licence expression.
pub(super) fn is_allowed(expression: &str, allowed: &[String]) -> Result<bool, String> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = Words {
        words: spaced.split_whitespace().collect(),
        allowed,
    };
    words.words.reverse();
    let unclear = || format!("{expression:?} is no licence expression");
    let outcome = words.any().ok_or_else(unclear)?;
    match words.words.is_empty() {
        true => Ok(outcome),
        false => Err(unclear()),
    }
}

struct Words<'a> {
    /// The next one is the last.
    words: Vec<&'a str>,
    allowed: &'a [String],
}

impl Words<'_> {
    fn next_is(&mut self, word: &str) -> bool {
        let is = self.words.last() == Some(&word);
        if is {
            self.words.pop();
        }
        is
    }

    fn any(&mut self) -> Option<bool> {
        let mut outcome = self.all()?;
        while self.next_is("OR") {
            outcome |= self.all()?;
        }
        Some(outcome)
    }

    fn all(&mut self) -> Option<bool> {
        let mut outcome = self.one()?;
        while self.next_is("AND") {
            outcome &= self.one()?;
        }
        Some(outcome)
    }

    fn one(&mut self) -> Option<bool> {
        if self.next_is("(") {
            let outcome = self.any();
            return outcome.filter(|_| self.next_is(")"));
        }
        let mut name = self.words.pop()?.to_owned();
        if ["AND", "OR", "WITH", ")"].contains(&name.as_str()) {
            return None;
        }
        if self.next_is("WITH") {
            name = format!("{name} WITH {}", self.words.pop()?);
        }
        Some(self.allowed.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(expression: &str) -> Result<bool, String> {
        is_allowed(
            expression,
            &["MIT", "ISC", "BSD-3-Clause"].map(str::to_owned),
        )
    }

    #[test]
    fn expression_is_allowed_by_what_it_needs() {
        let yes = [
            "MIT",
            "GPL-3.0 OR MIT",
            "Unlicense/MIT",
            "ISC AND (Apache-2.0 OR ISC)",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "ISC AND MIT AND BSD-3-Clause",
        ];
        let no = [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT WITH Some-exception",
            "(MIT OR ISC) AND GPL-3.0",
            "GPL-3.0 AND MIT OR GPL-2.0",
        ];
        for expression in yes {
            assert_eq!(ask(expression), Ok(true), "{expression}");
        }
        for expression in no {
            assert_eq!(ask(expression), Ok(false), "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for text in [
            "", "MIT OR", "(MIT", "MIT ISC", "AND MIT", "MIT WITH", "MIT)",
        ] {
            assert!(ask(text).is_err(), "{text}");
        }
    }
}
