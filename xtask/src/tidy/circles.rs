//! No circle of imports: children of a module, each with the modules below it, use each other in
//! one direction.

use super::modules::{Use, uses};
use super::{Complaint, Source};
use std::collections::{BTreeMap, VecDeque};

/// Children of one module: the crate's first file, and the module.
type Family<'a> = (&'a str, Vec<&'a str>);
/// For each child, the siblings that it uses, each with its first use.
type Edges<'u, 'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'u Use<'a>>>;

/// No child of a module uses a sibling that uses it, directly or by others.
pub(super) fn siblings_use_each_other_in_one_direction(sources: &[Source]) -> Vec<Complaint> {
    let uses = uses(sources);
    let mut families: BTreeMap<Family<'_>, Edges<'_, '_>> = BTreeMap::new();
    for one in &uses {
        let family = families.entry((one.root, one.parent.clone())).or_default();
        let used = family.entry(one.from).or_default();
        used.entry(one.to).or_insert(one);
    }
    let circles = families.into_values().flat_map(circles);
    let mut complaints: Vec<Complaint> = circles
        .flat_map(|circle| complaints_about(&circle))
        .collect();
    // A file may be in several crates.
    complaints.sort();
    complaints.dedup();
    complaints
}

/// Circles that share no use, the shortest first. Without their uses there is no circle left.
fn circles<'u, 'a>(mut edges: Edges<'u, 'a>) -> Vec<Vec<&'u Use<'a>>> {
    let mut found = Vec::new();
    while let Some(circle) = edges
        .keys()
        .filter_map(|name| circle_of(&edges, name))
        .min_by_key(Vec::len)
    {
        for one in &circle {
            edges.entry(one.from).or_default().remove(one.to);
        }
        found.push(circle);
    }
    found
}

/// The shortest circle by a child, as its uses in order.
fn circle_of<'u, 'a>(edges: &Edges<'u, 'a>, start: &str) -> Option<Vec<&'u Use<'a>>> {
    let mut come_by: BTreeMap<&str, &Use<'a>> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(name) = next.pop_front() {
        for (used, one) in edges.get(name).into_iter().flatten() {
            if !come_by.contains_key(used) {
                come_by.insert(used, one);
                next.push_back(used);
            }
        }
    }
    let mut circle = vec![*come_by.get(start)?];
    while let Some(first) = circle.last().filter(|one| one.from != start) {
        circle.push(come_by[first.from]);
    }
    circle.reverse();
    Some(circle)
}

fn complaints_about(circle: &[&Use<'_>]) -> Vec<Complaint> {
    let mut names: Vec<&str> = circle.iter().map(|one| one.from).collect();
    names.extend(names.first().copied());
    let names = names.join(" -> ");
    circle
        .iter()
        .map(|one| {
            let message = format!("`{}` is used in the circle {names}", one.path);
            one.source.complain(one.line, message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::new(path, text))
            .collect();
        siblings_use_each_other_in_one_direction(&sources)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn each_use_of_a_circle_is_named_with_file_and_line() {
        let files = [
            ("c/src/lib.rs", "mod a; mod b; mod d; mod e;"),
            ("c/src/a.rs", "//! A.\nuse crate::b::X;\nuse crate::e::Y;"),
            ("c/src/b/mod.rs", "mod deep;"),
            ("c/src/b/deep.rs", "use crate::d::X;\nuse crate::d::Y;"),
            ("c/src/d.rs", "fn f() {\n    super::a::g();\n}"),
            ("c/src/e.rs", "pub struct Y;"),
        ];
        assert_eq!(
            complaints(&files),
            [
                "c/src/a.rs:2: `crate::b::X` is used in the circle a -> b -> d -> a",
                "c/src/b/deep.rs:1: `crate::d::X` is used in the circle a -> b -> d -> a",
                "c/src/d.rs:2: `super::a::g` is used in the circle a -> b -> d -> a",
            ]
        );
    }

    #[test]
    fn of_many_circles_the_shortest_are_told_until_none_is_left() {
        let files = [
            ("c/src/lib.rs", "mod a; mod b; mod d;"),
            ("c/src/a.rs", "use crate::b::B;"),
            ("c/src/b.rs", "use crate::a::A;\nuse crate::d::D;"),
            ("c/src/d.rs", "use crate::a::A;\nuse crate::b::B;"),
        ];
        assert_eq!(
            complaints(&files),
            [
                "c/src/a.rs:1: `crate::b::B` is used in the circle a -> b -> a",
                "c/src/b.rs:1: `crate::a::A` is used in the circle a -> b -> a",
                "c/src/b.rs:2: `crate::d::D` is used in the circle b -> d -> b",
                "c/src/d.rs:2: `crate::b::B` is used in the circle b -> d -> b",
            ]
        );
    }

    #[test]
    fn siblings_below_a_module_are_no_others() {
        let files = [
            ("c/src/lib.rs", "mod a; mod b;"),
            ("c/src/a/mod.rs", "mod one; mod two;"),
            ("c/src/a/one.rs", "use super::two::X;"),
            ("c/src/a/two.rs", "use super::one::Y;"),
            ("c/src/b.rs", "use crate::a::one::Y;"),
        ];
        let complaints = complaints(&files);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].ends_with("in the circle one -> two -> one"));
    }

    #[test]
    fn one_direction_and_use_in_tests_are_fine() {
        let files = [
            ("c/src/lib.rs", "mod a; mod b; use a::X; use b::Y;"),
            ("c/src/a.rs", "use super::b::Y;"),
            (
                "c/src/b.rs",
                "/// See [`crate::a::X`].\n#[cfg(test)]\nmod tests { use crate::a::X; }",
            ),
        ];
        assert_eq!(complaints(&files), [""; 0]);
    }

    #[test]
    fn a_re_export_of_the_parent_does_not_hide_a_circle() {
        let files = [
            ("c/src/lib.rs", "mod a; mod b; pub use a::X; pub use b::Y;"),
            ("c/src/a.rs", "use super::Y;"),
            ("c/src/b.rs", "use crate::X;"),
        ];
        assert_eq!(complaints(&files).len(), 2);
    }
}
