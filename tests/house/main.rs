//! Holds the source tree to its own rules: imports never point back up, a
//! `mod.rs` only explains the cut, and no file grows past 600 lines.
//!
//! The layers are those that each crate's `lib.rs` draws; this test reads the
//! drawing. With `--nocapture` it prints how many imports it has counted.

#![allow(unreachable_pub, reason = "a program of modules: pub is for the modules beside")]

mod graph;
mod layers;
mod module;
mod resolve;

use std::path::{Path, PathBuf};
use std::process::Command;

use graph::Graph;
use layers::Layers;
use module::Crate;

/// External crates that a module must not use.
const FORBIDDEN: &[(&str, &str, &[&str])] = &[
    ("src", "table", &["hyper", "tokio"]),
    ("src", "tracker", &["hyper"]),
    ("src", "http", &["nfct"]),
    ("src", "stats", &["hyper", "nfct"]),
];

const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every crate whose `lib.rs` draws layers.
fn crates() -> Vec<Crate> {
    ["nfct/src", "src"].iter().map(|folder| Crate::read(&root(), folder)).collect()
}

#[test]
fn imports_never_point_back_up() {
    let mut faults = Vec::new();
    for krate in crates() {
        let graph = Graph::of(&krate);
        let layers = Layers::read(&krate);
        println!("{}: {} imports between {} files", krate.folder, graph.imports(), krate.modules.len());
        faults.extend(graph.circles().into_iter().map(|circle| format!("circle: {circle}")));
        faults.extend(layers.faults(&krate, &graph));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_layer_uses_no_crate_that_belongs_to_another() {
    let mut faults = Vec::new();
    for krate in crates() {
        for (_, name, crates) in FORBIDDEN.iter().filter(|(folder, ..)| *folder == krate.folder) {
            for module in
                krate.modules.iter().filter(|module| module.path.first().is_some_and(|top| top == name))
            {
                let used = module.externals.iter().filter(|used| crates.contains(&used.as_str()));
                faults.extend(used.map(|used| format!("{} uses the crate {used}", module.file)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_mod_file_only_explains_the_cut() {
    let mut faults = Vec::new();
    for krate in crates() {
        for module in krate.modules.iter().filter(|module| module.file.ends_with("/mod.rs")) {
            faults.extend(module.items.iter().map(|item| format!("{} defines {item}", module.file)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "*.rs"]).output();
    let listed = listed.ok().filter(|listed| listed.status.success());
    // A source package is no checkout; its files are those of a checkout that was tested.
    let Some(listed) = listed else { return };
    let files = String::from_utf8(listed.stdout).unwrap();
    assert!(files.lines().count() > 100, "{files}");
    let faults: Vec<String> = files.lines().filter_map(|file| fault_of(file.as_ref())).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn fault_of(file: &Path) -> Option<String> {
    // One that is deleted but not committed yet.
    let text = std::fs::read_to_string(root().join(file)).ok()?;
    let lines = text.lines().count();
    let generated = text.starts_with("/* automatically generated");
    if generated {
        None
    } else if lines > LONGEST_FILE {
        Some(format!("{}: {lines} lines, at most {LONGEST_FILE}", file.display()))
    } else if !text.starts_with("//!") {
        Some(format!(
            "{}: the first line must be a //! comment that says what the file is for",
            file.display()
        ))
    } else {
        None
    }
}
