//! Raw bindings to libnetfilter_conntrack.
//!
//! By default bindgen generates them at build time from the system's headers. The
//! feature `prebuilt-bindings` uses bindings that come with this crate, for systems
//! without libclang and for cross-compilation.
//!
//! The names are those of the C library and the kernel; see the library's
//! documentation (<https://netfilter.org/projects/libnetfilter_conntrack/>). The
//! crate `nfct` is the safe wrapper. C enumerations become plain constants
//! (`ATTR_MARK`, `NFCT_Q_DUMP`), because the kernel may send values that the headers
//! do not contain.
#![no_std]
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, missing_docs)]
#![allow(unsafe_op_in_unsafe_fn, unreachable_pub, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
