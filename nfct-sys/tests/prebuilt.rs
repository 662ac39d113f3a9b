//! Compares the bindings that come with the crate with those that bindgen makes
//! from this system's headers.
//!
//! They are made on Debian 12, where they must be equal, and in CI everywhere.
//! Other systems have later headers with more constants: there, what both have
//! must be equal. `make bindings` updates the file.
#![forbid(unsafe_code)]
// With the feature, the build copies the file that is under test.
#![cfg(not(feature = "prebuilt-bindings"))]

use std::collections::BTreeMap;
use std::{env, fs};

const FRESH: &str = include_str!(concat!(env!("OUT_DIR"), "/bindings.rs"));
const PREBUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prebuilt/bindings.rs");

/// A check of bindgen's that holds for every target but 32-bit x86, where a
/// `u64` in a structure is aligned to 4 bytes. All other targets have the same bindings.
const DIFFERS_ON_X86: &str = "[\"Alignment of nfct_attr_grp_ctrs\"]";

#[test]
fn prebuilt_bindings_equal_those_that_bindgen_makes() {
    let fresh: String =
        FRESH.lines().filter(|line| !line.contains(DIFFERS_ON_X86)).flat_map(|line| [line, "\n"]).collect();
    assert_eq!(FRESH.lines().count() - fresh.lines().count(), 1, "not one line with {DIFFERS_ON_X86}");
    if env::var_os("UPDATE_BINDINGS").is_some() {
        fs::write(PREBUILT, &fresh).expect("the bindings are written");
    }
    let prebuilt = fs::read_to_string(PREBUILT).expect("the prebuilt bindings are there");

    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if env::var_os("CI").is_some() || system.contains("VERSION_CODENAME=bookworm") {
        let missing: Vec<_> = fresh.lines().filter(|line| !has(&prebuilt, line)).collect();
        let surplus: Vec<_> = prebuilt.lines().filter(|line| !has(&fresh, line)).collect();
        assert!(
            bare(&fresh) == bare(&prebuilt),
            "prebuilt/bindings.rs differs, `make bindings` updates it\nbindgen has: {missing:#?}\n\
             the file has: {surplus:#?}"
        );
    }
    let now = constants(&fresh);
    for (name, value) in constants(&prebuilt) {
        let here = now.get(name).copied().unwrap_or(value);
        assert_eq!(value, here, "{name} in prebuilt/bindings.rs, and in this system's headers");
    }
}

#[test]
fn prebuilt_bindings_name_the_release_that_they_are_made_from() {
    let script = include_str!("../build.rs");
    let named = script.split("PREBUILT_VERSION: &str = \"").nth(1).and_then(|rest| rest.split('"').next());
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if env::var_os("CI").is_some() || system.contains("VERSION_CODENAME=bookworm") {
        assert_eq!(named, Some(env!("NFCT_SYS_HEADERS_VERSION")), "PREBUILT_VERSION in build.rs");
    }
    assert!(named.is_some_and(|version| version.starts_with("1.")), "{named:?}");
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|other| bare(other) == bare(line))
}

/// The text without what depends on how rustfmt is set.
fn bare(text: &str) -> String {
    let packed: String = text.split_whitespace().collect();
    packed.replace(",]", "]").replace(",}", "}").replace(",)", ")")
}

/// The values of the constants by their names.
fn constants(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(':'))
        .filter_map(|(name, rest)| Some((name, rest.split_once('=')?.1.trim())))
        .collect()
}
