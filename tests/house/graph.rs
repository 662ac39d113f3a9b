//! Imports between the files of a crate, and the circles that they form.

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
            let paths = module.mentions.iter().chain(&module.globs);
            let targets =
                paths.filter_map(|path| krate.resolve(module, path)).map(|target| target.file.clone());
            // A mod.rs holds nothing itself: a path through it leads on to another file.
            let targets = targets.filter(|target| *target != module.file && !target.ends_with("/mod.rs"));
            let targets: BTreeSet<String> = targets.collect();
            edges.insert(module.file.clone(), targets);
        }
        Self { edges }
    }

    /// The number of pairs of files where one imports from the other.
    pub fn imports(&self) -> usize {
        self.edges.values().map(BTreeSet::len).sum()
    }

    /// Files that reach each other.
    pub fn circles(&self) -> Vec<String> {
        let reach: BTreeMap<&String, BTreeSet<&String>> =
            self.edges.keys().map(|file| (file, self.reached_from(file))).collect();
        let mut circles = BTreeSet::new();
        for (file, reached) in &reach {
            let circle: Vec<&str> = reached
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
                .map(|other| other.as_str())
                .collect();
            if circle.len() > 1 {
                circles.insert(circle.join(" <-> "));
            }
        }
        circles.into_iter().collect()
    }

    /// The files that `file` imports from, by way of others too; itself among
    /// them if it is in a circle.
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
fn a_circle_is_found_and_a_tree_has_none() {
    let graph = |pairs: &[(&str, &str)]| {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        Graph { edges }
    };
    assert!(graph(&[("a", "b"), ("a", "c"), ("b", "c")]).circles().is_empty());
    let circles = graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")]).circles();
    assert_eq!(circles, ["b <-> c"]);
}
