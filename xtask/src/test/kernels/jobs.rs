//! The jobs of each kernel: end-to-end tests, few enough for an emulated machine.

use super::arch::LARGE_PAGES;

/// Some tests of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// The name of the file.
    pub(super) file: &'static str,
    /// Names of its tests; all others are left out.
    pub(super) tests: Vec<&'static str>,
}

/// The verifier comes first. If it refuses a program, its message is worth more than all later
/// failures.
const JOBS: [(&str, &[&str]); 6] = [
    (
        "bpf_verifier",
        &["every_program_loads_and_keeps_within_its_budget"],
    ),
    (
        "any_kernel",
        &[
            "clients_are_served_while_the_agent_dies_and_comes_back_and_a_purge_leaves_nothing",
            "backend_that_is_drained_or_unhealthy_gets_nobody",
            "http_over_tls_is_answered",
        ],
    ),
    (
        "nat",
        &[
            "a_container_sees_the_clients_own_addresses",
            "another_host_is_reached_from_the_driver",
        ],
    ),
    (
        "dsr",
        &[
            "wrapped_in_ip_packets_arrive",
            "wrapped_in_udp_packets_arrive",
        ],
    ),
    ("interfaces", &["a_purge_leaves_nothing_behind"]),
    (
        "local_hooks",
        &["tcp_clients_get_the_backend_that_lookup_names_and_see_the_service"],
    ),
];

/// The only jobs of a kernel that BPF cannot serve on.
const TOO_OLD: [(&str, &[&str]); 1] = [(
    "kernel_too_old",
    &["the_agent_says_what_is_missing_and_serves_from_user_space"],
)];

/// The oldest kernel that the programs support, the same as in the agent.
const OLDEST: (u32, u32) = (6, 1);

/// The jobs of a kernel. With words, only tests with one of them in their names are left.
pub(super) fn of(series: &str, words: &[&String]) -> Vec<Job> {
    let all: &[(&str, &[&str])] = if is_too_old(series) { &TOO_OLD } else { &JOBS };
    let wanted = |file: &str, test: &str| {
        let name = format!("{file}::{test}");
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let job = |(file, tests): &(&'static str, &'static [&'static str])| Job {
        file,
        tests: tests
            .iter()
            .copied()
            .filter(|test| wanted(file, test))
            .collect(),
    };
    all.iter()
        .map(job)
        .filter(|job| !job.tests.is_empty())
        .collect()
}

fn is_too_old(series: &str) -> bool {
    let numbers = series.trim_end_matches(LARGE_PAGES);
    let mut numbers = numbers.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST
}

/// The script that does all jobs, one after the other, and says when each begins and ends. After a
/// failed job, the kernel's last messages follow.
pub(super) fn script(jobs: &[Job], environment: &[(&str, &str)], options: &[&String]) -> String {
    let options: String = options.iter().map(|option| format!("{option} ")).collect();
    let mut script = String::from("export LB_TEST_SKIPPED=/tmp/skipped\n");
    for (name, value) in environment {
        script += &format!("export {name}={value}\n");
    }
    script += "job() {\n\
               \x20   echo \"=== job $1\"\n\
               \x20   \"./$@\" 2>&1\n\
               \x20   code=$?\n\
               \x20   [ $code = 0 ] || dmesg | tail -n 20\n\
               \x20   echo \"=== ended $1 $code\"\n\
               }\n";
    for Job { file, tests } in jobs {
        // The figures are shown to the user.
        let show = if *file == "bpf_verifier" {
            "--nocapture "
        } else {
            ""
        };
        let tests = tests.join(" ");
        script += &format!("job {file} --test-threads=1 {show}{options}--exact {tests}\n");
    }
    script + "[ -s /tmp/skipped ] && sed 's/^/=== skipped /' /tmp/skipped\necho '=== end'\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::areas;
    use std::fs;

    #[test]
    fn every_test_that_a_kernel_is_asked_exists() {
        for (file, tests) in JOBS.iter().chain(&TOO_OLD) {
            let is_it = |path: &std::path::PathBuf| areas::name(path) == *file;
            let path = areas::files().unwrap().into_iter().find(is_it).unwrap();
            let source = fs::read_to_string(&path).unwrap_or_default();
            for test in *tests {
                let head = format!("#[test]\nfn {test}()");
                assert!(
                    source.contains(&head),
                    "{test} is not in {}",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn words_choose_among_the_tests_and_old_kernels_have_their_own() {
        let words = ["nat::".to_owned(), "over_tls".to_owned()];
        let chosen = of("6.1", &words.each_ref());
        let names: Vec<_> = chosen
            .iter()
            .map(|job| (job.file, job.tests.len()))
            .collect();
        assert_eq!(names, [("any_kernel", 1), ("nat", 2)]);
        assert_eq!(of("5.10", &[])[0].file, "kernel_too_old");
        for series in ["6.1", "6.12-16k"] {
            assert_ne!(of(series, &[])[0].file, "kernel_too_old");
        }
    }
}
