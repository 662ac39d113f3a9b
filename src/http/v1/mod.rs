//! The routes for new programs: `/v1/…`, `/healthz`, `/readyz` and `/metrics`.
//!
//! Each route has a file: `lookup`, `mappings`, `events`, `history`, `auth`, `openapi`, `health` and `metrics`.
//! `request` reads the fields of a lookup, `find` looks up and waits, `answers` and `mapping` write
//! what it found, `host` who the inside host is, `stream` and `exposition` write the streams and the metrics, and `error` writes errors: JSON with
//! the error and a hint how to fix it.
//! `doc/openapi.json` describes all of it.

mod answers;
pub(super) mod auth;
pub(super) mod error;
pub(super) mod events;
mod exposition;
mod find;
pub(super) mod health;
pub(super) mod history;
pub(super) mod host;
pub(super) mod lookup;
mod mapping;
pub(super) mod mappings;
pub(super) mod metrics;
pub(super) mod openapi;
mod request;
mod stream;
