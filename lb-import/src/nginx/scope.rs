//! Inheritance of directives: a level takes over what it has not itself.

use super::tree::Directive;

/// The levels that hold at a place, the innermost first.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope<'a> {
    levels: Vec<&'a [Directive]>,
}

impl<'a> Scope<'a> {
    /// The scope inside `block`, which stands in this one.
    pub(super) fn inside(&self, block: &'a [Directive]) -> Self {
        let mut levels = vec![block];
        levels.extend(&self.levels);
        Self { levels }
    }

    /// The directives of all levels, the innermost first.
    pub(super) fn levels(&self) -> impl Iterator<Item = &'a [Directive]> {
        self.levels.iter().copied()
    }

    /// The directives of the innermost level.
    pub(super) fn own(&self) -> &'a [Directive] {
        self.levels.first().copied().unwrap_or_default()
    }

    /// Directive `name` of the innermost level that has it.
    pub(super) fn one(&self, name: &str) -> Option<&'a Directive> {
        let has_it = |level: &&'a [Directive]| level.iter().find(|one| one.name == name);
        let found = self.levels.iter().find_map(has_it)?;
        found.take();
        Some(found)
    }

    /// All directives `name` of the innermost level that has one: a level with one of its own forgets those around it.
    pub(super) fn all(&self, name: &str) -> Vec<&'a Directive> {
        for level in &self.levels {
            let found: Vec<&Directive> = level.iter().filter(|one| one.name == name).collect();
            if !found.is_empty() {
                found.iter().for_each(|one| one.take());
                return found;
            }
        }
        Vec::new()
    }

    /// All directives with one of `names`, which are inherited together, of the innermost level that has one.
    pub(super) fn either(&self, names: &[&str]) -> Vec<&'a Directive> {
        let of = |level: &&'a [Directive]| -> Vec<&'a Directive> {
            level
                .iter()
                .filter(|one| names.contains(&one.name.as_str()))
                .collect()
        };
        self.levels
            .iter()
            .map(of)
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    /// Directive `name` of the innermost level alone.
    pub(super) fn here(&self, name: &str) -> Option<&'a Directive> {
        let found = self.own().iter().find(|one| one.name == name)?;
        found.take();
        Some(found)
    }

    /// Whether `name` is `on`, or `usual` where it is not there.
    pub(super) fn flag(&self, name: &str, usual: bool) -> bool {
        self.one(name).map_or(usual, |found| found.arg(0) == "on")
    }
}
