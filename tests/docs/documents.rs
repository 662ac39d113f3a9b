//! The documents, and the programs that they show.

use std::fs;
use std::path::Path;

use lab::DaemonBinary;

use super::blocks::{Block, blocks};

pub(super) const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The daemon under test.
pub(super) const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));
pub(super) const CONFIG_PATH: &str = "/etc/pynatconnd.conf";

/// The documents whose blocks are run.
pub(super) const DOCUMENTS: [&str; 5] =
    ["README.md", "doc/OPERATIONS.md", "doc/RECIPES.md", "doc/HTTP.md", "doc/monitoring/README.md"];

pub(super) fn read(name: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn exists(name: &str) -> bool {
    Path::new(ROOT).join(name).exists()
}

/// The first configuration in README.md.
pub(super) fn readme_config() -> String {
    let all = blocks("README.md", &read("README.md"));
    let block = all.into_iter().find(|block| block.language == "ini");
    block.expect("README.md has an ini block").text
}

/// The blocks of a language in all documents.
pub(super) fn of_language(language: &str) -> Vec<Block> {
    let all = DOCUMENTS.iter().flat_map(|name| blocks(name, &read(name)));
    all.filter(|block| block.language == language).collect()
}

/// PATH with the programs of the build first.
pub(super) fn path() -> String {
    let build = Path::new(DAEMON.path()).parent().expect("it lies in a directory").display();
    format!("{build}:{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
