//! The HTTP side: questions in, answers out.
//!
//! `listener` accepts connections within fixed bounds and survives every
//! transient error, `workers` are the threads that serve them; this module checks who asks and finds the family of routes:
//! `legacy` are those of the Python program, `v1` the new ones. `response` is
//! how answers are made. Nothing here touches netlink: everything is asked of
//! the tracker.

mod legacy;
pub mod listener;
mod response;
mod v1;
pub mod workers;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::sync::watch;

use crate::acl::Acl;
use crate::clock::{Clock, Stamp};
use crate::config::{Config, Key};
use crate::stats::{Route, Stats};
use crate::tracker::Tracker;
use response::Response;

/// Lines of a request's header.
const MOST_HEADERS: usize = 32;
/// Bytes of a request's header.
const MOST_HEADER_BYTES: usize = 16 * 1024;

/// Of refusals one is logged in so many milliseconds.
const REFUSALS_LOGGED_EVERY: u64 = 1000;

/// What the routes work with.
pub struct App {
    /// What a reload replaces.
    pub rules: RwLock<Arc<Rules>>,
    /// The mappings.
    pub tracker: Arc<Tracker>,
    /// What is counted.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// When the daemon started.
    pub started: Stamp,
    /// Says when streams must end.
    pub stopping: watch::Receiver<bool>,
    /// When a refusal was logged last, by the monotonic clock.
    pub refusal_logged: AtomicU64,
}

/// The part of the configuration that answers depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Who may ask.
    pub acl: Acl,
    /// The key that the legacy routes answer to.
    pub key: Key,
}

impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        Self { acl: Acl::new(config.http.ip_acl.clone()), key: config.data.key_name }
    }
}

impl App {
    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other rules into force for requests from now on.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Says who was refused, but not so often that it fills the log.
    fn log_refusal(&self, client: SocketAddr, path: &str) {
        let client = client.ip().to_canonical();
        let now = self.clock.now().monotonic;
        let last = self.refusal_logged.load(Ordering::Relaxed);
        let due = now.saturating_sub(last) >= REFUSALS_LOGGED_EVERY;
        if due
            && self.refusal_logged.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            log::warn!("refused {client} {path}: not in ip_acl");
        } else {
            log::debug!("refused {client} {path}: not in ip_acl");
        }
    }

    /// Answers one request, and counts it.
    async fn answer(self: Arc<Self>, client: SocketAddr, request: Request<Incoming>) -> Response {
        let (begun, route) = (Instant::now(), Route::of(request.uri().path()));
        let answer = self.find_answer(client, request).await;
        self.stats.count_answer(route, answer.status().as_u16(), begun.elapsed());
        answer
    }

    /// Whether the client may ask at all comes before anything else.
    async fn find_answer(self: &Arc<Self>, client: SocketAddr, request: Request<Incoming>) -> Response {
        let rules = self.rules();
        let new = v1::is_route(request.uri().path());
        if !rules.acl.allows(client.ip()) {
            self.stats.requests.increment();
            self.stats.unauthorized.increment();
            self.log_refusal(client, request.uri().path());
            return if new { v1::forbidden() } else { response::html(StatusCode::FORBIDDEN, "Forbidden") };
        }
        log::debug!("{} asks {} {}", client, request.method(), request.uri());
        if is_header_too_large(&request) {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let text = "more than 32 header lines, or more than 16 KiB of them";
            return if new {
                v1::failure(status, text, "send fewer headers")
            } else {
                response::line(status, text)
            };
        }
        if new { v1::answer(self, request).await } else { legacy::answer(self, rules.key, &request).await }
    }
}

fn is_header_too_large(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    // A line has a colon, a space and its end beside name and value.
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    headers.len() > MOST_HEADERS || bytes + path > MOST_HEADER_BYTES
}
