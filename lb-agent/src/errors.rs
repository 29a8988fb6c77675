//! Errors as operators read them: one line, with the causes, and of a verifier's log its last words.

/// aya writes this before the verifier's log, which may have megabytes.
const LOG: &str = "Verifier output:";
/// Starts of the lines that the kernel writes after its reason for refusing a program.
const FIGURES: [&str; 3] = ["processed ", "verification time", "stack depth"];

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    match text.split_once(LOG) {
        Some((before, log)) => without_log(before, log),
        None => text,
    }
}

/// The text before a verifier's log, and the reason that the log ends with.
fn without_log(before: &str, log: &str) -> String {
    let before = before.trim_end_matches([' ', '.']);
    match last_words(log) {
        Some(words) => format!("{before}; the verifier says: {words}"),
        None => before.to_owned(),
    }
}

/// The last line of a verifier's log that is neither an instruction, a line of source, nor a figure.
/// `None` if there is none: without the privilege the kernel writes no log, and a log that was cut
/// off has no end.
fn last_words(log: &str) -> Option<&str> {
    let is_instruction = |line: &str| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.len() < line.len() && rest.starts_with(':')
    };
    log.lines()
        .rev()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with([';', ':']))
        .filter(|line| !FIGURES.iter().any(|figure| line.starts_with(figure)))
        .find(|line| !is_instruction(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("load the program lb_xdp")]
    struct Refused {
        source: Said,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(String);

    fn told(log: &str) -> String {
        let text = format!(
            "the BPF_PROG_LOAD syscall returned Permission denied (os error 13). Verifier output: {log}"
        );
        chain(&Refused { source: Said(text) })
    }

    #[test]
    fn refused_program_is_told_with_the_verifiers_last_words() {
        let log = "0: (bf) r6 = r1\n; let x = 1;\n12: (05) goto pc-3\nback-edge from insn 12 to 9\n\
                   processed 13 insns (limit 1000000) max_states_per_insn 0\nstack depth 32\n";
        assert_eq!(
            told(log),
            "load the program lb_xdp: the BPF_PROG_LOAD syscall returned Permission denied (os error \
             13); the verifier says: back-edge from insn 12 to 9"
        );
    }

    #[test]
    fn empty_or_truncated_log_leaves_the_errno() {
        for log in ["", "\n", "1: (bf) r1 = r2\n2: (61) r4 = *(u32 *)(r6 +0)\n"] {
            assert_eq!(
                told(log),
                "load the program lb_xdp: the BPF_PROG_LOAD syscall returned Permission denied (os \
                 error 13)"
            );
        }
    }

    #[test]
    fn other_errors_are_told_with_their_causes() {
        let error = Refused {
            source: Said("no memory".into()),
        };
        assert_eq!(chain(&error), "load the program lb_xdp: no memory");
    }
}
