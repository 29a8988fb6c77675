//! The modules of every crate, and the uses between them.
//!
//! `lex` splits a file into tokens, and `parse` reads the modules, imports and names in it. `tree`
//! puts the modules of a crate together, and `resolve` follows a path to the modules that it goes
//! through. It is no compiler: macros are read as they are written, and a method that is called by
//! a dot is no use.

mod lex;
mod parse;
mod resolve;
mod tree;

use super::Source;

/// A use of a sibling, or of a module below the sibling.
pub(super) struct Use<'a> {
    /// The file that has the path in it.
    pub(super) source: &'a Source,
    /// The line, counted from 1.
    pub(super) line: usize,
    /// The path as it is written.
    pub(super) path: String,
    /// The file that the crate begins with.
    pub(super) root: &'a str,
    /// The parent of both modules, from the root of the crate.
    pub(super) parent: Vec<&'a str>,
    /// The child of `parent` that holds the path.
    pub(super) from: &'a str,
    /// The child of `parent` that the path goes through.
    pub(super) to: &'a str,
}

/// All uses between siblings, in every crate.
pub(super) fn uses(sources: &[Source]) -> Vec<Use<'_>> {
    let mut found = Vec::new();
    for tree in tree::trees(sources) {
        for user in 0..tree.modules.len() {
            for (line, path) in &tree.modules[user].code.paths {
                for used in resolve::modules_of(&tree, user, path) {
                    found.extend(between_siblings(&tree, user, used, (*line, path)));
                }
            }
        }
    }
    found
}

/// The modules that a file declares, each with its line; not those for tests, and not those that are written out.
pub(super) fn children(source: &Source) -> Vec<(usize, &str)> {
    parse::parse(&lex::tokens(&source.text)).files
}

/// The use between two siblings: the ancestors of both modules below the module that they share. A
/// module, its ancestors and the modules below it are no siblings.
fn between_siblings<'a>(
    tree: &tree::Tree<'a>,
    user: usize,
    used: usize,
    (line, path): (usize, &[&str]),
) -> Option<Use<'a>> {
    let (from, to) = (&tree.modules[user], &tree.modules[used]);
    let shared = from.path.iter().zip(&to.path).take_while(|(a, b)| a == b);
    let shared = shared.count();
    Some(Use {
        source: from.source,
        line,
        path: path.join("::"),
        root: tree.root,
        parent: from.path[..shared].to_vec(),
        from: from.path.get(shared)?,
        to: to.path.get(shared)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses as `parent: from -> to`.
    fn shown(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::new(path, text))
            .collect();
        let mut shown: Vec<String> = uses(&sources)
            .iter()
            .map(|one| format!("{}: {} -> {}", one.parent.join("::"), one.from, one.to))
            .collect();
        shown.sort();
        shown.dedup();
        shown
    }

    #[test]
    fn uses_count_where_the_siblings_are() {
        let files = [
            ("c/src/lib.rs", "mod a; mod b;"),
            ("c/src/a.rs", "use crate::b::deep::X;"),
            ("c/src/b/mod.rs", "mod deep; mod flat;"),
            ("c/src/b/deep.rs", "pub struct X;"),
            ("c/src/b/flat.rs", "fn f(x: super::deep::X) {}"),
        ];
        assert_eq!(shown(&files), [": a -> b", "b: flat -> deep"]);
    }

    #[test]
    fn a_name_is_followed_through_a_re_export() {
        let files = [
            ("c/src/lib.rs", "mod a; mod b; mod d; pub use d::Y;"),
            ("c/src/a.rs", "use crate::b::X;"),
            ("c/src/b.rs", "pub use super::Y as X;"),
            ("c/src/d.rs", "pub struct Y;"),
        ];
        assert_eq!(shown(&files), [": a -> b", ": a -> d", ": b -> d"]);
    }

    #[test]
    fn what_the_parent_itself_defines_is_no_use() {
        let files = [
            ("c/src/main.rs", "mod a; mod b; struct X; use b::Y;"),
            ("c/src/a.rs", "use super::X; fn f() { crate::X; }"),
            ("c/src/b.rs", "pub struct Y;"),
        ];
        assert_eq!(shown(&files), [""; 0]);
    }

    #[test]
    fn a_glob_brings_what_is_named() {
        let files = [
            (
                "c/src/main.rs",
                "mod a; mod b; mod d; pub use b::Y; use d::Z;",
            ),
            ("c/src/a.rs", "use super::*; fn f(y: Y) {}"),
            ("c/src/b.rs", "pub struct Y;"),
            ("c/src/d.rs", "pub struct Z;"),
        ];
        assert_eq!(shown(&files), [": a -> b"]);
    }

    #[test]
    fn roots_beside_each_other_have_their_own_modules() {
        let files = [
            ("c/src/main.rs", "mod a;"),
            ("c/src/other.rs", "mod a; mod b;"),
            ("c/src/a.rs", "#[cfg(test)] mod tests;"),
            ("c/src/a/tests.rs", "use crate::b;"),
            ("c/src/b.rs", "use crate::a::X;"),
        ];
        assert_eq!(shown(&files), [": b -> a"]);
    }
}
