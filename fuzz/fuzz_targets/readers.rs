//! Our reader of conntrack messages and the C library's say the same of any bytes.
#![no_main]

#[path = "../../nfct/tests/readers/differential.rs"]
mod differential;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    differential::compare(bytes);
});
