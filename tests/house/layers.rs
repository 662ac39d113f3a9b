//! The layers of a crate, as the documentation of its `lib.rs` lists them: one
//! line each, with a number, the names of modules, and their purpose.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;
use crate::module::Crate;

/// The layer of each module below the crate's root.
pub struct Layers(BTreeMap<String, usize>);

impl Layers {
    /// Reads lines such as `3  table, index   the mappings and their indexes`.
    pub fn read(krate: &Crate) -> Self {
        let mut layers = BTreeMap::new();
        for line in krate.documentation.lines() {
            let Some((number, rest)) = line.trim().split_once("  ") else { continue };
            let Ok(number) = number.parse() else { continue };
            let names = rest.trim_start().split("  ").next().unwrap_or_default();
            // Other names on a line, such as "the crates nfct and nfct-sys", have spaces.
            let modules = names.split(',').map(str::trim).filter(|name| !name.contains(' '));
            layers.extend(modules.map(|name| (name.to_owned(), number)));
        }
        Self(layers)
    }

    /// The modules of each layer.
    pub fn modules(&self) -> BTreeSet<(usize, String)> {
        self.0.iter().map(|(name, layer)| (*layer, name.clone())).collect()
    }

    /// Modules without a layer, layers that list a module that does not exist, and
    /// imports from a lower layer to a higher one.
    pub fn faults(&self, krate: &Crate, graph: &Graph) -> Vec<String> {
        let exists = |name: &String| krate.modules.iter().any(|module| module.path.first() == Some(name));
        let mut faults: Vec<String> = self
            .0
            .keys()
            .filter(|name| !exists(name))
            .map(|name| format!("{}/lib.rs lists {name}, which is no module", krate.folder))
            .collect();
        let layer_of: BTreeMap<&String, Option<usize>> = krate
            .modules
            .iter()
            .filter_map(|module| Some((&module.file, self.0.get(module.path.first()?).copied())))
            .collect();
        for (file, layer) in &layer_of {
            let Some(layer) = layer else {
                faults.push(format!("{file}: its module has no layer in {}/lib.rs", krate.folder));
                continue;
            };
            for target in graph.edges.get(*file).into_iter().flatten() {
                let above = layer_of.get(target).copied().flatten().filter(|above| above > layer);
                if let Some(above) = above {
                    faults.push(format!("{file} (layer {layer}) imports from {target} (layer {above})"));
                }
            }
        }
        faults
    }
}
