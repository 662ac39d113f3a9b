//! Passes the version of the C library that `nfct-sys` was built against to the crate.

fn main() {
    let version =
        std::env::var("DEP_NETFILTER_CONNTRACK_VERSION").expect("nfct-sys names the library's version");
    println!("cargo:rustc-env=NFCT_LIBRARY_VERSION={version}");
    println!("cargo:rerun-if-changed=build.rs");
}
