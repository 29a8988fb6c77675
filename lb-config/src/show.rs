//! A configuration as it could be written.

use std::path::Path;

use crate::error::Problems;
use crate::schema::{Section as _, Show};
use crate::{BUILT_IN, ConfigError, DEFAULT_FILE, hints, raw, reader, text, validate};

/// The first line of a text whose services are in no file.
const NO_SERVICE: &str = "# No [[service]] is written in a file. This one is built in.\n\n";

/// The file at `path` in TOML, with the keys that `show` says; without a path that of [`crate::load`].
pub fn show(path: Option<&Path>, show: Show) -> Result<String, ConfigError> {
    let source = path.unwrap_or(Path::new(DEFAULT_FILE));
    match text(source)? {
        Some(text) => of_text(&text, source, show),
        None if path.is_none() => of_text(BUILT_IN, source, show),
        None => {
            let error = std::io::ErrorKind::NotFound.into();
            Err(ConfigError::unreadable(source, &error))
        }
    }
}

/// `text`, which came from `source`, written anew.
fn of_text(text: &str, source: &Path, show: Show) -> Result<String, ConfigError> {
    let mut problems = Problems::new(text, hints::of_key);
    let document = reader::document(text, &mut problems);
    let raw = document.map(|document| raw::read(&document, &mut problems));
    let mut table = toml::Table::new();
    let mut head = "";
    if let Some(raw) = raw {
        raw.put(show, &mut table);
        if validate::checked(raw, &mut problems).is_built_in {
            head = NO_SERVICE;
        }
    }
    if problems.is_empty() {
        Ok(format!("{head}{table}"))
    } else {
        Err(problems.into_error(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, parse};

    /// The values without their places in the file, as lines differ.
    fn meaning(config: &Config) -> String {
        let text = format!("{config:#?}");
        let names_a_line = |line: &&str| {
            let line = line.trim_start();
            line.starts_with("line: ")
                || line.starts_with("is_built_in: ")
                || line.starts_with("\"/") && line.contains("\": ")
        };
        let lines = text.lines().filter(|line| !names_a_line(line));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn shown_and_read(text: &str) {
        let source = Path::new("f");
        let config = parse(text, source).unwrap();
        for show in [Show::Changed, Show::Effective] {
            let shown = of_text(text, source, show).unwrap();
            let again = parse(&shown, source).unwrap_or_else(|error| panic!("{error}\n{shown}"));
            assert_eq!(meaning(&again), meaning(&config), "{shown}");
            let written = shown.trim_start_matches(NO_SERVICE);
            assert_eq!(of_text(&shown, source, show).unwrap(), written);
        }
    }

    #[test]
    fn shown_configuration_is_read_as_the_same_one() {
        shown_and_read(BUILT_IN);
        shown_and_read(include_str!("../../packaging/config.toml"));
        let cases = crate::tests::corpus::cases();
        let good: Vec<&str> = cases
            .filter(|case| case.0 == "ok")
            .map(|case| case.1)
            .collect();
        assert!(good.len() > 2);
        good.into_iter().for_each(shown_and_read);
        let page = include_str!("../../docs/configuration.md");
        let examples = page.split("```toml\n").skip(1);
        examples.for_each(|rest| shown_and_read(rest.split("```").next().unwrap()));
    }

    #[test]
    fn defaults_are_shown_with_effective_alone() {
        let source = Path::new("f");
        let changed = of_text(BUILT_IN, source, Show::Changed).unwrap();
        assert_eq!(
            changed,
            format!(
                "{NO_SERVICE}[[service]]\nname = \"web\"\nlisten = [\"0.0.0.0:80\", \"[::]:80\"]\n"
            )
        );
        let effective = of_text(BUILT_IN, source, Show::Effective).unwrap();
        assert!(effective.contains("timeout = \"3h\""), "{effective}");
        assert!(effective.contains("flow_table = 65536"), "{effective}");
    }

    #[test]
    fn bad_configuration_is_not_shown() {
        let error = of_text("[agent]\nx = 1", Path::new("f"), Show::Changed).unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
    }
}
