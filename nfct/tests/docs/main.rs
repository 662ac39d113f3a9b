//! The documentation: every public item has an example, and doc/COVERAGE.md is complete.

mod api;
mod coverage;
mod examples;
