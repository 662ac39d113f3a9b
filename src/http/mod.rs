//! The HTTP server: requests in, responses out.
//!
//! `listener` accepts connections and survives every transient error; `connections` says which of them are
//! admitted, and `places` how much lasting work of each `kind` there is at a time; `workers` are the
//! threads that serve them, and `serve` serves one. `route` is the table of routes, the only place that names a path.
//! `dispatch` takes a request, refuses it (`refusal`) or passes it to the handler of its route, and
//! counts the response in `counters`. The handlers are in `legacy`, the routes of the Python program, and
//! in `v1`, the routes for new programs. `app` is the state that they share, `past` the
//! history that `/v1/history` reads, `response` builds what they return, and `json` writes values in it. Nothing here uses netlink: handlers call the tracker.

mod app;
mod connections;
pub mod counters;
mod dispatch;
mod json;
pub mod kind;
mod legacy;
pub mod listener;
pub mod past;
pub mod places;
mod refusal;
mod response;
pub mod route;
mod serve;
mod v1;
pub mod workers;

pub use app::{App, Rules};
