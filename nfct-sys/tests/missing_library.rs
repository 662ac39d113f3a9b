//! A build on a system without the library's headers, or with headers that are
//! too old, stops with the output of pkg-config and the packages to install. Prebuilt
//! bindings and docs.rs need no headers.
//!
//! Nothing is compiled: the test runs the build script that cargo has built for it
//! again, in an environment in which pkg-config finds no library.
#![forbid(unsafe_code)]

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

const PREBUILT: (&str, &str) = ("CARGO_FEATURE_PREBUILT_BINDINGS", "1");

#[test]
fn missing_headers_stop_the_build_with_the_reason_and_the_packages() {
    let packages = folder("missing_library");
    assert_stops(&packages, &[], "'libnetfilter_conntrack'");
}

#[test]
fn too_old_headers_stop_the_build_with_the_reason_and_the_packages() {
    let packages = folder_with_old_library("too_old_library");
    assert_stops(&packages, &[], "1.0.8");
}

#[test]
fn missing_pkg_config_stops_the_build_with_the_reason_and_the_packages() {
    let packages = folder("missing_pkg_config");
    assert_stops(&packages, &[("PKG_CONFIG", "/no/such/pkg-config")], "/no/such/pkg-config");
}

#[test]
fn prebuilt_bindings_need_no_headers() {
    let packages = folder("prebuilt");
    let lines = assert_copies_prebuilt(&packages, &[PREBUILT]);
    assert!(lines.contains("cargo:rustc-link-lib=netfilter_conntrack\n"), "{lines}");
    assert!(lines.contains("cargo:warning=") && lines.contains("'libnetfilter_conntrack'"), "{lines}");
}

#[test]
fn prebuilt_bindings_do_not_fit_a_too_old_library() {
    let packages = folder_with_old_library("prebuilt_too_old");
    assert_stops(&packages, &[PREBUILT], "1.0.8");
}

#[test]
fn docs_rs_needs_neither_headers_nor_the_library() {
    let packages = folder("docs_rs");
    let lines = assert_copies_prebuilt(&packages, &[("DOCS_RS", "1")]);
    assert!(!lines.contains("rustc-link-lib") && !lines.contains("cargo:warning"), "{lines}");
}

#[test]
fn the_build_script_watches_only_files_that_exist() {
    let packages = folder("watched");
    let lines = assert_copies_prebuilt(&packages, &[("DOCS_RS", "1")]);
    let watched: Vec<_> =
        lines.lines().filter_map(|line| line.strip_prefix("cargo:rerun-if-changed=")).collect();
    assert!(watched.contains(&"wrapper.h") && watched.contains(&"prebuilt/bindings.rs"), "{watched:?}");
    for path in watched {
        // cargo runs the script in every build when one of them is missing, and a crate has nothing above its folder.
        assert!(!path.starts_with(".."), "{path}");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{path}");
    }
}

/// Runs the build script with `packages` as the only folder where pkg-config looks.
fn run_build_script(packages: &Path, settings: &[(&str, &str)]) -> Output {
    Command::new(build_script())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PKG_CONFIG_LIBDIR", packages)
        .env("OUT_DIR", packages)
        // The build script runs pkg-config only when these are equal.
        .env("TARGET", "native")
        .env("HOST", "native")
        .env_remove("PKG_CONFIG_PATH")
        .env_remove("CARGO_FEATURE_PREBUILT_BINDINGS")
        .env_remove("DOCS_RS")
        .envs(settings.iter().copied())
        .output()
        .expect("the build script starts")
}

fn assert_stops(packages: &Path, settings: &[(&str, &str)], reason: &str) {
    let output = run_build_script(packages, settings);
    let stderr = String::from_utf8(output.stderr).expect("the build script prints UTF-8");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: nfct-sys needs libnetfilter_conntrack "), "{stderr}");
    assert!(stderr.contains(reason), "{reason} is not there: {stderr}");
    let hint = stderr.lines().last().unwrap_or_default();
    for package in ["libnetfilter-conntrack-dev", "libnetfilter_conntrack-devel"] {
        assert!(hint.starts_with("hint: ") && hint.contains(package), "{package} is not named: {stderr}");
    }
    assert!(!packages.join("bindings.rs").exists(), "the build script went on");
}

/// Returns what the build script prints for cargo.
fn assert_copies_prebuilt(packages: &Path, settings: &[(&str, &str)]) -> String {
    let output = run_build_script(packages, settings);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let prebuilt = Path::new(env!("CARGO_MANIFEST_DIR")).join("prebuilt/bindings.rs");
    let [made, prebuilt] =
        [packages.join("bindings.rs"), prebuilt].map(|path| fs::read(path).expect("a file"));
    assert!(made == prebuilt, "the bindings are not the prebuilt ones");
    String::from_utf8(output.stdout).expect("the build script prints UTF-8")
}

fn folder_with_old_library(name: &str) -> PathBuf {
    let packages = folder(name);
    let library = "Name: libnetfilter_conntrack\nDescription: too old\nVersion: 1.0.8\n";
    fs::write(packages.join("libnetfilter_conntrack.pc"), library).expect("the .pc file is written");
    packages
}

/// A new, empty folder of this name.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the folder is created");
    path
}

/// The build script's executable. cargo stores it next to the folder to which the
/// script writes (`build/nfct-sys-<hash>/`). Older builds may have left others
/// there: the newest belongs to this build.
fn build_script() -> PathBuf {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).expect("OUT_DIR is build/nfct-sys-<hash>/out");
    fs::read_dir(builds)
        .expect("the folder of build scripts can be read")
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("nfct-sys-"))
        .map(|entry| entry.path().join(format!("build-script-build{EXE_SUFFIX}")))
        .filter(|path| path.is_file())
        .max_by_key(|path| modified(path))
        .unwrap_or_else(|| panic!("no build script of nfct-sys in {}", builds.display()))
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
