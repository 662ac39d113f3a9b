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
            let targets: BTreeSet<String> = targets.filter(|target| *target != module.file).collect();
            edges.insert(module.file.clone(), targets);
        }
        Self { edges }
    }

    /// How many pairs of files import one from the other.
    pub fn imports(&self) -> usize {
        self.edges.values().map(BTreeSet::len).sum()
    }

    /// Files that reach each other, but for those that may form a unit.
    pub fn circles(&self, units: &[&[&str]]) -> Vec<String> {
        let reach: BTreeMap<&String, BTreeSet<&String>> =
            self.edges.keys().map(|file| (file, self.reached_from(file))).collect();
        let mut circles = BTreeSet::new();
        for (file, reached) in &reach {
            let circle: Vec<&str> = reached
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
                .map(|other| other.as_str())
                .collect();
            let is_unit = units.iter().any(|unit| circle.iter().all(|file| unit.contains(file)));
            if circle.len() > 1 && !is_unit {
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
