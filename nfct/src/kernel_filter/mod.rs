//! Filters for events that the kernel runs, so other events do not wake the listener.
//!
//! `filter` is the public [`KernelFilter`], `condition` one of its conditions, and
//! `endpoint_test` a test of one address or port, of which conditions are made.
//! `assembler` turns conditions into a program of classic BPF. The C library's own
//! filter (`nfct_filter`) supports neither ports nor the reply tuple, and before 1.1.0
//! it may drop an IPv6 address that is in the second of two networks.

mod assembler;
mod condition;
mod endpoint_test;
mod filter;
#[cfg(test)]
mod tests;

pub use endpoint_test::EndpointTest;
pub use filter::KernelFilter;
