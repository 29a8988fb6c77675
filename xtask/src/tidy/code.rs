//! Rules for Rust files.

use super::{Complaint, Source};

/// Longest file that still reads well.
const MOST_LINES: usize = 600;
/// Longest function of an eBPF program.
const MOST_HOOK_LINES: usize = 40;

/// The files that may hold `unsafe`. Each block in them states the fact that makes it sound.
const UNSAFE_FILES: [&str; 41] = [
    "lb-net/src/admission/seats.rs",
    "lb-agent/src/allocator.rs",
    "lb-agent/src/control/peer.rs",
    "lb-agent/src/dataplane/bpf/load.rs",
    "lb-agent/src/dataplane/bpf/packet/flows.rs",
    "lb-agent/src/dataplane/bpf/pod.rs",
    "lb-agent/src/dataplane/bpf/sys.rs",
    "lb-agent/src/doctor/ethtool.rs",
    "lb-net/src/handover/store.rs",
    "lb-agent/src/privilege/maps.rs",
    "lb-net/src/sockopt.rs",
    "lb-ebpf/src/access.rs",
    "lb-ebpf/src/ask.rs",
    "lb-ebpf/src/atomic.rs",
    "lb-ebpf/src/caps.rs",
    "lb-ebpf/src/clock.rs",
    "lb-ebpf/src/connect.rs",
    "lb-ebpf/src/cookies.rs",
    "lb-ebpf/src/decap.rs",
    "lb-ebpf/src/flows.rs",
    "lb-ebpf/src/frame.rs",
    "lb-ebpf/src/hints.rs",
    "lb-ebpf/src/listen.rs",
    "lb-ebpf/src/maps.rs",
    "lb-ebpf/src/object.rs",
    "lb-ebpf/src/packet.rs",
    "lb-ebpf/src/packet_maps.rs",
    "lb-ebpf/src/packets.rs",
    "lb-ebpf/src/pick.rs",
    "lb-ebpf/src/sets.rs",
    "lb-ebpf/src/socket_maps.rs",
    "lb-ebpf/src/steer.rs",
    "lb-ebpf/src/tables.rs",
    "lb-ebpf/src/tc.rs",
    "lb-ebpf/src/world.rs",
    "lb-ebpf/src/xdp.rs",
    "tests/src/topology/hosts.rs",
    "tests/src/kernel_map.rs",
    "tests/src/prog_run.rs",
    "tests/src/tunnel.rs",
    "tests/kernel/bpf_agreement.rs",
];

/// The file with that list.
const THIS_FILE: &str = "xtask/src/tidy/code.rs";

/// Put together here so that this file does not complain about itself.
const LEFT_FOR_LATER: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("dbg", "!("),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

/// Each file opens with a comment about its task and the tasks that it leaves to others.
pub(super) fn files_open_with_their_purpose(sources: &[Source]) -> Vec<Complaint> {
    sources
        .iter()
        .filter(|source| source.is_rust() && !source.text.starts_with("//!"))
        .map(|source| source.complain(1, "opens without `//!`: say what it owns"))
        .collect()
}

/// Functions of the eBPF programs fit on a screen: what the verifier refuses is found by reading.
pub(super) fn hooks_are_short(sources: &[Source]) -> Vec<Complaint> {
    let hooks = sources
        .iter()
        .filter(|source| source.path.starts_with("lb-ebpf/src/"));
    hooks.flat_map(long_functions).collect()
}

fn long_functions(source: &Source) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut begun: Option<(usize, usize)> = None;
    for (number, line) in source.lines() {
        let indent = line.len() - line.trim_start().len();
        let is_whole = line.ends_with(['}', ';']);
        let is_head = !is_whole
            && line
                .split('(')
                .next()
                .is_some_and(|head| head.split(' ').any(|word| word == "fn"));
        match begun {
            None if is_head && !line.trim_start().starts_with("//") => {
                begun = Some((number, indent))
            }
            Some((first, outer)) if line.trim() == "}" && indent == outer => {
                begun = None;
                let lines = number - first + 1;
                if lines > MOST_HOOK_LINES {
                    let message =
                        format!("a function of {lines} lines, over {MOST_HOOK_LINES}: split it");
                    complaints.push(source.complain(first, message));
                }
            }
            _ => {}
        }
    }
    complaints
}

/// A file that takes long to read is two files.
pub(super) fn files_are_short(sources: &[Source]) -> Vec<Complaint> {
    let length = |source: &Source| source.text.lines().count();
    sources
        .iter()
        .filter(|source| source.is_rust() && length(source) > MOST_LINES)
        .map(|source| {
            let message = format!("{} lines, over {MOST_LINES}: split it", length(source));
            source.complain(MOST_LINES, message)
        })
        .collect()
}

/// No file has notes to oneself.
pub(super) fn nothing_is_left_for_later(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| is_ours(&source.path)) {
        for (number, line) in source.lines() {
            for word in LEFT_FOR_LATER.iter().filter(|word| line.contains(**word)) {
                complaints.push(source.complain(number, format!("{word} is left")));
            }
        }
    }
    complaints
}

/// Whether a file is written here. Lock files quote other projects.
fn is_ours(path: &str) -> bool {
    !path.ends_with("package-lock.json") && !path.ends_with("Cargo.lock")
}

