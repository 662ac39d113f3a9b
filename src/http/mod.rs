//! The HTTP side: questions in, answers out.
//!
//! `listener` accepts connections within fixed bounds and survives every
//! transient error; this module checks who asks and finds the route; each
//! family of routes has a module of its own, `legacy` the ones of the Python
//! program. `response` is how answers are made. Nothing here touches netlink:
//! everything is asked of the tracker.

mod legacy;
pub mod listener;
mod response;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use crate::acl::Acl;
use crate::clock::{Clock, Stamp};
use crate::config::Key;
use crate::stats::Stats;
use crate::tracker::Tracker;
use response::Response;

/// What the routes work with.
pub struct App {
    /// Who may ask.
    pub acl: Acl,
    /// The key that the legacy routes answer to.
    pub key: Key,
    /// The mappings.
    pub tracker: Arc<Tracker>,
    /// What is counted.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// When the daemon started.
    pub started: Stamp,
}

impl App {
    /// Answers one request. Whether the client may ask at all comes before
    /// anything else.
    async fn answer(&self, client: SocketAddr, request: Request<Incoming>) -> Response {
        if !self.acl.allows(client.ip()) {
            self.stats.requests.increment();
            self.stats.unauthorized.increment();
            log::warn!("refused {} {}: not in ip_acl", client.ip().to_canonical(), request.uri().path());
            return response::html(StatusCode::FORBIDDEN, "Forbidden");
        }
        log::debug!("{} asks {} {}", client, request.method(), request.uri());
        legacy::answer(self, &request).await
    }
}
