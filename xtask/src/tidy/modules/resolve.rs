//! The modules that a path goes through.

use super::tree::Tree;

/// Imports of imports that are followed at most. Some lead to themselves: `use a::b` in `a` of
/// another `a`.
const MOST_IMPORTS: usize = 16;

/// The modules that a path in the code of `user` names or goes through, imports and re-exports followed. None for a path
/// into another crate.
pub(super) fn modules_of(tree: &Tree<'_>, user: usize, path: &[&str]) -> Vec<usize> {
    let mut walk = Walk {
        tree,
        passed: Vec::new(),
        imports: 0,
    };
    // A name alone was counted at its import, unless `*` brought it.
    if path.len() == 1 && !is_from_glob(tree, user, path[0]) {
        return Vec::new();
    }
    walk.follow(user, path);
    walk.passed
}

fn is_from_glob(tree: &Tree<'_>, user: usize, name: &str) -> bool {
    let module = &tree.modules[user];
    !module.code.globs.is_empty()
        && !module.code.items.contains(name)
        && !module.code.imports.contains_key(name)
}

/// The meaning of a name in a module.
enum Named {
    Module(usize),
    /// An item such as a type or function, or a name of another crate.
    Item,
}

struct Walk<'t, 'a> {
    tree: &'t Tree<'a>,
    passed: Vec<usize>,
    imports: usize,
}

impl Walk<'_, '_> {
    /// Follows a path that is in a module's code.
    fn follow(&mut self, from: usize, path: &[&str]) -> Option<Named> {
        let modules = &self.tree.modules;
        let mut here = from;
        for name in path {
            here = match *name {
                "crate" => 0,
                "self" => here,
                "super" => modules[here].parent,
                name => match self.look_up(here, name)? {
                    Named::Module(module) => module,
                    Named::Item => return Some(Named::Item),
                },
            };
            self.passed.push(here);
        }
        Some(Named::Module(here))
    }

    /// The meaning of a name in a module. `None` if nothing there has it, as with names of other
    /// crates and those that macros make.
    fn look_up(&mut self, here: usize, name: &str) -> Option<Named> {
        let module = &self.tree.modules[here];
        if let Some(child) = module.children.get(name) {
            return Some(Named::Module(*child));
        }
        if self.imports == MOST_IMPORTS {
            return None;
        }
        if let Some(path) = module.code.imports.get(name) {
            self.imports += 1;
            return self.follow(here, path);
        }
        if module.code.items.contains(name) {
            return Some(Named::Item);
        }
        self.imports += 1;
        module
            .code
            .globs
            .iter()
            .find_map(|path| self.look_up_in(here, path, name))
    }

    /// The meaning of a name in the module that `path` leads to. Only a module that has the name
    /// counts as passed.
    fn look_up_in(&mut self, here: usize, path: &[&str], name: &str) -> Option<Named> {
        let before = self.passed.len();
        let found = match self.follow(here, path) {
            Some(Named::Module(module)) => self.look_up(module, name),
            _ => None,
        };
        if found.is_none() {
            self.passed.truncate(before);
        }
        found
    }
}
