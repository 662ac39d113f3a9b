//! doc/COVERAGE.md is complete: it has a row for every function of the installed
//! headers, and the items and tests that it names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::api::Api;

/// One row of one of the document's tables.
struct Row {
    line: usize,
    cells: Vec<String>,
}

impl Row {
    /// The words in backticks of one cell.
    fn names(&self, cell: usize) -> Vec<&str> {
        self.cells[cell].split('`').skip(1).step_by(2).collect()
    }
}

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of all tables, without their heads.
fn rows() -> Vec<Row> {
    let path = crate_folder().join("../doc/COVERAGE.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with("| ---");
    let is_head = |at: usize| lines.get(at + 1).is_some_and(|next| is_rule(next));
    let table_lines = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| line.starts_with('|') && !is_rule(line) && !is_head(*at));
    table_lines
        .map(|(at, line)| {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
            Row { line: at + 1, cells: inner.split('|').map(|cell| cell.trim().to_owned()).collect() }
        })
        .collect()
}

/// A value of pkg-config for the installed library.
fn pkg_config(argument: &str) -> String {
    let output = Command::new("pkg-config")
        .args([argument, "libnetfilter_conntrack"])
        .output()
        .expect("pkg-config is installed, as the build needs it");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

/// The functions of the installed headers, and whether they are deprecated.
fn header_functions() -> BTreeMap<String, bool> {
    let folder = PathBuf::from(pkg_config("--variable=includedir")).join("libnetfilter_conntrack");
    let mut functions = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for declaration in without_comments(&text).split(';') {
            let deprecated = declaration.contains("deprecated");
            functions.extend(declared(declaration).map(|name| (name, deprecated)));
        }
    }
    functions
}

fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    kept + rest
}

/// The library's functions in a C declaration: a name with its prefix before
/// a parenthesis.
fn declared(declaration: &str) -> impl Iterator<Item = String> {
    // The text after the last parenthesis precedes none.
    let before_parentheses = declaration.split('(').take(declaration.matches('(').count());
    before_parentheses.filter_map(|before| {
        let word = before.trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_').next()?;
        (word.starts_with("nfct_") || word.starts_with("nfexp_")).then(|| word.to_owned())
    })
}

#[test]
fn every_function_of_the_installed_headers_has_its_row() {
    let functions = header_functions();
    assert!(functions.len() >= 104, "{} functions found in the headers", functions.len());
    let rows = rows();
    let listed: BTreeSet<&str> = rows.iter().flat_map(|row| row.names(0)).collect();
    let missing: Vec<&String> = functions.keys().filter(|name| !listed.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "doc/COVERAGE.md has no row for {missing:?}");
    // The document and the header agree on what is deprecated.
    for row in &rows {
        for (name, deprecated) in functions.iter().filter(|(name, _)| row.names(0).contains(&name.as_str())) {
            let marked = row.cells[1].starts_with("deprecated");
            assert_eq!(marked, *deprecated, "line {}: {name}", row.line);
        }
    }
}

#[test]
fn no_row_is_empty_and_every_counterpart_exists() {
    let api = Api::read();
    let rows = rows();
    assert!(rows.len() > 100, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        if row.cells.len() != 3 || row.cells.iter().any(String::is_empty) {
            wrong.push(format!("line {}: not three full cells", row.line));
            continue;
        }
        let counterparts = row.names(1);
        if counterparts.is_empty() {
            wrong.push(format!("line {}: no counterpart", row.line));
        }
        let absent = counterparts.iter().filter(|name| !api.has(name));
        wrong.extend(absent.map(|name| format!("line {}: nfct has no {name}", row.line)));
    }
    assert!(wrong.is_empty(), "doc/COVERAGE.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_named_test_exists() {
    let mut wrong = Vec::new();
    for row in rows() {
        let tests = row.names(2);
        if tests.is_empty() {
            wrong.push(format!("line {}: no test", row.line));
        }
        for test in tests {
            let Some((file, name)) = test.split_once("::") else {
                wrong.push(format!("line {}: {test} is no file::test", row.line));
                continue;
            };
            let text = fs::read_to_string(crate_folder().join(file)).unwrap_or_default();
            if !has_test(&text, name) {
                wrong.push(format!("line {}: {file} has no test {name}", row.line));
            }
        }
    }
    assert!(wrong.is_empty(), "doc/COVERAGE.md:\n{}", wrong.join("\n"));
}

/// Whether a function of this name follows `#[test]`, with only other attributes
/// in between.
fn has_test(text: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    text.match_indices(&function).any(|(at, _)| {
        let before = text[..at].trim_end().lines().rev();
        let mut attributes = before.map(str::trim).take_while(|line| line.starts_with("#["));
        attributes.any(|line| line == "#[test]")
    })
}

#[test]
fn the_version_is_that_of_the_headers() {
    assert_eq!(nfct::LIBRARY_VERSION, pkg_config("--modversion"));
}

#[test]
fn the_check_detects_an_error() {
    let api = Api::read();
    assert!(api.has("Query") && api.has("Query::open") && api.has("attr::MARK") && api.has("Labels::eq"));
    assert!(
        !api.has("Query::close")
            && !api.has("Query::counts")
            && !api.has("Handle2")
            && !api.has("attr::NO_SUCH")
    );
    let header = "/* nfct_old(); */ #define X (1)\nstruct nfct_handle; extern int nfct_new_one(struct x *h,\n int (*cb)(int), void *nfct_data);\n\
                  struct nfct_thing *\nnfexp_other (void);";
    let found: Vec<String> = without_comments(header).split(';').flat_map(declared).collect();
    assert_eq!(found, ["nfct_new_one", "nfexp_other"]);
    assert!(
        has_test("#[test]\n#[ignore]\nfn a() {}", "a") && !has_test("fn a() {}\n#[test]\nfn b() {}", "a")
    );
}
