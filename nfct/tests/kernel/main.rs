//! The wrapper on the real kernel, each test in its own network namespaces.
//!
//! Needs root; without it each test says so and does nothing.

mod callbacks;
mod dumps;
mod events;
mod expectations;
mod ftp;
mod objects;
mod queries;
