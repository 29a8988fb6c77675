//! Manual pages: `lb-agent man`, and the pages of packages. clap makes the sections about arguments; files, variables,
//! exit status and examples come from the tables here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::failure::Failure;
use super::{Cli, output};
use lb_config::{AgentConfig, DEFAULT_FILE};

/// Print the manual page of a command
///
/// Without a command it is the page of lb-agent. The page is in the form of man(1).
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent man run | man -l -")]
pub(super) struct Print {
    /// Command to print the page of; several words for a command of a command
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

impl Print {
    pub(super) fn carry_out(&self) -> Result<(), Failure> {
        let command = root();
        let mut found = &command;
        for name in &self.command {
            let shown = found
                .get_subcommands()
                .find(|sub| !sub.is_hide_set() && sub.get_name() == name);
            found = shown.ok_or_else(|| {
                let remedy = "\"lb-agent --help\" lists the commands";
                Failure::usage(format!("man: there is no command {name:?} ({remedy})"))
            })?;
        }
        let page = page(found.clone()).map_err(|error| Failure::failed(format!("man: {error}")))?;
        output::text(&page)
    }
}

/// The command line with the names of its pages.
fn root() -> clap::Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// Writes the pages of all commands to `directory`. Pages of hidden commands are left out.
pub(super) fn write_all(directory: &Path) -> io::Result<()> {
    write_below(&root(), directory)
}

fn write_below(command: &clap::Command, directory: &Path) -> io::Result<()> {
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        write_below(inner, directory)?;
    }
    let name: PathBuf = directory.join(Man::new(command.clone()).get_filename());
    fs::write(name, page(command.clone())?)
}

/// The page of `command` in roff.
fn page(command: clap::Command) -> io::Result<String> {
    let example = example(&command);
    let is_root = command.get_name() == "lb-agent";
    let is_run = command.get_name() == "run";
    let has_subcommands = command.get_subcommands().any(|inner| !inner.is_hide_set());
    let has_arguments = command.get_arguments().any(|arg| !arg.is_hide_set());
    let man = Man::new(command).source(concat!("lb-agent ", env!("CARGO_PKG_VERSION")));
    let mut bytes = Vec::new();
    man.render_title(&mut bytes)?;
    man.render_name_section(&mut bytes)?;
    man.render_synopsis_section(&mut bytes)?;
    man.render_description_section(&mut bytes)?;
    if has_arguments {
        man.render_options_section(&mut bytes)?;
    }
    if has_subcommands {
        man.render_subcommands_section(&mut bytes)?;
    }
    let mut roff = Roff::new();
    section(&mut roff, "FILES", &files(is_root || is_run));
    section(&mut roff, "ENVIRONMENT", &environment(is_root || is_run));
    section(&mut roff, "EXIT STATUS", &exit_status(is_root || is_run));
    examples(&mut roff, &example, is_root);
    see_also(&mut roff, is_root);
    roff.to_writer(&mut bytes)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

/// A term and its meaning.
type Entry = (String, &'static str);

fn entry(term: impl ToString, meaning: &'static str) -> Entry {
    (term.to_string(), meaning)
}

/// The files of every command, and `more` of the agent.
fn files(more: bool) -> Vec<Entry> {
    let agent = AgentConfig::default();
    let mut files = vec![
        entry(
            DEFAULT_FILE,
            "The configuration. Without it there is one service on port 80.",
        ),
        entry(
            agent.control.display(),
            "The control socket, by which the commands talk to the agent.",
        ),
    ];
    if more {
        files.extend([
            entry(
                agent.state_dir.display(),
                "The state directory: changes made at run time, and the secret key of the hash. \
                 \"lb-agent stop --purge\" leaves it.",
            ),
            entry(
                agent.pin_dir.display(),
                "Programs, maps and links of the kernel's part, which go on without the agent.",
            ),
            entry(
                "/usr/share/lb-agent/config.schema.json",
                "The JSON schema of configurations, for editors.",
            ),
        ]);
    }
    files
}

/// The variables of every command, and `more` of the agent.
fn environment(more: bool) -> Vec<Entry> {
    let mut variables = vec![
        entry(
            "LB_AGENT_CONTROL",
            "The control socket, in place of --control.",
        ),
        entry("LB_SERVICE", "The service, in place of --service."),
        entry("NO_COLOR", "Any value switches colours off."),
    ];
    if more {
        variables.extend([
            entry(
                "LB_AGENT_LOG",
                "The level of the log, as in debug or info,lb_agent::control=debug. The default is info.",
            ),
            entry(
                "NOTIFY_SOCKET, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES",
                "Set by systemd: readiness, and the sockets that it keeps over a restart of the agent.",
            ),
        ]);
    }
    variables
}

/// The exit codes of every command, and that of `run` if `more`.
fn exit_status(more: bool) -> Vec<Entry> {
    let mut codes = vec![
        entry(0, "Done."),
        entry(1, "Failed."),
        entry(2, "The command line or the configuration has an error."),
        entry(3, "No agent answers."),
    ];
    if more {
        codes.push(entry(4, "lb-agent run was ended by lb-agent stop."));
    }
    codes
}

fn section(roff: &mut Roff, heading: &str, entries: &[Entry]) {
    roff.control("SH", [heading]);
    for (term, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(term.as_str())]);
        roff.text([roman(*meaning)]);
    }
}

