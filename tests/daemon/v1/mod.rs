//! The interface under `/v1`, on a running daemon with connections made for the test.

mod lookup;
mod responses;
mod setup;
mod streams;
