//! `acl`, `if` and `unless` as hosts, paths and addresses.

use super::tree::Line;

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
    let mut terms = 0;
    let mut rest = rest;
    while let Some((term, after)) = rest.split_first() {
        rest = after;
        terms += 1;
        let (negated, name) = match term.strip_prefix('!') {
            Some("") => {
                let Some((name, after)) = rest.split_first() else {
                    return Err("a condition ends too early".to_owned());
                };
                rest = after;
                (true, name.as_str())
            }
            Some(name) => (true, name),
            None => (false, term.as_str()),
        };
        let negated = negated != is_unless;
        match name {
            "or" | "||" => return Err("alternatives are routes of their own".to_owned()),
            "{" => {
                let end = rest.iter().position(|word| word == "}");
                let end = end.ok_or("a condition has no closing \"}\"")?;
                let mut one = Condition::default();
                add(&mut one, &rest[..end], negated)?;
                condition.and(one)?;
                rest = &rest[end + 1..];
            }
            name => condition.and(named(name, negated, lines)?)?,
        }
    }
    match is_unless && terms > 1 {
        true => Err("unless with several conditions has no counterpart".to_owned()),
        false => Ok(condition),
    }
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
        ("src", _) => condition.clients = Some((texts().collect(), !negated)),
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
