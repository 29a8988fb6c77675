//! The modules, imports and names of a file. Code of tests is left out.

use super::lex::Token;
use std::collections::{HashMap, HashSet};

/// A path as it is written: `["super", "abi", "Ip"]`.
pub(super) type Path<'a> = Vec<&'a str>;

/// One module, as found in its own code.
#[derive(Default)]
pub(super) struct Parsed<'a> {
    /// Modules in other files, `mod name;`, with their lines.
    pub(super) files: Vec<(usize, &'a str)>,
    /// Modules written out: `mod name { … }`.
    pub(super) inline: Vec<(&'a str, Parsed<'a>)>,
    /// Names that `use` brings, with the paths that they stand for.
    pub(super) imports: HashMap<&'a str, Path<'a>>,
    /// Paths of glob imports, `use path::*`.
    pub(super) globs: Vec<Path<'a>>,
    /// Names that are defined here.
    pub(super) items: HashSet<&'a str>,
    /// Every path in the code, those of `use` among them, with its line. Names alone are paths, too.
    pub(super) paths: Vec<(usize, Path<'a>)>,
}

/// Keywords before the name of an item.
const ITEMS: [&str; 9] = [
    "fn",
    "struct",
    "enum",
    "union",
    "trait",
    "type",
    "const",
    "static",
    "macro_rules",
];

/// Reads the code of a module.
pub(super) fn parse<'a>(tokens: &[Token<'a>]) -> Parsed<'a> {
    let mut parsed = Parsed::default();
    let mut at = 0;
    let mut depth = 0_usize;
    while at < tokens.len() {
        match tokens[at].text {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "#" if is_for_tests(&tokens[at..]) => {
                at = end_of_item(tokens, at);
                continue;
            }
            "use" => {
                at = parsed.read_use(tokens, at + 1);
                continue;
            }
            "mod" if names_module(&tokens[at..]) => {
                at = parsed.read_module(tokens, at);
                continue;
            }
            keyword if depth == 0 && ITEMS.contains(&keyword) => {
                let name = tokens[at + 1..].iter().find(|token| token.is_name());
                parsed.items.extend(name.map(|name| name.text));
            }
            _ => {}
        }
        at = parsed.read_path(tokens, at);
    }
    parsed
}

impl<'a> Parsed<'a> {
    /// Reads the path that begins at this token, if one does. Returns the place behind it.
    fn read_path(&mut self, tokens: &[Token<'a>], at: usize) -> usize {
        let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.text == text);
        let is_name = |at: usize| tokens.get(at).is_some_and(Token::is_name);
        let is_member = at > 0 && is(at - 1, ".") && !(at > 1 && is(at - 2, "."));
        if !is_name(at) || is_member || (at > 0 && is(at - 1, "::")) {
            return at + 1;
        }
        let mut path = vec![tokens[at].text];
        let mut end = at + 1;
        while is(end, "::") && is_name(end + 1) {
            path.push(tokens[end + 1].text);
            end += 2;
        }
        self.paths.push((tokens[at].line, path));
        end
    }

    /// Reads the paths after `use`. Returns the index behind the `;`.
    fn read_use(&mut self, tokens: &[Token<'a>], at: usize) -> usize {
        let end = (at..tokens.len())
            .find(|at| tokens[*at].text == ";")
            .unwrap_or(tokens.len());
        // `impl Trait + use<'a>` is no import.
        if tokens.get(at).is_some_and(|token| token.text == "<") {
            return at;
        }
        self.read_tree(&tokens[at..end], &[]);
        end + 1
    }

    /// Reads `a::{b, c as d, e::*}` behind a prefix.
    fn read_tree(&mut self, tree: &[Token<'a>], prefix: &[&'a str]) {
        let mut path = prefix.to_vec();
        for (at, token) in tree.iter().enumerate() {
            match token.text {
                "::" => {}
                "{" => {
                    for branch in branches(&tree[at + 1..]) {
                        self.read_tree(branch, &path);
                    }
                    return;
                }
                "*" => {
                    self.paths.push((token.line, path.clone()));
                    self.globs.push(path);
                    return;
                }
                "as" => {
                    let name = tree.get(at + 1).map(|token| token.text);
                    self.import(path, name, token.line);
                    return;
                }
                "self" if !path.is_empty() => {}
                name => path.push(name),
            }
        }
        if let (Some(name), Some(token)) = (path.last().copied(), tree.last()) {
            self.import(path, Some(name), token.line);
        }
    }

    fn import(&mut self, path: Path<'a>, name: Option<&'a str>, line: usize) {
        self.paths.push((line, path.clone()));
        self.imports.extend(name.map(|name| (name, path)));
    }

    /// Reads `mod name;` or `mod name { … }`. Returns the place behind it.
    fn read_module(&mut self, tokens: &[Token<'a>], at: usize) -> usize {
        let name = tokens[at + 1].text;
        if tokens[at + 2].text == ";" {
            self.files.push((tokens[at].line, name));
            return at + 3;
        }
        let end = end_of_group(tokens, at + 2);
        self.inline.push((name, parse(&tokens[at + 3..end - 1])));
        end
    }
}

/// The parts between the commas of a group, after its `{`.
fn branches<'t, 'a>(tokens: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    let mut found = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "," | "}" if depth == 0 => {
                found.push(&tokens[start..at]);
                start = at + 1;
                if token.text == "}" {
                    return found;
                }
            }
            "}" => depth -= 1,
            _ => {}
        }
    }
    found
}

