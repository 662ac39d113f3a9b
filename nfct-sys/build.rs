//! Finds the system's libnetfilter_conntrack with pkg-config and lets bindgen
//! bind what `wrapper.h` includes, cut down to the library's own names.

use std::env;
use std::path::PathBuf;
use std::process::exit;

/// Debian 12 and every later distribution have it; 1.0.9 is the first release
/// that can filter a dump by status, zone and tuple in the kernel.
const OLDEST_LIBRARY: &str = "1.0.9";

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed=../wrapper.h");

    let library = pkg_config::Config::new()
        .atleast_version(OLDEST_LIBRARY)
        .probe("libnetfilter_conntrack")
        .unwrap_or_else(|_| {
            stop(&format!(
                "nfct-sys needs libnetfilter_conntrack {OLDEST_LIBRARY} or newer with its headers and \
                 pkg-config: `apt install libnetfilter-conntrack-dev pkg-config` (Debian, Ubuntu) or \
                 `dnf install libnetfilter_conntrack-devel pkgconf-pkg-config` (Fedora)"
            ))
        });
    println!("cargo:version={}", library.version);

    let builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(library.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .allowlist_function("nf(ct|exp)_.*")
        .allowlist_type("nf(ct|exp|_conntrack|_expect)_.*|cntl_msg_types|ctnl_exp_msg_types|ctattr_.*")
        .allowlist_type("(tcp|sctp|dccp)_.*|ip_conntrack_.*|nfgenmsg|nlmsghdr|nfnetlink_groups|nf_nat_.*")
        .allowlist_var("NF(CT|EXP)_.*|ATTR_.*|NFNL_SUBSYS_CTNETLINK.*|NFNLGRP_.*|NF_CT_.*|IPS?_CT_.*|IPS_.*")
        .allowlist_var("CTA_.*|NLM(SG)?_.*|NLA_F_.*|__NFCT_.*")
        // Of netlink itself the family that speaks of connections and the socket's options, not the other
        // families' numbers.
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
    let bindings = match bindings {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => stop(&format!("nfct-sys: bindgen cannot read the headers: {error}")),
        Err(_) => stop(
            "nfct-sys needs libclang to read the C headers: `apt install libclang-dev` (Debian, Ubuntu) or \
             `dnf install clang-devel` (Fedora)",
        ),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        stop(&format!("nfct-sys: cannot write {}: {error}", out.display()));
    }
}

/// Ends the build with one line that says how to mend it.
fn stop(message: &str) -> ! {
    eprintln!("error: {message}");
    exit(1)
}
