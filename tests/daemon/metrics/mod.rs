//! `/metrics`, on a running daemon.

mod counts;
