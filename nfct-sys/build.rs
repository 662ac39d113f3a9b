//! Makes `bindings.rs` in the output folder.
//!
//! By default pkg-config finds the system's libnetfilter_conntrack and bindgen
//! binds what `wrapper.h` includes, reduced to the library's own names. With the
//! feature `prebuilt-bindings`, and on docs.rs, the bindings are those of
//! `prebuilt/bindings.rs`: neither libclang nor the C headers are needed.

use std::path::{Path, PathBuf};
use std::process::exit;
use std::{env, fs};

use pkg_config::Library;

const LIBRARY: &str = "libnetfilter_conntrack";
/// Debian 12 and every later distribution have it; 1.0.9 is the first release
/// that can filter a dump by status, zone and tuple in the kernel.
const OLDEST_LIBRARY: &str = "1.0.9";

const PREBUILT: &str = "prebuilt/bindings.rs";
/// The release whose headers `prebuilt/bindings.rs` was made from.
const PREBUILT_VERSION: &str = "1.0.9";

fn main() {
    // bindgen adds the headers that it reads. A file that does not exist here would run this script in every build.
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed={PREBUILT}");
    println!("cargo:rerun-if-env-changed=DOCS_RS");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    let (made, version) = if env::var_os("DOCS_RS").is_some() {
        // docs.rs has no C library, and documentation needs none.
        (copy_prebuilt(&out), PREBUILT_VERSION.to_owned())
    } else if env::var_os("CARGO_FEATURE_PREBUILT_BINDINGS").is_some() {
        link_for_prebuilt();
        (copy_prebuilt(&out), PREBUILT_VERSION.to_owned())
    } else {
        let library = probe().unwrap_or_else(|error| stop_without_library(&error));
        (bind(&library).write_to_file(&out), library.version)
    };
    if let Err(error) = made {
        stop(&format!("nfct-sys: cannot write {}: {error}", out.display()));
    }
    println!("cargo:version={version}");
    println!("cargo:rustc-env=NFCT_SYS_HEADERS_VERSION={version}");
}

/// Asks pkg-config for the library, and tells cargo how to link it.
fn probe() -> Result<Library, pkg_config::Error> {
    pkg_config::Config::new().atleast_version(OLDEST_LIBRARY).probe(LIBRARY)
}

/// Tells cargo how to link the library whose headers are not read here.
///
/// To check or document a crate nothing is linked, so a library that pkg-config
/// does not find is left to the linker. One that is too old is an error.
fn link_for_prebuilt() {
    let Err(error) = probe() else { return };
    if pkg_config::Config::new().cargo_metadata(false).probe(LIBRARY).is_ok() {
        stop_without_library(&error);
    }
    println!(
        "cargo:warning=pkg-config does not find {LIBRARY}, the linker must: {}",
        one_line(&reason(&error))
    );
    println!("cargo:rustc-link-lib=netfilter_conntrack");
}

fn copy_prebuilt(out: &Path) -> std::io::Result<()> {
    // Not fs::copy: the file may be read-only, and its copy must not be.
    fs::write(out, fs::read(PREBUILT)?)
}

/// Lets bindgen read the system's headers.
fn bind(library: &Library) -> bindgen::Bindings {
    let builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(library.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .allowlist_function("nf(ct|exp)_.*")
        .allowlist_type("nf(ct|exp|_conntrack|_expect)_.*|cntl_msg_types|ctnl_exp_msg_types|ctattr_.*")
        .allowlist_type("(tcp|sctp|dccp)_.*|ip_conntrack_.*|nfgenmsg|nlmsghdr|nfnetlink_groups|nf_nat_.*")
        .allowlist_var("NF(CT|EXP)_.*|ATTR_.*|NFNL_SUBSYS_CTNETLINK.*|NFNLGRP_.*|NF_CT_.*|IPS?_CT_.*|IPS_.*")
        .allowlist_var("CTA_.*|NLM(SG)?_.*|NLA_F_.*|__NFCT_.*")
        // Of netlink itself the conntrack family and the socket options, not the numbers of other families.
        .allowlist_var("NETLINK_(NETFILTER|ADD_MEMBERSHIP|DROP_MEMBERSHIP|LIST_MEMBERSHIPS|LISTEN_ALL_NSID)")
        .allowlist_var("NETLINK_(PKTINFO|BROADCAST_ERROR|NO_ENOBUFS|CAP_ACK|EXT_ACK|GET_STRICT_CHK)")
        // The kernel's and the library's names, unchanged: `sys::ATTR_MARK`, not an enum's variant.
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_debug(true)
        .layout_tests(true)
        .generate_comments(false)
        .use_core()
        .rust_target(bindgen::RustTarget::stable(85, 0).unwrap_or_default())
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));

    // bindgen panics, with a long text, when it finds no libclang.
    std::panic::set_hook(Box::new(|_| ()));
    let bindings = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.generate()));
    let _ = std::panic::take_hook();
    match bindings {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => stop(&format!("nfct-sys: bindgen cannot read the headers: {error}")),
        Err(_) => stop(
            "nfct-sys needs libclang to read the C headers: `apt install libclang-dev` (Debian, Ubuntu) or \
             `dnf install clang-devel` (Fedora); or use the feature prebuilt-bindings, which needs none",
        ),
    }
}

/// Ends the build because pkg-config has not found a library that can be used.
fn stop_without_library(error: &pkg_config::Error) -> ! {
    stop(&format!(
        "nfct-sys needs {LIBRARY} {OLDEST_LIBRARY} or newer with its headers, and pkg-config does not find it:\n\
         {}\n\
         hint: if it is not installed: `apt install libnetfilter-conntrack-dev pkg-config` (Debian, Ubuntu) or \
         `dnf install libnetfilter_conntrack-devel pkgconf-pkg-config` (Fedora)",
        reason(error)
    ))
}

/// What pkg-config itself said, or why it said nothing.
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

/// Text for a place that holds one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ends the build with what is wrong and how to fix it.
fn stop(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1)
}
