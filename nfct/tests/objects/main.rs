//! Objects and plain values, without the kernel.

mod attributes;
mod expectations;
mod views;
