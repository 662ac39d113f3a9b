//! The layers of a crate, as the documentation of its `lib.rs` draws them: a
//! line each, with a number, the names of modules, and what they are for.

use std::collections::BTreeMap;

use crate::graph::Graph;
use crate::module::Crate;

/// The layer of each module below the crate's root.
pub struct Layers(BTreeMap<String, usize>);

impl Layers {
    /// Reads lines such as `3  table, index   the mappings and how they are found`.
    pub fn read(krate: &Crate) -> Self {
        let mut layers = BTreeMap::new();
        for line in krate.documentation.lines() {
            let Some((number, rest)) = line.trim().split_once("  ") else { continue };
            let Ok(number) = number.parse() else { continue };
            let names = rest.trim_start().split("  ").next().unwrap_or_default();
            layers.extend(names.split(',').map(|name| (name.trim().to_owned(), number)));
        }
        Self(layers)
    }

    /// Modules that have no layer, and imports from a lower layer to a higher one.
    pub fn faults(&self, krate: &Crate, graph: &Graph) -> Vec<String> {
        let mut faults = Vec::new();
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
