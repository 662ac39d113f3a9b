//! Which file a path leads to: the one that defines what it names, through any
//! number of re-exports.

use crate::module::{Crate, Module};

/// Longer chains of re-exports are cycles.
const LONGEST_CHAIN: usize = 16;

impl Crate {
    /// The module that defines what `path` names in the scope of `from`; `None` if that is in another crate.
    pub fn resolve(&self, from: &Module, path: &[String]) -> Option<&Module> {
        self.follow(from, path, 0)
    }

    fn follow(&self, from: &Module, path: &[String], depth: usize) -> Option<&Module> {
        if depth > LONGEST_CHAIN {
            return None;
        }
        let (first, rest) = path.split_first()?;
        let start = match first.as_str() {
            "crate" => self.module(&[]),
            "self" => self.module(&from.path),
            "super" => self.module(from.path.split_last()?.1),
            _ => return self.lookup(from, path, depth),
        }?;
        match rest {
            [] => Some(start),
            [next, ..] if next == "super" => self.follow(start, rest, depth + 1),
            _ => self.lookup_in(start, rest, depth),
        }
    }

    /// Looks up a path below a module. A name that is not found there is one that a macro defines.
    fn lookup_in<'a>(&'a self, module: &'a Module, path: &[String], depth: usize) -> Option<&'a Module> {
        self.lookup(module, path, depth).or(Some(module))
    }

    /// Looks up a relative path in the scope of a module.
    fn lookup(&self, scope: &Module, path: &[String], depth: usize) -> Option<&Module> {
        let (first, rest) = path.split_first()?;
        let child = [scope.path.as_slice(), std::slice::from_ref(first)].concat();
        if let Some(child) = self.module(&child) {
            return if rest.is_empty() { Some(child) } else { self.lookup_in(child, rest, depth + 1) };
        }
        if scope.items.contains(first) {
            return self.module(&scope.path);
        }
        let bound = scope.bindings.iter().find(|(name, _)| name == first);
        if let Some((_, target)) = bound {
            return self.follow(scope, &[target, rest].concat(), depth + 1);
        }
        let inside = |glob: &Vec<String>| {
            // `use State::*` imports the variants of an enum of this module.
            let module = self.follow(scope, glob, depth + 1).filter(|found| found.path != scope.path)?;
            self.lookup(module, path, depth + 1)
        };
        scope.globs.iter().find_map(inside)
    }

    fn module(&self, path: &[String]) -> Option<&Module> {
        self.modules.iter().find(|module| module.path == path)
    }
}
