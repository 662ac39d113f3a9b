//! The HTTP server: requests in, responses out.
//!
//! `listener` accepts connections within fixed bounds and survives every transient error; `workers` are
//! the threads that serve them. `route` is the table of routes, the only place that names a path.
//! `dispatch` takes a request, refuses it (`refusal`) or passes it to the handler of its route, and
//! counts the response in `counters`. The handlers are in `legacy`, the routes of the Python program, and
//! in `v1`, the routes for new programs. `app` is the state that they share, and `response` builds what
//! they return. Nothing here uses netlink: handlers call the tracker.

mod app;
pub mod counters;
mod dispatch;
mod legacy;
pub mod listener;
mod refusal;
mod response;
pub mod route;
mod v1;
pub mod workers;

pub use app::{App, Rules};
