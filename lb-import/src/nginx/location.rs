//! `location`: what it matches, and those that stand inside others.

use super::Import;
use super::scope::Scope;
use super::tree::Directive;

/// Requests that a location is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Match {
    /// Paths with this beginning.
    Prefix(String),
    /// This path.
    Exact(String),
    /// Paths that fit a regular expression, with or without case.
    Regex(String),
    /// None: it is named by `try_files` and `error_page`.
    Named(String),
}

/// A location with what holds in it.
#[derive(Clone, Debug)]
pub(super) struct Location<'a> {
    pub(super) directive: &'a Directive,
    pub(super) matches: Match,
    pub(super) scope: Scope<'a>,
}

impl Location<'_> {
    /// Whether only the server itself asks for it.
    pub(super) fn is_internal(&self) -> bool {
        self.scope.here("internal").is_some()
    }

    /// The path of a prefix or an exact location.
    pub(super) fn path(&self) -> &str {
        match &self.matches {
            Match::Prefix(path) | Match::Exact(path) | Match::Regex(path) | Match::Named(path) => {
                path
            }
        }
    }
}

/// All locations of `scope`, those inside others after them.
pub(super) fn all<'a>(scope: &Scope<'a>, import: &Import<'_>) -> Vec<Location<'a>> {
    let mut found = Vec::new();
    for directive in scope.own().iter().filter(|one| one.name == "location") {
        directive.take();
        let Some(matches) = matches(directive) else {
            import.lost(directive, "this location is not understood");
            directive.inside().iter().for_each(Directive::take);
            continue;
        };
        let inside = scope.inside(directive.inside());
        let nested = all(&inside, import);
        found.push(Location {
            directive,
            matches,
            scope: inside,
        });
        found.extend(nested);
    }
    found
}

fn matches(location: &Directive) -> Option<Match> {
    let text = |index: usize| Some(location.arg(index).to_owned()).filter(|text| !text.is_empty());
    Some(match location.arg(0) {
        "=" => Match::Exact(text(1)?),
        "^~" => Match::Prefix(text(1)?),
        "~" | "~*" => Match::Regex(text(1)?),
        named if named.starts_with('@') => Match::Named(named.to_owned()),
        path if path.starts_with('=') && path.len() > 1 => Match::Exact(path[1..].to_owned()),
        path if path.starts_with('/') => Match::Prefix(path.to_owned()),
        _ => return None,
    })
}

/// The extensions in a regular expression of the form `\.(css|js|jpe?g)$`.
pub(super) fn extensions(regex: &str) -> Option<Vec<String>> {
    let inside = regex.trim_start_matches("^.*").trim_start_matches('.');
    let inside = inside.trim_start_matches(['*', '+']);
    let inside = inside.strip_prefix("\\.")?.strip_suffix('$')?;
    let group = inside
        .strip_prefix("(?:")
        .or_else(|| inside.strip_prefix('('));
    let words = match group {
        Some(group) => group.strip_suffix(')')?,
        None => inside,
    };
    let mut extensions = Vec::new();
    for word in words.split('|') {
        extensions.extend(optional(word)?);
    }
    Some(extensions)
}

/// The words that one with a character that may be left out stands for: `jpe?g` is `jpg` and `jpeg`.
fn optional(word: &str) -> Option<Vec<String>> {
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    match word.find('?') {
        None => is_plain(word).then(|| vec![word.to_owned()]),
        Some(at) => {
            let before = word.get(..at.checked_sub(1)?)?;
            let (with, after) = (&word[..at], &word[at + 1..]);
            let both = [format!("{before}{after}"), format!("{with}{after}")];
            both.iter()
                .all(|word| is_plain(word))
                .then(|| both.to_vec())
        }
    }
}

/// Whether a regular expression is that of hidden files alone, as in `/\.ht` and `/\.(?!well-known)`.
pub(super) fn is_of_hidden_files(regex: &str) -> bool {
    let begins = |one: &str| {
        let one = one.strip_prefix('^').unwrap_or(one);
        // `\.ht` by itself would be for `.html` too.
        let names = ["\\.hta", "\\.htp", "\\.ht(access", "\\.ht(passwd"];
        one.starts_with("/\\.")
            || one.starts_with("\\/\\.")
            || names.iter().any(|name| one.starts_with(name))
    };
    let inside = regex
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    match inside.filter(|inside| !inside.contains(['(', ')', '?'])) {
        Some(inside) => inside.split('|').all(begins),
        None => alternatives(regex).into_iter().all(begins),
    }
}

/// The parts of a regular expression between the `|` outside of groups and classes.
fn alternatives(regex: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut from, mut is_escaped, mut in_class) = (0_usize, 0, false, false);
    for (at, char) in regex.char_indices() {
        match char {
            _ if is_escaped => {}
            ']' => in_class = false,
            '[' => in_class = true,
            _ if in_class => {}
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                parts.push(&regex[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        is_escaped = char == '\\' && !is_escaped;
    }
    parts.push(&regex[from..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_found_in_the_usual_forms() {
        let found = |regex: &str| extensions(regex).map(|all| all.join(" "));
        assert_eq!(
            found("\\.(css|js|jpe?g)$").as_deref(),
            Some("css js jpg jpeg")
        );
        assert_eq!(found(".*\\.(png)$").as_deref(), Some("png"));
        assert_eq!(found("^.+\\.php$").as_deref(), None);
        assert_eq!(found("\\.php$").as_deref(), Some("php"));
        assert_eq!(found("\\.(?:woff2?)$").as_deref(), Some("woff woff2"));
        assert_eq!(found("^/api/\\d+$"), None);
        assert!(is_of_hidden_files("/\\.ht") && is_of_hidden_files("/\\.(?!well-known).*"));
        assert!(is_of_hidden_files("/\\.(git|svn)") && is_of_hidden_files("(/\\.git|/\\.svn)"));
        for others in [
            "\\.php$",
            "\\.ht",
            "/\\.|/config/",
            "(/\\.|/config/)",
            "/\\.git|\\.sql$",
            "(^|/)\\.",
        ] {
            assert!(!is_of_hidden_files(others), "{others}");
        }
    }
}
