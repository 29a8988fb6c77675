//! Reads the output of a guest, line by line, for the results of the tests.

use super::jobs::Job;
use crate::test::count::Count;

/// Last lines of a guest that are shown again when it fails.
const LAST_LINES: usize = 30;

/// The output of a guest so far.
pub(super) struct Transcript {
    jobs: Vec<Job>,
    current: Option<Job>,
    /// The count that the current job has printed.
    counted: Option<Count>,
    /// Names of tests that the current job has reported as failures.
    named: Vec<String>,
    in_failures: bool,
    has_ended: bool,
    lines: Vec<String>,
    outcome: Outcome,
}

/// The outcome of a guest's jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) count: Count,
    /// Each test that failed, and other errors.
    pub(super) failures: Vec<String>,
    /// Tests that could not run, with their reasons.
    pub(super) skips: Vec<String>,
}

impl Transcript {
    /// The transcript of a guest that is to do these jobs.
    pub(super) fn new(jobs: &[Job]) -> Self {
        Self {
            jobs: jobs.to_vec(),
            current: None,
            counted: None,
            named: Vec::new(),
            in_failures: false,
            has_ended: false,
            lines: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Takes in a line of the output.
    pub(super) fn line(&mut self, line: &str) {
        self.lines.push(line.to_owned());
        if let Some(event) = line.strip_prefix("=== ") {
            return self.event(event);
        }
        if let Some(count) = Count::of_result_line(line) {
            self.counted = Some(count);
        }
        // The last list under that heading has nothing but names.
        match line.strip_prefix("    ") {
            _ if line == "failures:" => {
                self.named.clear();
                self.in_failures = true;
            }
            Some(name) if self.in_failures && !name.contains(' ') => {
                self.named.push(name.to_owned());
            }
            _ => {}
        }
    }

    fn event(&mut self, event: &str) {
        let mut words = event.split(' ');
        match words.next() {
            Some("job") => {
                let file = words.next().unwrap_or_default();
                self.current = self.jobs.iter().find(|job| job.file == file).cloned();
                (self.counted, self.in_failures) = (None, false);
                self.named.clear();
            }
            Some("ended") => self.end_job("a test program ended before all its tests did"),
            Some("skipped") => {
                let why = event.trim_start_matches("skipped ");
                self.outcome.skips.push(why.to_owned());
            }
            Some("end") => self.has_ended = true,
            _ => {}
        }
    }

    /// Counts the current job. Its tests without a count have failed.
    fn end_job(&mut self, why: &str) {
        let Some(job) = self.current.take() else {
            return;
        };
        self.jobs.retain(|other| other.file != job.file);
        let counted = self.counted.take().unwrap_or_default();
        let total = counted.passed + counted.failed + counted.skipped;
        let missing = (job.tests.len() as u64).saturating_sub(total);
        self.outcome.count += counted;
        self.outcome.count.failed += missing;
        let named = std::mem::take(&mut self.named);
        let failures = &mut self.outcome.failures;
        failures.extend(named.iter().map(|test| format!("{}::{test}", job.file)));
        if missing > 0 {
            failures.push(format!("{}: {why}; not run: {missing}", job.file));
        }
    }

    /// Counts the jobs that have not been run, for a guest that is gone.
    pub(super) fn finish(mut self, why: &str) -> Outcome {
        if !self.has_ended {
            self.end_job(why);
            for job in std::mem::take(&mut self.jobs) {
                self.outcome.count.failed += job.tests.len() as u64;
            }
            let last = self.lines.len().saturating_sub(LAST_LINES);
            let lines = self.lines[last..].join("\n  ");
            let text = format!("{why} before it had done everything; its last lines:\n  {lines}");
            self.outcome.failures.push(text);
            // A guest that ends early is a failure, with or without tests to count.
            self.outcome.count.failed = self.outcome.count.failed.max(1);
        }
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> Vec<Job> {
        let job = |file, tests: &[&'static str]| Job {
            file,
            tests: tests.to_vec(),
        };
        vec![job("nat", &["one", "two"]), job("dsr", &["three"])]
    }

    fn told(text: &str, why: &str) -> Outcome {
        let mut transcript = Transcript::new(&jobs());
        text.lines().for_each(|line| transcript.line(line));
        transcript.finish(why)
    }

    const RESULT: &str = "0 ignored; 0 measured; 9 filtered out; finished in 1s";

    #[test]
    fn tests_of_all_jobs_are_counted_and_failures_named() {
        let text = format!(
            "=== 6.1 is up, 1 CPUs\n=== job nat\ntest one ... ok\ntest two ... FAILED\n\n\
             failures:\n\n---- two stdout ----\n    assertion\n\nfailures:\n    two\n\n\
             test result: FAILED. 1 passed; 1 failed; {RESULT}\n=== ended nat 101\n\
             === job dsr\ntest result: ok. 1 passed; 0 failed; {RESULT}\n=== ended dsr 0\n\
             === skipped three: no tunnel\n=== end\n"
        );
        let outcome = told(&text, "the guest ended");
        assert_eq!(outcome.count.to_string(), "2 passed, 1 failed, 0 skipped");
        assert_eq!(outcome.failures, ["nat::two"]);
        assert_eq!(outcome.skips, ["three: no tunnel"]);
    }

    #[test]
    fn test_program_that_dies_has_failed_all_its_tests() {
        let text = format!(
            "=== job nat\ntest one ... ok\nSegmentation fault\n=== ended nat 139\n=== job dsr\n\
             test result: ok. 1 passed; 0 failed; {RESULT}\n=== ended dsr 0\n=== end\n"
        );
        let outcome = told(&text, "");
        assert_eq!(outcome.count.to_string(), "1 passed, 2 failed, 0 skipped");
        assert_eq!(outcome.failures.len(), 1, "{:?}", outcome.failures);
    }

    #[test]
    fn test_that_was_not_found_has_failed() {
        let text = format!(
            "=== job nat\ntest result: ok. 1 passed; 0 failed; {RESULT}\n=== ended nat 0\n\
             === job dsr\ntest result: ok. 1 passed; 0 failed; {RESULT}\n=== ended dsr 0\n=== end\n"
        );
        let outcome = told(&text, "");
        assert_eq!(outcome.count.to_string(), "2 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn guest_that_panics_has_failed_all_that_was_left_and_its_last_lines_are_shown() {
        let outcome = told(
            "=== job nat\ntest one ... \nKernel panic - not syncing: oops\n",
            "the guest ended",
        );
        assert_eq!(outcome.count.to_string(), "0 passed, 3 failed, 0 skipped");
        let last = outcome.failures.last().unwrap();
        assert!(last.contains("Kernel panic - not syncing: oops"), "{last}");
    }

    #[test]
    fn guest_without_a_job_that_does_not_reach_the_end_is_a_failure() {
        let mut transcript = Transcript::new(&[]);
        transcript.line("=== 6.1 is up");
        let outcome = transcript.finish("nothing was heard for 300 s");
        assert_eq!(outcome.count.failed, 1);
    }
}
