//! The wrapper on the real kernel, each test in its own network namespaces.
//!
//! Needs root. Without it each test prints a message and does nothing.

#[cfg(feature = "tokio")]
mod async_query;
mod callbacks;
mod dumps;
mod events;
mod expectations;
mod ftp;
mod hints;
mod many;
mod objects;
mod queries;
mod reliable;
mod resync;
mod rules;
