//! Writes `bindings.rs` to the output folder.
//!
//! By default pkg-config finds the system's libnetfilter_conntrack, and bindgen
//! generates bindings for the library's names in the headers that `wrapper.h` includes. With the
//! feature `prebuilt-bindings`, and on docs.rs, the bindings are those of
//! `prebuilt/bindings.rs`: neither libclang nor the C headers are needed.

use std::path::{Path, PathBuf};
use std::process::exit;
use std::{env, fs};

use pkg_config::Library;

const LIBRARY: &str = "libnetfilter_conntrack";
/// Debian 12 has this release, and later distributions have a newer one.
const OLDEST_LIBRARY: &str = "1.0.9";

const PREBUILT: &str = "prebuilt/bindings.rs";
/// The release from whose headers `prebuilt/bindings.rs` was generated.
const PREBUILT_VERSION: &str = "1.0.9";

fn main() {
    // bindgen adds the headers that it reads. With a file that does not exist, cargo would run this script in
    // every build.
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed={PREBUILT}");
    println!("cargo:rerun-if-env-changed=DOCS_RS");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    let (written, version) = if env::var_os("DOCS_RS").is_some() {
        // docs.rs does not have the C library, and documentation does not need it.
        (copy_prebuilt(&out), PREBUILT_VERSION.to_owned())
    } else if env::var_os("CARGO_FEATURE_PREBUILT_BINDINGS").is_some() {
        link_for_prebuilt();
        (copy_prebuilt(&out), PREBUILT_VERSION.to_owned())
    } else {
        let library = probe().unwrap_or_else(|error| stop_without_library(&error));
        (bind(&library).write_to_file(&out), library.version)
    };
    if let Err(error) = written {
        stop(&format!("nfct-sys: cannot write {}: {error}", out.display()));
    }
    println!("cargo:version={version}");
    println!("cargo:rustc-env=NFCT_SYS_HEADERS_VERSION={version}");
}

/// Finds the library with pkg-config, which also makes cargo link it.
fn probe() -> Result<Library, pkg_config::Error> {
    pkg_config::Config::new().atleast_version(OLDEST_LIBRARY).probe(LIBRARY)
}

/// Makes cargo link the library for the prebuilt bindings.
///
/// A library that pkg-config does not find is only a warning: `cargo check` and
/// `cargo doc` link nothing. A library that is too old is an error.
fn link_for_prebuilt() {
    let Err(error) = probe() else { return };
    if pkg_config::Config::new().cargo_metadata(false).probe(LIBRARY).is_ok() {
        stop_without_library(&error);
    }
    println!(
        "cargo:warning=pkg-config does not find {LIBRARY}, so the linker must find it: {}",
        one_line(&reason(&error))
    );
    println!("cargo:rustc-link-lib=netfilter_conntrack");
}

fn copy_prebuilt(out: &Path) -> std::io::Result<()> {
    // Not fs::copy, which would copy the file's mode: the file may be read-only.
    fs::write(out, fs::read(PREBUILT)?)
}

/// Generates bindings from the system's headers.
fn bind(library: &Library) -> bindgen::Bindings {
    let builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(library.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .allowlist_function("nf(ct|exp)_.*")
        .allowlist_type("nf(ct|exp|_conntrack|_expect)_.*|cntl_msg_types|ctnl_exp_msg_types|ctattr_.*")
        .allowlist_type("(tcp|sctp|dccp)_.*|ip_conntrack_.*|nfgenmsg|nlmsghdr|nfnetlink_groups|nf_nat_.*")
        .allowlist_var("NF(CT|EXP)_.*|ATTR_.*|NFNL_SUBSYS_CTNETLINK.*|NFNLGRP_.*|NF_CT_.*|IPS?_CT_.*|IPS_.*")
        .allowlist_var("CTA_.*|NLM(SG)?_.*|NLA_F_.*|__NFCT_.*")
        // From netlink itself: the netfilter family and the socket options, not the other families.
        .allowlist_var("NETLINK_(NETFILTER|ADD_MEMBERSHIP|DROP_MEMBERSHIP|LIST_MEMBERSHIPS|LISTEN_ALL_NSID)")
        .allowlist_var("NETLINK_(PKTINFO|BROADCAST_ERROR|NO_ENOBUFS|CAP_ACK|EXT_ACK|GET_STRICT_CHK)")
        // Plain constants with the names of the kernel and the library, such as `sys::ATTR_MARK`.
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_debug(true)
        .layout_tests(true)
        .generate_comments(false)
        .use_core()
        .rust_target(bindgen::RustTarget::stable(85, 0).unwrap_or_default())
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));

    // bindgen panics with a long text if it does not find libclang.
    std::panic::set_hook(Box::new(|_| ()));
    let bindings = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.generate()));
    let _ = std::panic::take_hook();
    match bindings {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => stop(&format!("nfct-sys: bindgen cannot read the headers: {error}")),
        Err(_) => stop(
            "nfct-sys needs libclang to read the C headers: `apt install libclang-dev` (Debian, Ubuntu) or \
             `dnf install clang-devel` (Fedora); or use the feature prebuilt-bindings, which does not need libclang",
        ),
    }
}

/// Ends the build because pkg-config has not found a suitable library.
fn stop_without_library(error: &pkg_config::Error) -> ! {
    stop(&format!(
        "nfct-sys needs {LIBRARY} {OLDEST_LIBRARY} or newer with its headers, and pkg-config does not find it:\n\
         {}\n\
         hint: if it is not installed: `apt install libnetfilter-conntrack-dev pkg-config` (Debian, Ubuntu) or \
         `dnf install libnetfilter_conntrack-devel pkgconf-pkg-config` (Fedora)",
        reason(error)
    ))
}

/// The output of pkg-config, or why there is none.
fn reason(error: &pkg_config::Error) -> String {
    match error {
        pkg_config::Error::ProbeFailure { output, .. } | pkg_config::Error::Failure { output, .. }
            if !output.stderr.is_empty() =>
        {
            String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
        }
        pkg_config::Error::Command { command, cause } => format!("cannot run `{}`: {cause}", command.trim()),
        other => other.to_string(),
    }
}

/// The text as one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ends the build with an error.
fn stop(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1)
}
