//! The wrapper on the real kernel, each test in network namespaces of its own.
//!
//! Needs root; elsewhere each test says so and does nothing.

mod callbacks;
mod dumps;
mod events;
mod expectations;
mod ftp;
mod objects;
mod queries;
