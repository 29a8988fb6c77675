//! `lb-agent plan`: the changes that a configuration would make, and the clients it would move.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::{Control, output, wait_for};
use crate::control::message::{Command, Part, Preview, Submitted};
use crate::state::preview::{BackendPreview, Change, Moved, ServicePreview};

/// Preview the changes of a configuration
///
/// The agent compares it with the tables in force: services, addresses, backends, and clients that
/// would move. Changes made at run time stay, as in a reload, unless --forget-runtime is given.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent plan new.toml --max-moved 5%")]
pub(super) struct Plan {
    /// Configuration [default: the agent's own file, as it is now]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same as FILE
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// What `plan` and `reload --dry-run` share.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Fail if more of a service's known clients, or of its open connections, would move than this
    #[arg(long, value_name = "PERCENT", value_parser = super::percent)]
    pub(super) max_moved: Option<Part>,
    /// Forget what was changed at run time in services of the file
    #[arg(long)]
    pub(super) forget_runtime: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Plan {
    pub(super) fn carry_out(self, control: &Control) -> Result<(), Failure> {
        let config = self
            .file
            .as_deref()
            .or(self.config.as_deref())
            .map(submitted)
            .transpose()?;
        show("plan", control, config, &self.options)
    }
}

/// The text of a sound configuration. It is sent as text because the agent may not be allowed to read the
/// file.
fn submitted(path: &Path) -> Result<Submitted, Failure> {
    lb_config::load(Some(path)).map_err(|error| Failure::of_config(&error))?;
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("read {}: {error}", path.display())))?;
    Ok(Submitted {
        text,
        source: path.display().to_string(),
    })
}

/// Asks the agent for the changes, and prints them. `tried` is the name of the command.
pub(super) fn show(
    tried: &str,
    control: &Control,
    config: Option<Submitted>,
    options: &Options,
) -> Result<(), Failure> {
    let failed = |error| Failure::of_call(tried, error);
    let command = Command::Plan {
        config,
        forget_runtime: options.forget_runtime,
    };
    let text = wait_for(control.client().text(&command))?.map_err(failed)?;
    let preview: Preview = serde_json::from_str(&text)
        .map_err(|error| Failure::failed(format!("{tried}: the agent's answer: {error}")))?;
    if options.json {
        output::text(&text)?;
    } else {
        output::text(&render(&preview))?;
    }
    match options.max_moved {
        Some(most) if preview.moved > most.fraction() => Err(Failure::failed(format!(
            "{tried}: {} would move, and {} may (--max-moved)",
            percent(preview.moved),
            percent(most.fraction())
        ))),
        _ => Ok(()),
    }
}

fn render(preview: &Preview) -> String {
    let mut lines = Vec::new();
    if preview.services.is_empty() {
        lines.push("nothing would change".to_owned());
    }
    for service in &preview.services {
        of_service(service, &mut lines);
    }
    lines.extend(preview.notes.iter().cloned());
    if preview.restart {
        lines.push("what has changed under [agent] comes with a restart only".to_owned());
    }
    lines.push(String::new());
    lines.join("\n")
}

fn of_service(service: &ServicePreview, lines: &mut Vec<String>) {
    let verb = match service.change {
        Change::Added => "comes",
        Change::Removed => "goes",
        Change::Changed => "changes",
    };
    let was = service.was.as_ref();
    let was = was.map_or_else(String::new, |was| format!(" (now {was})"));
    lines.push(format!("{}{was} {verb}", service.name));
    for (sign, addresses) in [("+", &service.listen_added), ("-", &service.listen_removed)] {
        let listen = addresses
            .iter()
            .map(|address| format!("  {sign} listen {address}"));
        lines.extend(listen);
    }
    lines.extend(
        service
            .settings
            .iter()
            .map(|setting| format!("  ~ {setting}")),
    );
    lines.extend(service.backends.iter().map(of_backend));
    if service.change == Change::Changed {
        lines.push(format!(
            "  {} of the slots change hands",
            percent(service.slots_moved)
        ));
    }
    if service.change != Change::Added {
        lines.push(format!(
            "  {} would move; {} {} on backends that would get nobody, and would go on",
            of("known client", service.clients),
            of("open connection", service.connections),
            if service.connections.of == 1 {
                "is"
            } else {
                "are"
            },
        ));
    }
}

fn of_backend(backend: &BackendPreview) -> String {
    let sign = match backend.change {
        Change::Added => "+",
        Change::Removed => "-",
        Change::Changed => "~",
    };
    let mut words = backend.settings.clone();
    let (before, after) = (percent(backend.share_before), percent(backend.share_after));
    if before != after {
        words.push(format!("share {before} -> {after}"));
    } else if words.is_empty() && backend.change == Change::Changed {
        words.push(format!("share {before}, but for some slots"));
    }
    format!("  {sign} {}  {}", backend.address, words.join(", "))
        .trim_end()
        .to_owned()
}

/// "3 of 120 known clients".
fn of(what: &str, Moved { moved, of }: Moved) -> String {
    format!("{moved} of {of} {what}{}", if of == 1 { "" } else { "s" })
}

fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_a_line() {
        let backend = |address: &str, change, before, after| BackendPreview {
            address: address.parse().unwrap(),
            change,
            settings: Vec::new(),
            share_before: before,
            share_after: after,
            connections: 1,
        };
        let preview = Preview {
            services: vec![ServicePreview {
                name: "web".to_owned(),
                was: Some("app".to_owned()),
                change: Change::Changed,
                listen_added: vec!["0.0.0.0:81".parse().unwrap()],
                listen_removed: vec!["0.0.0.0:80".parse().unwrap()],
                settings: vec!["affinity: 3h -> 1h".to_owned()],
                backends: vec![
                    BackendPreview {
                        settings: vec!["weight 1 -> 2".to_owned()],
                        ..backend("127.0.0.1:5000", Change::Changed, 0.5, 0.5)
                    },
                    backend("127.0.0.1:5001", Change::Added, 0.0, 0.5),
                    backend("127.0.0.1:5002", Change::Removed, 0.5, 0.0),
                ],
                slots_moved: 0.5,
                clients: Moved { moved: 3, of: 120 },
                connections: Moved { moved: 1, of: 1 },
            }],
            moved: 1.0,
            notes: vec!["app is web from now on".to_owned()],
            restart: true,
        };
        let expected = "\
web (now app) changes
  + listen 0.0.0.0:81
  - listen 0.0.0.0:80
  ~ affinity: 3h -> 1h
  ~ 127.0.0.1:5000  weight 1 -> 2
  + 127.0.0.1:5001  share 0.0% -> 50.0%
  - 127.0.0.1:5002  share 50.0% -> 0.0%
  50.0% of the slots change hands
  3 of 120 known clients would move; 1 of 1 open connection is on backends that would get nobody, and would go on
app is web from now on
what has changed under [agent] comes with a restart only
";
        assert_eq!(render(&preview), expected);
        let nothing = Preview {
            services: Vec::new(),
            moved: 0.0,
            notes: Vec::new(),
            restart: false,
        };
        assert_eq!(render(&nothing), "nothing would change\n");
    }
}
