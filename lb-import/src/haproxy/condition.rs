//! `acl`, `if` and `unless` as hosts, paths and addresses.

use super::tree::Line;
use crate::{is_of_a_route, is_taken};

/// What a condition asks of a request, all of it together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Condition {
    pub(super) hosts: Vec<String>,
    /// Beginnings of paths, or whole ones.
    pub(super) paths: Vec<(String, bool)>,
    /// Clients, and whether it is these (or all others).
    pub(super) clients: Option<(Vec<String>, bool)>,
    /// Whether the connection has TLS.
    pub(super) tls: Option<bool>,
}

impl Condition {
    /// Whether it is for every request.
    pub(super) fn is_always(&self) -> bool {
        *self == Self::default()
    }

    /// The number of kinds of criteria.
    fn kinds(&self) -> usize {
        let kinds = [
            !self.hosts.is_empty(),
            !self.paths.is_empty(),
            self.clients.is_some(),
            self.tls.is_some(),
        ];
        kinds.iter().filter(|is_there| **is_there).count()
    }

    /// Asks what `other` does too, which has to be of another kind.
    fn and(&mut self, other: Self) -> Result<(), String> {
        let kinds = self.kinds() + other.kinds();
        self.hosts.extend(other.hosts);
        self.paths.extend(other.paths);
        self.clients = self.clients.take().or(other.clients);
        self.tls = self.tls.or(other.tls);
        match self.kinds() == kinds {
            true => Ok(()),
            false => Err("several conditions of one kind have no counterpart".to_owned()),
        }
    }

    /// Whether hosts and paths are all that it asks.
    pub(super) fn is_route(&self) -> bool {
        self.clients.is_none() && self.tls.is_none()
    }
}

/// A criterion of a condition: the words between braces, or the name of an `acl`.
#[derive(Clone, Copy)]
enum Term<'w> {
    Inline(&'w [String]),
    Named(&'w str),
}

/// The words after `if` and `unless` as alternatives of criteria, each with whether it is negated.
type Alternatives<'w> = Vec<Vec<(Term<'w>, bool)>>;

impl Term<'_> {
    fn condition(self, negated: bool, lines: &[&Line]) -> Result<Condition, String> {
        match self {
            Term::Named(name) => named(name, negated, lines),
            Term::Inline(words) => {
                let mut condition = Condition::default();
                add(&mut condition, words, negated)?;
                Ok(condition)
            }
        }
    }

    /// Whether what it refuses are some requests of anybody, as those of robots or too many of them, rather than all
    /// clients but those that are known.
    fn is_of_anybody(self, negated: bool, lines: &[&Line]) -> bool {
        let of_one = |criterion: &str| {
            let bare = criterion.strip_prefix("req.").unwrap_or(criterion);
            let bare = bare.to_ascii_lowercase();
            let always = ["user-agent", "referer"]
                .iter()
                .any(|name| bare.contains(name))
                || ["method", "sc_", "sc0_", "sc1_", "sc2_", "src_"]
                    .iter()
                    .any(|one| bare.starts_with(one));
            let listed = bare.contains("(host")
                || ["path", "url", "base", "src", "query"]
                    .iter()
                    .any(|one| bare.starts_with(one));
            always || (listed && !negated)
        };
        match self {
            Term::Inline(words) => words.first().is_some_and(|criterion| of_one(criterion)),
            Term::Named(name) => {
                let mut acls = lines
                    .iter()
                    .filter(|line| line.is("acl") && line.word(1) == name)
                    .peekable();
                ["METH_", "HTTP_"]
                    .iter()
                    .any(|begin| name.starts_with(begin))
                    || (acls.peek().is_some() && acls.all(|line| of_one(line.word(2))))
            }
        }
    }
}

/// The alternatives of `words`, which follow `if` or `unless`.
fn alternatives(words: &[String]) -> Result<Alternatives<'_>, String> {
    let mut all = vec![Vec::new()];
    let mut rest = words;
    let mut negated = false;
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        let name = match word.strip_prefix('!') {
            Some(name) => {
                negated = !negated;
                name
            }
            None => word.as_str(),
        };
        let term = match name {
            "" => continue,
            "or" | "||" => {
                all.push(Vec::new());
                continue;
            }
            "{" => {
                let end = rest.iter().position(|word| word == "}");
                let end = end.ok_or("a condition has no closing \"}\"")?;
                let inside = &rest[..end];
                rest = &rest[end + 1..];
                Term::Inline(inside)
            }
            name => Term::Named(name),
        };
        if let Some(last) = all.last_mut() {
            last.push((term, std::mem::take(&mut negated)));
        }
    }
    match negated || all.iter().any(Vec::is_empty) {
        true => Err("a condition ends too early".to_owned()),
        false => Ok(all),
    }
}

/// The condition at the end of `line`, after word `from`. One that routes cannot express is an error.
pub(super) fn of(line: &Line, from: usize, lines: &[&Line]) -> Result<Condition, String> {
    let words = line.words.get(from..).unwrap_or_default();
    let mut condition = Condition::default();
    let Some((word, rest)) = words.split_first() else {
        return Ok(condition);
    };
    let is_unless = match word.as_str() {
        "if" => false,
        "unless" => true,
        other => return Err(format!("{other} has no counterpart")),
    };
    let alternatives = alternatives(rest)?;
    let [terms] = alternatives.as_slice() else {
        return Err("alternatives are routes of their own".to_owned());
    };
    if is_unless && terms.len() > 1 {
        return Err("unless with several conditions has no counterpart".to_owned());
    }
    for (term, negated) in terms {
        condition.and(term.condition(*negated != is_unless, lines)?)?;
    }
    Ok(condition)
}

