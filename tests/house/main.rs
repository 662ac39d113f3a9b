//! Checks the source tree against its own rules: no import points up, a `mod.rs`
//! or `lib.rs` only explains, declares and re-exports, no file has more than
//! 600 lines, and none needs a newer compiler than `rust-version` says.
//!
//! The documentation of each crate's `lib.rs` lists its layers; this test reads
//! that list. With `--nocapture` it prints the number of imports.

#![allow(unreachable_pub, reason = "in a test program, pub is for its other modules")]

mod graph;
mod layers;
mod let_chains;
mod module;
mod resolve;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use graph::Graph;
use layers::Layers;
use module::Crate;

/// External crates that a module must not use.
const FORBIDDEN: &[(&str, &str, &[&str])] = &[
    ("src", "table", &["hyper", "nathistory", "natnames", "tokio"]),
    ("src", "tracker", &["hyper", "nathistory", "natnames"]),
    ("src", "recorder", &["hyper", "natnames"]),
    ("src", "names", &["hyper", "nfct"]),
    ("src", "http", &["nfct"]),
    ("src", "stats", &["hyper", "nfct"]),
];

const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The crates whose `lib.rs` lists layers.
fn crates() -> Vec<Crate> {
    ["nfct/src", "nathistory/src", "natnames/src", "src"]
        .iter()
        .map(|folder| Crate::read(&root(), folder))
        .collect()
}

#[test]
fn imports_never_point_up() {
    let mut faults = Vec::new();
    for krate in crates() {
        let graph = Graph::of(&krate);
        let layers = Layers::read(&krate);
        println!("{}: {} imports between {} files", krate.folder, graph.imports(), krate.modules.len());
        faults.extend(graph.cycles().into_iter().map(|cycle| format!("cycle: {cycle}")));
        faults.extend(layers.faults(&krate, &graph));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `doc/ARCHITECTURE.md` says more of the daemon's layers, and so lists them too.
#[test]
fn the_document_lists_the_layers_of_the_daemon() {
    let document = std::fs::read_to_string(root().join("doc/ARCHITECTURE.md")).unwrap();
    let (_, section) = document.split_once("## Layers of the daemon\n").expect("the section");
    let rows = section.lines().take_while(|line| !line.starts_with("## "));
    let listed: BTreeSet<(usize, String)> = rows
        .filter_map(|row| {
            let mut cells = row.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?.parse().ok()?, cells.next()?))
        })
        .flat_map(|(layer, names)| {
            names.split('`').skip(1).step_by(2).map(move |name| (layer, name.to_owned()))
        })
        .collect();
    assert_eq!(listed, Layers::read(&Crate::read(&root(), "src")).modules());
}

#[test]
fn a_module_uses_no_forbidden_crate() {
    let mut faults = Vec::new();
    for krate in crates() {
        for (_, name, crates) in FORBIDDEN.iter().filter(|(folder, ..)| *folder == krate.folder) {
            let files: Vec<_> = krate
                .modules
                .iter()
                .filter(|module| module.path.first().is_some_and(|top| top == name))
                .collect();
            assert!(!files.is_empty(), "FORBIDDEN has the module {name}, which does not exist");
            for module in files {
                let used = module.externals.iter().filter(|used| crates.contains(&used.as_str()));
                faults.extend(used.map(|used| format!("{} uses the crate {used}", module.file)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_mod_or_lib_file_defines_nothing() {
    let mut faults = Vec::new();
    for krate in crates() {
        for module in krate.modules.iter().filter(|module| module.is_index()) {
            // lib.rs may have a constant, such as the version.
            let is_constant = |item: &&String| module.path.is_empty() && item.to_uppercase() == **item;
            let items = module.items.iter().filter(|item| !is_constant(item));
            faults.extend(items.map(|item| format!("{} defines {item}", module.file)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_short_and_begin_with_their_purpose() {
    let faults: Vec<String> = files().iter().filter_map(|(file, text)| fault_of(file, text)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Clippy knows since when the standard library has a function, but not the language a feature.
#[test]
fn no_file_has_a_let_chain() {
    let mut faults = Vec::new();
    for (file, text) in files() {
        let count = let_chains::count(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        if count > 0 {
            faults.push(format!("{file}: {count} let chains, which need Rust 1.88"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The source files, by path below the root. None if this is a source package, not a checkout: its files come from a
/// checkout where these tests ran.
fn files() -> Vec<(String, String)> {
    let listed = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .output();
    let listed = listed.ok().filter(|listed| listed.status.success());
    let Some(listed) = listed else {
        assert!(std::env::var_os("CI").is_none(), "git does not list the files of {}", root().display());
        return Vec::new();
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().count() > 100, "{listed}");
    // git also lists files that are deleted but not yet committed.
    let read = |file: &str| Some((file.to_owned(), std::fs::read_to_string(root().join(file)).ok()?));
    listed.lines().filter_map(read).collect()
}

fn fault_of(file: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let generated = text.starts_with("/* automatically generated");
    if generated {
        None
    } else if lines > LONGEST_FILE {
        Some(format!("{file}: {lines} lines, at most {LONGEST_FILE}"))
    } else if !text.starts_with("//!") {
        Some(format!("{file}: the first line must be a //! comment that says what the file is for"))
    } else {
        None
    }
}
