//! Raw bindings to libnetfilter_conntrack.
//!
//! By default bindgen makes them at build time from the headers of the system
//! that builds. The feature `prebuilt-bindings` takes bindings that come with
//! this crate, for systems without libclang and for cross-compilation.
//!
//! Nothing here is hand-written; the names are the C library's and the
//! kernel's own. Their manual is the library's documentation
//! (<https://netfilter.org/projects/libnetfilter_conntrack/>); the safe
//! wrapper is the crate `nfct`. Constants of C enumerations are plain
//! constants (`ATTR_MARK`, `NFCT_Q_DUMP`), since the kernel may send values
//! that the headers do not know yet.
#![no_std]
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs)]
#![allow(unsafe_op_in_unsafe_fn, unreachable_pub, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
