//! nfct's reader of conntrack messages and the C library's parser must agree on any bytes.
#![no_main]

#[path = "../../nfct/tests/readers/differential.rs"]
mod differential;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    differential::compare(bytes);
});
