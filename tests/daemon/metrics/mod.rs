//! `/metrics` is true: known events are counted exactly, in valid formats.

mod counts;
mod formats;
mod page;
mod setup;
