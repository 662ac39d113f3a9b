//! The C library's handle, and its callbacks made safe.
//!
//! `callback` runs a callback and keeps its panics on the Rust side. `library` is the
//! handle, generic over the two subsystems of conntrack. `connections` is the
//! subsystem of connections; the one of expectations is `expect/handle`.

mod callback;
mod connections;
mod library;

pub use callback::Next;
pub use connections::{Connections, Handle, Request};
#[cfg(test)]
pub(crate) use library::tests;
pub(crate) use library::{Argument, Library, Prepared, sealed};
pub use library::{LibraryHandle, Subsystem};
