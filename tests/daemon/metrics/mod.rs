//! `/metrics` tells the truth: what is known to have happened is counted exactly, in formats that others can read.

mod counts;
mod formats;
mod page;
mod setup;
