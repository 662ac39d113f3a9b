//! Objects and plain values, without the kernel.

mod assignments;
mod attributes;
mod conntrack;
mod expectations;
mod messages;
mod text;
mod views;
