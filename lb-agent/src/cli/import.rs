//! `lb-agent import`: configurations of other programs.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lb_import::{ImportError, Imported, Kind};

use super::failure::Failure;
use super::output;

/// Translate a configuration of nginx or HAProxy
///
/// The result is printed, or written to a new file with -o. It passes "lb-agent check", and comments name the lines
/// that its parts come from. Directives without a counterpart are listed with file, line and reason; then the exit code
/// is 1.
#[derive(Debug, Args)]
#[command(after_help = "Example: lb-agent import nginx /etc/nginx/nginx.conf -o config.toml")]
pub(super) struct Import {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// Translate a configuration of nginx, whole or some server blocks, with the files that it includes
    #[command(
        after_help = "Example: lb-agent import nginx /etc/nginx/sites-enabled/app -o config.toml"
    )]
    Nginx(Source),
    /// Translate a configuration of HAProxy
    #[command(
        after_help = "Example: lb-agent import haproxy /etc/haproxy/haproxy.cfg -o config.toml"
    )]
    Haproxy(Source),
}

#[derive(Debug, Args)]
struct Source {
    /// The configuration
    file: PathBuf,
    /// File for the result, which must not exist yet [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Succeed although directives have no counterpart
    #[arg(long)]
    lossy: bool,
    /// List directives that need no key too
    #[arg(short, long)]
    verbose: bool,
}

impl Import {
    pub(super) fn carry_out(&self) -> Result<(), Failure> {
        match &self.from {
            From::Nginx(source) => source.carry_out(lb_import::nginx::import),
            From::Haproxy(source) => source.carry_out(lb_import::haproxy::import),
        }
    }
}

impl Source {
    fn carry_out(&self, import: fn(&Path) -> Result<Imported, ImportError>) -> Result<(), Failure> {
        let imported = import(&self.file).map_err(|error| Failure::usage(error.0))?;
        match &self.output {
            Some(path) => write(path, &imported.toml)?,
            None => output::text(&imported.toml)?,
        }
        let is_told = |kind| kind != Kind::Needless || self.verbose;
        let told = imported
            .findings
            .iter()
            .filter(|finding| is_told(finding.kind));
        for finding in told {
            output::note(&finding.to_string());
        }
        match imported.lost().count() {
            0 => Ok(()),
            _ if self.lossy => Ok(()),
            lost => Err(Failure::failed(format!(
                "{lost} of {}'s directives have no counterpart, as listed above; --lossy accepts that",
                self.file.display()
            ))),
        }
    }
}

/// Writes `text` to the new file `path`.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AlreadyExists => " (name another file, or remove it)",
            _ => "",
        };
        Failure::failed(format!("{}: {error}{remedy}", path.display()))
    })
}
