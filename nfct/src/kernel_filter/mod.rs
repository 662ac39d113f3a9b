//! Filters that the kernel runs for a listener, so that an event of no interest
//! never wakes it.
//!
//! `condition` is the vocabulary, `filter` the public [`KernelFilter`],
//! `assembler` turns conditions into a program of classic BPF. The C library's
//! own filter (`nfct_filter`) has neither ports nor the reply tuple, and before
//! 1.1.0 it may drop an IPv6 address that is in the second of two networks.

mod assembler;
mod condition;
mod filter;
#[cfg(test)]
mod tests;

pub use filter::KernelFilter;