fn names_module(tokens: &[Token<'_>]) -> bool {
    tokens.get(1).is_some_and(Token::is_name)
        && tokens
            .get(2)
            .is_some_and(|token| [";", "{"].contains(&token.text))
}

/// Whether an attribute begins here that leaves the item to tests: `cfg(test)`, `cfg(all(test, …))`.
fn is_for_tests(tokens: &[Token<'_>]) -> bool {
    let starts = |with: &[&str]| {
        tokens.len() > with.len()
            && tokens
                .iter()
                .zip(with)
                .all(|(token, text)| token.text == *text)
    };
    starts(&["#", "[", "cfg", "(", "test", ")"])
        || starts(&["#", "[", "cfg", "(", "all", "(", "test", ","])
}

/// The place behind the item, field or arm that the attribute at `start` stands before.
fn end_of_item(tokens: &[Token<'_>], start: usize) -> usize {
    let mut at = start;
    while at < tokens.len() {
        match tokens[at].text {
            "{" if tokens[start..at].iter().any(|token| token.text == "use") => {
                at = end_of_group(tokens, at);
            }
            "{" => return end_of_group(tokens, at),
            "(" | "[" => at = end_of_group(tokens, at),
            "}" | ")" | "]" => return at,
            ";" => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The place behind the bracket that closes the one at `start`.
fn end_of_group(tokens: &[Token<'_>], start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::super::lex::tokens;
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let paths = parse(&tokens(text)).paths;
        let shown = |(_, path): &(usize, Path<'_>)| path.join("::");
        paths
            .iter()
            .map(shown)
            .filter(|path| path.contains("::"))
            .collect()
    }

    #[test]
    fn paths_of_use_and_code_are_found() {
        assert_eq!(
            paths("pub use a::{b::{self, c as d}, e::*}; fn f() { g::h(x.i::<j::K>()) }"),
            ["a::b", "a::b::c", "a::e", "g::h", "j::K"]
        );
        let imports = parse(&tokens("use a::{b::{self, c as d}};")).imports;
        assert_eq!(imports["b"], ["a", "b"]);
        assert_eq!(imports["d"], ["a", "b", "c"]);
    }

    #[test]
    fn tests_are_left_out() {
        for text in [
            "#[cfg(test)] use a::{b, c};",
            "#[cfg(test)]\nmod tests { use a::b; }",
            "#[cfg(all(test, unix))] #[inline] fn f([a; 2]: a::B) { a::b() }",
            "#[cfg(test)] impl A { fn b() { c::d() } }",
        ] {
            let text = format!("{text} use z::y;");
            assert_eq!(paths(&text), ["z::y"], "{text}");
        }
        assert_eq!(paths("#[cfg(any(test, unix))] use a::b;"), ["a::b"]);
    }

    #[test]
    fn modules_and_items_are_found() {
        let text = "mod a; pub mod b { fn c() {} } fn d() { fn e() {} }";
        let parsed = parse(&tokens(text));
        assert_eq!(parsed.files, [(1, "a")]);
        assert_eq!(parsed.inline[0].0, "b");
        assert!(parsed.inline[0].1.items.contains("c"));
        assert_eq!(parsed.items, HashSet::from(["d"]));
    }
}