/// The command in the help's last line, `Example: …`.
fn example(command: &clap::Command) -> String {
    let help = command.get_after_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let example = help.split("Example: ").nth(1).unwrap_or_default();
    example.trim().to_owned()
}

/// The examples of the first steps, for the page of lb-agent.
const FIRST_STEPS: [(&str, &str); 4] = [
    (
        "Two copies of an application behind port 80:",
        "lb-agent add-backend 5000\nlb-agent add-backend 5001",
    ),
    (
        "The state of all services, and the backend of one client:",
        "lb-agent status\nlb-agent lookup 203.0.113.9",
    ),
    (
        "A changed configuration, checked and put in force:",
        "lb-agent check && lb-agent reload",
    ),
    ("The obstacles on this host:", "sudo lb-agent doctor"),
];

fn examples(roff: &mut Roff, example: &str, is_root: bool) {
    let own = [("", example)];
    let all: &[(&str, &str)] = if is_root { &FIRST_STEPS } else { &own };
    if all.iter().all(|(_, commands)| commands.is_empty()) {
        return;
    }
    roff.control("SH", ["EXAMPLES"]);
    for (about, commands) in all {
        if !about.is_empty() {
            roff.control("PP", []);
            roff.text([roman(*about)]);
        }
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        for line in commands.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

/// Pages of the documentation, by their place in the source.
const DOCUMENTS: [Document; 5] = [
    ("docs/getting-started.md", "The first five minutes."),
    ("docs/configuration.md", "Every key of the configuration."),
    (
        "docs/operations/upgrade.md",
        "A new version without a lost connection.",
    ),
    (
        "docs/operations/uninstall.md",
        "The removal, with and without the state directory.",
    ),
    (
        "docs/guides/nginx.md",
        "The directives of nginx, and what to write instead.",
    ),
];

type Document = (&'static str, &'static str);

fn see_also(roff: &mut Roff, is_root: bool) {
    if is_root {
        section(
            roff,
            "SEE ALSO",
            &DOCUMENTS.map(|(name, about)| entry(name, about)),
        );
    } else {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold("lb-agent"), roman("(1)")]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the commands that have a page.
    fn pages() -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        write_all(directory.path()).unwrap();
        let entries = fs::read_dir(directory.path()).unwrap().flatten();
        let read = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        };
        entries.map(read).collect()
    }

    #[test]
    fn every_page_has_the_sections_that_readers_look_for() {
        let pages = pages();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "lb-agent.1",
            "lb-agent-add-backend.1",
            "lb-agent-config-show.1",
            "lb-agent-man.1",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(!names.contains(&"lb-agent-generate.1"), "{names:?}");
        for (name, page) in &pages {
            for heading in ["NAME", "SYNOPSIS", "FILES", "ENVIRONMENT", "EXAMPLES"] {
                assert!(
                    page.contains(&format!("\n.SH {heading}\n")),
                    "{heading} in {name}"
                );
            }
            for heading in ["EXIT STATUS", "SEE ALSO"] {
                assert!(
                    page.contains(&format!("\n.SH \"{heading}\"\n")),
                    "{heading} in {name}"
                );
            }
            assert!(!page.contains(".SH EXTRA"), "{name}");
        }
    }

    #[test]
    fn page_of_the_agent_names_its_files_variables_and_exit_code() {
        let page = page(root()).unwrap();
        for text in [
            "/var/lib/lb\\-agent",
            "LB_AGENT_LOG",
            "lb\\-agent run was ended by",
            "uninstall.md",
        ] {
            assert!(page.contains(text), "{text}\n{page}");
        }
    }

    #[test]
    fn documents_are_there() {
        for (name, _) in DOCUMENTS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
            assert!(path.is_file(), "{name}");
        }
    }
}
