//! Counts tests in the output of `cargo test`.

use std::fmt;
use std::ops::AddAssign;

/// Numbers of tests by their results.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Count {
    /// One failure, for a step that fails before there is anything to count.
    pub(crate) fn one_failed() -> Self {
        Self {
            failed: 1,
            ..Self::default()
        }
    }

    /// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, the line that ends one program.
    pub(crate) fn of_result_line(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let number = |what: &str| {
            let mut parts = numbers.split("; ").map(|part| part.split_once(' '));
            let (number, _) = parts.find_map(|part| part.filter(|(_, name)| *name == what))?;
            number.parse().ok()
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            skipped: number("ignored")?,
        })
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// How many tests a source file has.
pub(crate) fn tests_in(source: &str) -> u64 {
    source
        .lines()
        .map(str::trim)
        .filter(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
        .map(|_| 1)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_lines_of_good_and_bad_programs_are_read() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; \
                    3 filtered out; finished in 0.10s";
        let count = Count::of_result_line(line).unwrap();
        assert_eq!(count.to_string(), "12 passed, 2 failed, 1 skipped");
        let line = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Count::of_result_line(line).unwrap().passed, 1);
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(Count::of_result_line("test sticky ... ok"), None);
        assert_eq!(Count::of_result_line("test result: unheard of"), None);
    }

    #[test]
    fn tests_are_counted_by_their_attributes() {
        let source =
            "#[test]\nfn a() {}\n    #[test]\n#[tokio::test(flavor = \"x\")]\n// #[test]\n";
        assert_eq!(tests_in(source), 3);
    }
}
