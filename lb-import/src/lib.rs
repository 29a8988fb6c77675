//! Configurations of nginx and HAProxy as configurations of lb-agent.
//!
//! | file | owns |
//! | --- | --- |
//! | `report` | what became of each directive: where it stands, and why it has no counterpart |
//! | `document` | the configuration that comes out, with a comment for the origin of each part |
//! | `haproxy` | files of HAProxy: sections, and what their lines are here |
//! | `nginx` | files of nginx: their syntax, and what their directives are here |
//!
//! A directive is *translated*, *needless* (lb-agent does the same without a key), or *lost*. Each one that is lost is
//! reported with file, line and reason. None is passed over in silence: what no rule has taken is lost.

#![forbid(unsafe_code)]

mod document;
pub mod haproxy;
pub mod nginx;
mod report;

use std::path::Path;

use document::Part;
pub use report::{Finding, Kind, Origin};

/// What came out of a configuration of another program.
#[derive(Debug)]
pub struct Imported {
    /// The configuration in TOML. It passes [`lb_config::parse`].
    pub toml: String,
    /// What is different from the original, in the order of its lines.
    pub findings: Vec<Finding>,
}

impl Imported {
    /// The directives that have no counterpart.
    pub fn lost(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.kind == Kind::Lost)
    }
}

/// A configuration that cannot be read: a sentence, with file and line where there is one.
#[derive(Debug)]
pub struct ImportError(pub String);

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ImportError {}

/// Whether a service of HTTP takes `lines` after its own keys, so that a value in them is not refused later.
fn is_taken(lines: &str) -> bool {
    const SERVICE: &str = "[[service]]\nname = \"a\"\nmode = \"http\"\nlisten = [\"127.0.0.1:1\"]\n\
                           backends = [\"127.0.0.1:2\"]\n";
    lb_config::parse(&format!("{SERVICE}{lines}\n"), Path::new("config.toml")).is_ok()
}

/// Whether a route takes `value` for its key `name`.
fn is_of_a_route(name: &str, value: &str) -> bool {
    let value = toml::Value::from(value);
    is_taken(&format!(
        "[[service.route]]\nanswer = {{ status = 404 }}\n{name} = {value}"
    ))
}

/// The configuration made of `parts` and perhaps `agent`, which came from `path` of `program`.
fn finished(
    (path, program): (&Path, &str),
    agent: Option<Part>,
    parts: Vec<Part>,
    findings: Vec<Finding>,
) -> Result<Imported, ImportError> {
    let path = path.display();
    if parts.is_empty() {
        let lost = findings.iter().filter(|one| one.kind == Kind::Lost);
        let lost: String = lost.map(|finding| format!("\n{finding}")).collect();
        let message = "nothing in it can be translated";
        return Err(ImportError(format!("{path}: {message}{lost}")));
    }
    let parts: Vec<Part> = agent.into_iter().chain(parts).collect();
    let head = format!("From {path} of {program}. Comments name the lines that a part comes from.");
    checked(document::toml(&head, &parts), findings)
}

/// The same text as a checked configuration. A text that does not pass would be a fault of this crate, and is told.
fn checked(toml: String, findings: Vec<Finding>) -> Result<Imported, ImportError> {
    match lb_config::parse(&toml, Path::new("config.toml")) {
        Ok(_) => Ok(Imported { toml, findings }),
        Err(error) => Err(ImportError(format!(
            "the result does not pass \"lb-agent check\": {error}\n{toml}"
        ))),
    }
}
