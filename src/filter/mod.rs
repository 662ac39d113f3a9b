//! Which connections are tracked: those that meet every condition of `[filter]`.
//!
//! `conditions` is the [`Filter`], and `kernel` makes a socket filter of it. `test` is the test of one key,
//! and `ranges` the set of values that it compares with.

mod conditions;
mod kernel;
mod ranges;
mod test;
#[cfg(test)]
mod tests;

pub use conditions::Filter;
