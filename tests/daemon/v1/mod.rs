//! The interface under `/v1`, on a running daemon.

mod lookup;