/// `unsafe` in the listed files alone, and no file is listed for nothing.
pub(super) fn unsafe_stays_where_it_is_listed(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut unlisted = UNSAFE_FILES.to_vec();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let mut lines = source
            .lines()
            .filter(|(_, line)| has_word(&without_text(line), "unsafe"));
        if UNSAFE_FILES.contains(&source.path.as_str()) {
            let needed = lines.next().is_some();
            unlisted.retain(|path| !needed || *path != source.path);
        } else {
            let message = format!("unsafe outside of the files listed in {THIS_FILE}");
            complaints.extend(lines.map(|(number, _)| source.complain(number, &message)));
        }
    }
    if let Some(list) = sources.iter().find(|source| source.path == THIS_FILE) {
        let needless = |path| list.complain(1, format!("{path} is listed, and has no unsafe"));
        complaints.extend(unlisted.into_iter().map(needless));
    }
    complaints
}

/// Files that may have a TCP listener of tokio's. One lets clients in, and the other has the socket
/// for metrics, which has a limit of its own.
const ACCEPTING_FILES: [&str; 2] = [
    "lb-net/src/admission/listener.rs",
    "lb-agent/src/metrics/listener.rs",
];

/// The code that may have clients.
const SERVING_CRATES: [&str; 3] = ["lb-agent/src/", "lb-http/src/", "lb-net/src/"];

/// No listener goes past the limits on clients.
pub(super) fn clients_are_accepted_in_one_place(sources: &[Source]) -> Vec<Complaint> {
    let is_concerned = |source: &&Source| {
        SERVING_CRATES
            .iter()
            .any(|place| source.path.starts_with(place))
            && !source.path.ends_with("tests.rs")
            && !ACCEPTING_FILES.contains(&source.path.as_str())
    };
    let mut complaints = Vec::new();
    for source in sources.iter().filter(is_concerned) {
        let code = source
            .lines()
            .take_while(|(_, line)| *line != "#[cfg(test)]");
        for (number, line) in code {
            if line.contains("tokio::net") && has_word(&without_text(line), "TcpListener") {
                let message = format!("clients are accepted by {}", ACCEPTING_FILES[0]);
                complaints.push(source.complain(number, message));
            }
        }
    }
    complaints
}

/// The line without string literals and comments, as far as one line can tell.
fn without_text(line: &str) -> String {
    let mut kept = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if !in_string => kept.push(c),
            _ => {}
        }
    }
    kept
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, text: &str) -> Vec<Source> {
        vec![Source::new(path, text)]
    }

    #[test]
    fn function_of_a_program_that_does_not_fit_on_a_screen_is_found() {
        let found = |lines: usize| {
            let text = format!(
                "impl A {{\n    pub fn a(\n    ) {{\n{}    }}\n}}\n",
                "        b();\n".repeat(lines)
            );
            hooks_are_short(&[Source::new("lb-ebpf/src/a.rs", &text)]).len()
        };
        assert_eq!((found(37), found(38)), (0, 1));
    }

    #[test]
    fn a_file_without_a_first_word_is_found() {
        assert!(files_open_with_their_purpose(&one("a.rs", "//! A.\n")).is_empty());
        assert_eq!(
            files_open_with_their_purpose(&one("a.rs", "use b;\n")).len(),
            1
        );
        assert!(files_open_with_their_purpose(&one("a.md", "# A\n")).is_empty());
    }

    #[test]
    fn a_file_of_601_lines_is_found() {
        assert!(files_are_short(&one("a.rs", &"\n".repeat(600))).is_empty());
        assert_eq!(files_are_short(&one("a.rs", &"\n".repeat(601))).len(), 1);
    }

    #[test]
    fn a_note_to_oneself_is_found_with_its_line() {
        let text = format!("fine\n// {}: later\n", LEFT_FOR_LATER[0]);
        let complaints = nothing_is_left_for_later(&one("a.js", &text));
        assert_eq!(complaints[0].line, 2);
        assert!(nothing_is_left_for_later(&one("b/Cargo.lock", &text)).is_empty());
    }

    #[test]
    fn unsafe_code_is_found_and_talk_of_it_is_not() {
        let found = |line: &str| unsafe_stays_where_it_is_listed(&one("a.rs", line)).len();
        assert_eq!(found("let x = unsafe { *p };"), 1);
        assert_eq!(found("unsafe impl Send for A {}"), 1);
        assert_eq!(found("// unsafe would be wrong here"), 0);
        assert_eq!(found("#![forbid(unsafe_code)]"), 0);
        assert_eq!(found(r#"println!("\"unsafe\" {x}");"#), 0);
        assert!(unsafe_stays_where_it_is_listed(&one(UNSAFE_FILES[0], "unsafe {}")).is_empty());
    }

    #[test]
    fn a_listener_that_nobody_counts_is_found() {
        let found =
            |path: &str, text: &str| clients_are_accepted_in_one_place(&one(path, text)).len();
        let text = "use tokio::net::{TcpListener, TcpStream};";
        assert_eq!(found("lb-http/src/accept.rs", text), 1);
        assert_eq!(found("lb-http/src/tests.rs", text), 0);
        assert_eq!(found(ACCEPTING_FILES[0], text), 0);
        assert_eq!(
            found("lb-agent/src/run.rs", "use std::net::TcpListener;"),
            0
        );
        let test = format!("//! Purpose\n#[cfg(test)]\nmod tests {{ {text} }}");
        assert_eq!(found("lb-agent/src/run.rs", &test), 0);
    }

    #[test]
    fn a_file_that_is_listed_for_nothing_is_found() {
        let list = || Source::new(THIS_FILE, "//! T.\n");
        let listed = |text| UNSAFE_FILES.iter().map(move |path| Source::new(path, text));
        let sources: Vec<Source> = listed("unsafe {}\n").chain([list()]).collect();
        assert_eq!(unsafe_stays_where_it_is_listed(&sources), []);
        let sources: Vec<Source> = listed("//! safe\n").chain([list()]).collect();
        assert_eq!(
            unsafe_stays_where_it_is_listed(&sources).len(),
            UNSAFE_FILES.len()
        );
    }
}
