//! The interface under `/v1`, on a running daemon with connections made for the test.

mod auth;
mod fields;
mod helpers;
mod history;
mod kernel;
mod lookup;
mod outside;
mod responses;
mod setup;
mod streams;
mod via;