/// Requests that a line refuses.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// What is understood of its condition: these requests, and perhaps more.
    pub(super) condition: Condition,
    /// Why the rest is not.
    pub(super) lost: Option<String>,
    /// Whether the rest lets some clients in alone, so that without it nobody may come in.
    pub(super) is_closed: bool,
}

/// The requests that `line` refuses, by each alternative of its condition.
pub(super) fn refused(line: &Line, lines: &[&Line]) -> Vec<Refused> {
    let is_word = |word: &String| word == "if" || word == "unless";
    let Some(at) = line.words.iter().position(is_word) else {
        return vec![Refused::default()];
    };
    let all = match alternatives(&line.words[at + 1..]) {
        Ok(all) if line.word(at) == "unless" => opposite(all),
        Ok(all) => Ok(all),
        Err(why) => Err(why),
    };
    match all {
        Ok(all) => all.iter().map(|terms| of_terms(terms, lines)).collect(),
        Err(why) => vec![Refused {
            lost: Some(why),
            is_closed: true,
            ..Refused::default()
        }],
    }
}

/// The alternatives that hold where none of `all` does.
fn opposite(all: Alternatives<'_>) -> Result<Alternatives<'_>, String> {
    let not = |(term, negated): (_, bool)| (term, !negated);
    match all.as_slice() {
        [_] => Ok(all
            .into_iter()
            .flatten()
            .map(|term| vec![not(term)])
            .collect()),
        _ if all.iter().all(|terms| terms.len() == 1) => {
            Ok(vec![all.into_iter().flatten().map(not).collect()])
        }
        _ => Err("unless with several conditions has no counterpart".to_owned()),
    }
}

fn of_terms(terms: &[(Term<'_>, bool)], lines: &[&Line]) -> Refused {
    let mut refused = Refused::default();
    for (term, negated) in terms {
        match term.condition(*negated, lines) {
            // What is left of two conditions of one kind is for more requests than both.
            Ok(condition) => {
                if let Err(why) = refused.condition.and(condition) {
                    refused.lost = Some(why);
                    refused.is_closed = true;
                }
            }
            Err(why) => {
                refused.lost = Some(why);
                refused.is_closed |= !term.is_of_anybody(*negated, lines);
            }
        }
    }
    refused
}

/// The lines of the `acl` with this name.
fn named(name: &str, negated: bool, lines: &[&Line]) -> Result<Condition, String> {
    if name == "HTTPS" || name == "TRUE" {
        return Err(format!("{name} has no counterpart"));
    }
    let is_it = |line: &&&Line| line.is("acl") && line.word(1) == name;
    let found: Vec<_> = lines.iter().filter(is_it).collect();
    if found.is_empty() {
        return Err(format!("the acl {name} is not there"));
    }
    let mut condition = Condition::default();
    for line in found {
        add(
            &mut condition,
            line.words.get(2..).unwrap_or_default(),
            negated,
        )?;
        line.take();
    }
    match condition.kinds() {
        1 => Ok(condition),
        _ => Err(format!("the acl {name} has alternatives of several kinds")),
    }
}

/// Adds a criterion with its values. Several of one kind in one `acl` are alternatives.
fn add(condition: &mut Condition, words: &[String], negated: bool) -> Result<(), String> {
    let Some((criterion, values)) = words.split_first() else {
        return Err("a condition is empty".to_owned());
    };
    let values = values.iter().filter(|word| *word != "-i" && *word != "--");
    let values: Vec<&String> = values.collect();
    if values.iter().any(|value| value.starts_with('-')) {
        return Err(format!("{criterion} with such flags has no counterpart"));
    }
    let texts = || values.iter().map(|value| (*value).clone());
    let bare = criterion.strip_prefix("req.").unwrap_or(criterion);
    let key = match bare {
        "path_beg" | "path" => Some("path"),
        _ if bare.to_ascii_lowercase().ends_with("(host)") => Some("host"),
        _ => None,
    };
    let is_odd = |value: &&&String| match key {
        Some("host") => !is_of_a_route("host", value.trim_start_matches('.')),
        Some(key) => **value != "/" && !is_of_a_route(key, value.trim_end_matches('/')),
        None if bare == "src" => {
            !is_taken(&format!("allow = [{}]", toml::Value::from(value.as_str())))
        }
        None => false,
    };
    if let Some(odd) = values.iter().find(is_odd) {
        return Err(format!("{criterion} with {odd} has no counterpart"));
    }
    match (bare, negated) {
        ("hdr(host)" | "hdr(Host)", false) => condition.hosts.extend(texts()),
        ("hdr_dom(host)", false) => {
            condition
                .hosts
                .extend(texts().flat_map(|name| [format!("*.{name}"), name]));
        }
        ("hdr_end(host)", false) if values.iter().all(|value| value.starts_with('.')) => {
            condition.hosts.extend(texts().map(|end| format!("*{end}")));
        }
        ("path_beg", false) => condition.paths.extend(texts().map(|path| (path, false))),
        ("path", false) => condition.paths.extend(texts().map(|path| (path, true))),
        // Lines of one `acl` are alternatives.
        ("src", _) => {
            let clients = condition.clients.get_or_insert((Vec::new(), !negated));
            clients.0.extend(texts());
        }
        ("ssl_fc", _) => condition.tls = Some(!negated),
        ("dst_port", _) if values.iter().all(|value| *value == "443") => {
            condition.tls = Some(!negated);
        }
        _ => {
            let not = if negated { "not " } else { "" };
            return Err(format!("{not}{criterion} has no counterpart in routes"));
        }
    }
    Ok(())
}
