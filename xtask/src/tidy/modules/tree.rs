//! The modules of a crate, from the file that it begins with.

use super::super::Source;
use super::lex::{Token, tokens};
use super::parse::{Parsed, parse};
use std::collections::{HashMap, HashSet};

/// The modules of a crate.
pub(super) struct Tree<'a> {
    /// The path of the crate's first file.
    pub(super) root: &'a str,
    /// All modules; the root comes first.
    pub(super) modules: Vec<Module<'a>>,
}

/// A module and the result of parsing its own code.
pub(super) struct Module<'a> {
    pub(super) source: &'a Source,
    /// The names of the module's path from the root of the crate.
    pub(super) path: Vec<&'a str>,
    /// Index of the parent; the root is its own parent.
    pub(super) parent: usize,
    pub(super) children: HashMap<&'a str, usize>,
    pub(super) code: Parsed<'a>,
}

type Files<'a> = HashMap<&'a str, &'a Source>;

/// The crates: each file that no other one declares as its module begins one.
pub(super) fn trees(sources: &[Source]) -> Vec<Tree<'_>> {
    let rust = || sources.iter().filter(|source| source.is_rust());
    let files: Files<'_> = rust()
        .map(|source| (source.path.as_str(), source))
        .collect();
    let declared: HashSet<&str> = rust()
        .flat_map(|source| {
            let names = declared(&tokens(&source.text));
            names
                .into_iter()
                .filter_map(|name| file_of(&files, &source.path, &[], name))
        })
        .map(|source| source.path.as_str())
        .collect();
    rust()
        .filter(|source| !declared.contains(source.path.as_str()))
        .map(|root| tree(root, &files))
        .collect()
}

/// The names of all modules in files of their own, those for tests among them.
fn declared<'a>(tokens: &[Token<'a>]) -> Vec<&'a str> {
    tokens
        .windows(3)
        .filter(|words| words[0].text == "mod" && words[1].is_name() && words[2].text == ";")
        .map(|words| words[1].text)
        .collect()
}

/// The file of a module that is declared in `file`, inside of the modules `inline` there. A file that a crate begins
/// with has its modules beside it, another one in a directory of its name.
fn file_of<'a>(files: &Files<'a>, file: &str, inline: &[&str], name: &str) -> Option<&'a Source> {
    let (directory, file) = file.rsplit_once('/').unwrap_or(("", file));
    let stem = file.trim_end_matches(".rs");
    let inside: String = inline.iter().map(|name| format!("{name}/")).collect();
    let below = [format!("{directory}/{stem}"), directory.to_owned()];
    below
        .iter()
        .flat_map(|below| {
            let path = format!("{below}/{inside}{name}");
            [format!("{path}.rs"), format!("{path}/mod.rs")]
        })
        .find_map(|path| files.get(path.as_str()).copied())
}

fn tree<'a>(root: &'a Source, files: &Files<'a>) -> Tree<'a> {
    let mut tree = Tree {
        root: &root.path,
        modules: Vec::new(),
    };
    tree.add(root, Vec::new(), 0, parse(&tokens(&root.text)));
    let mut at = 0;
    while at < tree.modules.len() {
        tree.add_children(at, files);
        at += 1;
    }
    tree
}

impl<'a> Tree<'a> {
    fn add(&mut self, source: &'a Source, path: Vec<&'a str>, parent: usize, code: Parsed<'a>) {
        let number = self.modules.len();
        if let Some(name) = path.last() {
            self.modules[parent].children.insert(name, number);
        }
        self.modules.push(Module {
            source,
            path,
            parent,
            children: HashMap::new(),
            code,
        });
    }

    fn add_children(&mut self, at: usize, files: &Files<'a>) {
        let module = &mut self.modules[at];
        let (source, path) = (module.source, module.path.clone());
        let below = |name| [path.as_slice(), &[name]].concat();
        let inline = std::mem::take(&mut module.code.inline);
        let outside = std::mem::take(&mut module.code.files);
        let within = self.inline_names(at);
        for (name, code) in inline {
            self.add(source, below(name), at, code);
        }
        for (_, name) in outside {
            if let Some(file) = file_of(files, &source.path, &within, name) {
                self.add(file, below(name), at, parse(&tokens(&file.text)));
            }
        }
    }

    /// The names of the inline modules around a module, within its file.
    fn inline_names(&self, at: usize) -> Vec<&'a str> {
        let module = &self.modules[at];
        let parent = &self.modules[module.parent];
        if at == module.parent || parent.source.path != module.source.path {
            return Vec::new();
        }
        let mut names = self.inline_names(module.parent);
        names.extend(module.path.last());
        names
    }
}
