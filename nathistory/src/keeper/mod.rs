//! Makes segments of what is frozen, merges them, and removes old ones.
//!
//! ```text
//! 2  keeper                    what is due next
//! 1  seal, merge, retention    each of the three
//! ```

#[expect(clippy::module_inception, reason = "it is the keeper")]
mod keeper;
mod merge;
mod retention;
mod seal;

pub use keeper::Keeper;
pub(crate) use retention::Retention;
