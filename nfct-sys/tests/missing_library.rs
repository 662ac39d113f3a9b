//! A build on a system without the library's headers, or with headers that are
//! too old, stops with one line that names the packages to install.
//!
//! Nothing is compiled: the build script that cargo has made for this very
//! test runs once more, in an environment where pkg-config finds no library.
#![forbid(unsafe_code)]

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

#[test]
fn missing_headers_stop_the_build_with_one_line() {
    let packages = folder("missing_library");
    assert_stops_with_one_line(&packages);
}

#[test]
fn too_old_headers_stop_the_build_with_one_line() {
    let packages = folder("too_old_library");
    let library = "Name: libnetfilter_conntrack\nDescription: too old\nVersion: 1.0.8\n";
    fs::write(packages.join("libnetfilter_conntrack.pc"), library).expect("the .pc file is written");
    assert_stops_with_one_line(&packages);
}

/// Runs the build script with `packages` as the only place where pkg-config looks.
fn assert_stops_with_one_line(packages: &Path) {
    let output = Command::new(build_script())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PKG_CONFIG_LIBDIR", packages)
        .env_remove("PKG_CONFIG_PATH")
        .env("OUT_DIR", packages)
        // pkg-config is asked only when these are equal.
        .env("TARGET", "native")
        .env("HOST", "native")
        .output()
        .expect("the build script starts");

    let stderr = String::from_utf8(output.stderr).expect("the build script prints UTF-8");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line:\n{stderr}") };
    assert!(line.starts_with("error: nfct-sys needs libnetfilter_conntrack "), "{line}");
    for package in ["libnetfilter-conntrack-dev", "libnetfilter_conntrack-devel"] {
        assert!(line.contains(package), "{package} is not named: {line}");
    }
    assert!(!packages.join("bindings.rs").exists(), "the build script went on");
}

/// A new, empty folder of this name.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the folder is made");
    path
}

/// The build script's executable. cargo keeps it beside the folder that the
/// script writes to (`build/nfct-sys-<hash>/`); older builds may have left
/// others there, the newest is this one's.
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
