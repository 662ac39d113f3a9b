//! Links resolve, named files and tests exist, and the guide explains each warning of the log.

use std::fs;
use std::path::{Path, PathBuf};

use super::blocks::prose;
use super::documents::{ROOT, exists, read};

/// The paths of all documents in the repository.
fn documents() -> Vec<PathBuf> {
    let directories = ["", "doc", "doc/monitoring", "nfct", "nfct-sys"];
    let entries = directories.iter().flat_map(|directory| {
        let entries = fs::read_dir(Path::new(ROOT).join(directory)).expect("it can be read");
        entries.map(|entry| Path::new(directory).join(entry.expect("it can be read").file_name()))
    });
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    found.sort();
    found
}

/// The anchors of a document: its headings in the form that GitHub gives them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_link_resolves() {
    let mut linked = Vec::new();
    let mut links = 0;
    for document in documents() {
        let text = prose(&read(&document));
        let directory = document.parent().expect("a file is somewhere");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, at)| (file, Some(at)));
            let path = if file.is_empty() { document.clone() } else { directory.join(file) };
            let path = Path::new(ROOT).join(path);
            let path = path.canonicalize().unwrap_or_else(|error| {
                panic!("{}: the link {target} leads nowhere: {error}", document.display())
            });
            if let Some(anchor) = anchor {
                assert!(
                    anchors(&read(&path)).iter().any(|heading| heading == anchor),
                    "{}: {target}: no such heading",
                    document.display()
                );
            }
            linked.push(path);
            links += 1;
        }
        // Files of the project that the text names.
        for name in text.split('`').skip(1).step_by(2) {
            let ours = [
                "src/",
                "tests/",
                "doc/",
                "demo/",
                "debian/",
                "systemd/",
                "nfct/",
                "nfct-sys/",
                "benches/",
                "lab/",
            ];
            let plain = !name.contains(['*', '…', ' ', '{', ':']);
            if plain && ours.iter().any(|begin| name.starts_with(begin)) {
                assert!(exists(name), "{}: there is no {name}", document.display());
            }
        }
    }
    for document in documents().iter().filter(|path| path.starts_with("doc")) {
        let path = Path::new(ROOT).join(document).canonicalize().expect("it is there");
        assert!(linked.contains(&path), "no document links to {}", document.display());
    }
    println!("{links} links");
}

/// Each test that doc/EXACTNESS.md names is in the file of its row.
#[test]
fn the_tests_that_show_exactness_exist() {
    let text = read("doc/EXACTNESS.md");
    let (_, tests) = text.split_once("\n## Tests\n").expect("the section is there");
    let mut found = 0;
    for row in tests.lines().filter(|line| line.starts_with('|') && line.contains(".rs`")) {
        let mut names = row.split('`').skip(1).step_by(2);
        let file = names.next().expect("a row names a file first");
        let code = read(file);
        for name in names {
            assert!(code.contains(&format!("fn {name}(")), "doc/EXACTNESS.md: {file} has no test {name}");
            found += 1;
        }
    }
    assert!(found > 50, "only {found} tests are named");
}

/// The longest constant part of a message.
fn fixed_piece(literal: &str) -> &str {
    let pieces = literal.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest));
    pieces.max_by_key(|piece| piece.len()).unwrap_or_default().trim_matches([' ', ':', ';'])
}

#[test]
fn the_guide_explains_each_warning_and_each_exit_status() {
    let guide = read("doc/OPERATIONS.md");
    let mut found = 0;
    let mut directories = vec![Path::new(ROOT).join("src"), Path::new(ROOT).join("natnames/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let code = read(&path);
            let calls = ["log::warn!(", "log::error!(", "Level::Warn,"]
                .into_iter()
                .flat_map(|call| code.split(call).skip(1));
            for rest in calls {
                if rest.trim_start().starts_with("error.to_string()") {
                    continue;
                }
                let rest = rest.trim_start().trim_start_matches("format!(").trim_start();
                let rest = rest.strip_prefix('"').expect("the message is a literal");
                let literal = &rest[..rest.find('"').expect("it ends")];
                let joined: String = literal.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
                let piece = fixed_piece(&joined);
                // `{error}` alone: an error that ends the daemon.
                if piece.is_empty() {
                    continue;
                }
                // The guide may stop at a colon that a remedy follows.
                let piece = piece.split(": set it to").next().unwrap_or_default();
                assert!(
                    guide.contains(piece),
                    "{}: doc/OPERATIONS.md does not explain \"{piece}\"",
                    path.display()
                );
                found += 1;
            }
        }
    }
    assert!(found > 8, "only {found} messages were found");
    for status in [0, 64, 69, 70, 71, 77, 78] {
        let row = |line: &str| {
            line.starts_with(&format!("| {status} |")) || line.starts_with(&format!("| {status}, "))
        };
        assert!(guide.lines().any(row), "doc/OPERATIONS.md does not explain exit status {status}");
    }
}
