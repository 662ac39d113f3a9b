//! Imports between the files of a crate, and the cycles that they form.

use std::collections::{BTreeMap, BTreeSet};

use crate::module::Crate;

/// Which files each file imports from.
pub struct Graph {
    pub edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    pub fn of(krate: &Crate) -> Self {
        let mut edges = BTreeMap::new();
        for module in &krate.modules {
            // `use super::*` imports all that a mod.rs re-exports.
            let indexes = module.globs.iter().filter_map(|path| krate.resolve(module, path));
            let scopes = indexes.filter(|target| target.is_index()).chain([module]);
            let targets =
                scopes.flat_map(|scope| scope.mentions.iter().filter_map(|path| krate.resolve(scope, path)));
            // A mod.rs defines nothing: a path through it leads to another file.
            let targets =
                targets.filter(|target| target.file != module.file && !target.file.ends_with("/mod.rs"));
            edges.insert(module.file.clone(), targets.map(|target| target.file.clone()).collect());
        }
        Self { edges }
    }

    /// The number of pairs of files where one imports from the other.
    pub fn imports(&self) -> usize {
        self.edges.values().map(BTreeSet::len).sum()
    }

    /// Groups of files that import each other, directly or through others.
    pub fn cycles(&self) -> Vec<String> {
        let reach: BTreeMap<&String, BTreeSet<&String>> =
            self.edges.keys().map(|file| (file, self.reached_from(file))).collect();
        let mut cycles = BTreeSet::new();
        for (file, reached) in &reach {
            let cycle: Vec<&str> = reached
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
                .map(|other| other.as_str())
                .collect();
            if cycle.len() > 1 {
                cycles.insert(cycle.join(" <-> "));
            }
        }
        cycles.into_iter().collect()
    }

    /// The files that `file` imports from, directly or through others. It includes
    /// `file` itself if that is in a cycle.
    fn reached_from<'a>(&'a self, file: &'a String) -> BTreeSet<&'a String> {
        let mut reached = BTreeSet::new();
        let mut open = vec![file];
        while let Some(next) = open.pop() {
            for target in self.edges.get(next).into_iter().flatten() {
                if reached.insert(target) {
                    open.push(target);
                }
            }
        }
        reached
    }
}

#[test]
fn a_cycle_is_found_and_a_tree_has_none() {
    let graph = |pairs: &[(&str, &str)]| {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        Graph { edges }
    };
    assert!(graph(&[("a", "b"), ("a", "c"), ("b", "c")]).cycles().is_empty());
    let cycles = graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]).cycles();
    assert_eq!(cycles, ["b <-> c"]);
}
