//! The pages of documentation against the command line: every command in them parses, and the page of commands is
//! what clap says.
//!
//! `LB_AGENT_WRITE_PAGES=1 cargo test -p lb-agent --lib cli::pages` writes docs/commands.md anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, CommandFactory as _};

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The README and every page below docs/, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    let mut directories = vec![root().join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The shell commands of a page's blocks, without comments, and the commands that its text quotes whole.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block = None;
    for line in page.replace("\\\n", " ").lines() {
        match (line.trim().strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language == "sh"),
            (Some(_), Some(_)) => block = None,
            (None, Some(true)) => {
                let line = line.split(" #").next().unwrap_or_default();
                found.extend(line.split(['|', ';', '&']).map(str::to_owned));
            }
            (None, Some(false)) => {}
            (None, None) => {
                let quoted = line.split('`').skip(1).step_by(2);
                let whole = |text: &&str| text.starts_with("lb-agent ") && !text.contains('…');
                found.extend(quoted.filter(whole).map(str::to_owned));
            }
        }
    }
    found
}

/// The words of `command` from the name of the program on; `None` for another program.
fn words(command: &str) -> Option<Vec<&str>> {
    let mut words = command.split_whitespace().peekable();
    words.next_if_eq(&"sudo");
    let program = words.next()?;
    let is_ours = program == "lb-agent" || program.ends_with("/lb-agent");
    is_ours.then(|| std::iter::once("lb-agent").chain(words).collect())
}

#[test]
fn every_command_of_the_pages_parses() {
    let mut checked = 0;
    for (path, page) in pages() {
        for command in commands(&page) {
            let Some(words) = words(&command) else {
                continue;
            };
            checked += 1;
            if let Err(error) = Cli::try_parse_from(words) {
                let harmless = match error.kind() {
                    ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                    // The text names a command without its arguments.
                    ErrorKind::MissingRequiredArgument => command.split(' ').count() == 2,
                    _ => false,
                };
                assert!(harmless, "{}: {command}: {error}", path.display());
            }
        }
    }
    assert!(checked > 40, "only {checked} commands were found");
}

#[test]
fn commands_are_found_in_blocks_and_in_the_text() {
    let page = "Text with `lb-agent stop` and `lb-agent add-backend …`.\n```sh\nsudo lb-agent \\\n status # all\n\
                lb-agent check && x/lb-agent reload\n```\n```toml\nlb-agent no\n```\n";
    let found = commands(page);
    let found: Vec<_> = found.iter().filter_map(|command| words(command)).collect();
    let expected = ["stop", "status", "check", "reload"];
    assert_eq!(found, expected.map(|word| vec!["lb-agent", word]));
}

#[test]
fn the_page_of_commands_is_what_clap_says() {
    let path = root().join("docs/commands.md");
    let expected = page_of_commands();
    if std::env::var_os("LB_AGENT_WRITE_PAGES").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let remedy = "docs/commands.md: write it by LB_AGENT_WRITE_PAGES=1 cargo test -p lb-agent --lib cli::pages";
    assert_eq!(fs::read_to_string(path).unwrap(), expected, "{remedy}");
}

const HEAD: &str = "\
# Commands

This page is generated from the program's own help. `lb-agent help status` shows the same text.

All commands except `run`, `decap`, `man` and `completions` talk to the agent through its control socket. `check`,
`config` and `doctor` work without an agent, too. The option `--control PATH` or the variable `LB_AGENT_CONTROL` names
another socket. The variable `LB_SERVICE` stands for `--service`.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed |
| 2 | the command line or the configuration has an error |
| 3 | no agent answers |
| 4 | `run` was ended by `lb-agent stop` |

| command | purpose |
| --- | --- |
";

fn page_of_commands() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = HEAD.to_owned();
    let shown = || cli.get_subcommands().filter(|command| is_shown(command));
    for command in shown() {
        let name = command.get_name();
        let about = command.get_about().unwrap_or_default();
        writeln!(page, "| [`{name}`](#{name}) | {about} |").unwrap();
    }
    for command in shown() {
        section(&mut page, command);
    }
    page
}

fn is_shown(command: &clap::Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn section(page: &mut String, command: &clap::Command) {
    let name = command.get_name();
    let text = command.get_long_about().or(command.get_about());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let text = wrapped(&text.map(ToString::to_string).unwrap_or_default());
    write!(page, "\n## {name}\n\n{text}\n\n```text\n{usage}\n```\n").unwrap();
    let of_command = |arg: &&Arg| !arg.is_global_set() && arg.get_id() != "help";
    let rows: Vec<String> = command
        .get_arguments()
        .filter(of_command)
        .map(row)
        .collect();
    if !rows.is_empty() {
        page.push_str("\n| argument | meaning | default |\n| --- | --- | --- |\n");
        page.push_str(&rows.concat());
    }
    if let Some(example) = command.get_after_help() {
        let example = example.to_string();
        let example = example.trim_start_matches("Example: ");
        write!(page, "\n```sh\n{example}\n```\n").unwrap();
    }
}

/// One argument: its form, its help with its values, and its default.
fn row(arg: &Arg) -> String {
    let value = || {
        let names = arg.get_value_names().unwrap_or_default();
        let name = names.first().map_or("", |name| name.as_str());
        name.to_owned()
    };
    let form = match arg.get_long() {
        Some(long) if arg.get_action().takes_values() => format!("--{long} {}", value()),
        Some(long) => format!("--{long}"),
        None => value(),
    };
    let help = arg.get_long_help().or(arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| arg.get_action().takes_values())
        .map(|value| {
            let help = value.get_help().map(|help| format!(" ({help})"));
            format!("`{}`{}", value.get_name(), help.unwrap_or_default())
        })
        .collect();
    let (mut help, mut default) = match help.split_once("[default: ") {
        Some((help, default)) => (
            help.trim().to_owned(),
            default.trim_end_matches(']').to_owned(),
        ),
        None => (help, String::new()),
    };
    if !values.is_empty() {
        write!(help, ": {}", values.join(", ")).unwrap();
    }
    if let Some(value) = arg.get_default_values().first()
        && arg.get_action().takes_values()
    {
        default = format!("`{}`", value.to_string_lossy());
    }
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    format!("| `{form}` | {} | {} |\n", cell(&help), cell(&default))
}

/// Lines of at most 120 columns.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ').flat_map(|part| part.split_inclusive('\n')) {
        let line = lines.last_mut().unwrap();
        let width = line.rsplit('\n').next().map_or(0, str::len);
        if width + word.len() >= 120 {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() && !line.ends_with('\n') {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n").replace(" \n", "\n")
}
