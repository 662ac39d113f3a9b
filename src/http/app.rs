//! The state that the handlers share, and the rules that a reload replaces.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use natnames::Names;
use tokio::sync::watch;

use super::counters::HttpCounters;
use super::past::History;
use super::places::{Limits, Places};
use crate::acl::Acl;
use crate::clock::{Clock, Stamp};
use crate::config::{Audit, Config, Key};
use crate::logging::Seldom;
use crate::stats::Stats;
use crate::tracker::Tracker;

/// The state that all requests share.
pub struct App {
    /// Replaced by a reload.
    rules: RwLock<Arc<Rules>>,
    /// Counts their replacements.
    replaced: AtomicU64,
    /// The mappings.
    pub tracker: Arc<Tracker>,
    /// The counters of the tracker.
    pub stats: Arc<Stats>,
    /// The counters of the HTTP server.
    pub counters: Arc<HttpCounters>,
    /// The places for lasting work.
    pub(super) places: Arc<Places>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// When the daemon started.
    pub started: Stamp,
    /// Becomes true when streams must end.
    pub stopping: watch::Receiver<bool>,
    /// The history, if there is one.
    pub(super) history: Option<Arc<History>>,
    /// Who the inside hosts are, if a source tells.
    names: Option<Arc<Names>>,
    refusals: Seldom,
}

/// The part of the configuration that responses depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The clients that are allowed.
    pub acl: Acl,
    /// The key that the legacy routes look up.
    pub key: Key,
    /// How much is served at a time.
    pub limits: Limits,
    /// The clients that see names.
    pub names_acl: Acl,
}

/// The rules that a connection knows, and which replacement they were.
pub(super) struct KnownRules(Mutex<(u64, Arc<Rules>)>);

impl From<&Config> for Rules {
    fn from(config: &Config) -> Self {
        Self {
            acl: Acl::new(config.http.ip_acl.clone()),
            key: config.data.key_name,
            limits: Limits { connections: config.http.max_connections, streams: config.http.max_streams },
            names_acl: Acl::new(config.names.acl.clone()),
        }
    }
}

impl App {
    /// An app that starts now, with nothing counted.
    pub fn new(
        rules: Rules,
        tracker: Arc<Tracker>,
        stats: Arc<Stats>,
        clock: Arc<dyn Clock>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let counters = Arc::<HttpCounters>::default();
        Self {
            places: Arc::new(Places::new(rules.limits, counters.clone())),
            rules: RwLock::new(Arc::new(rules)),
            replaced: AtomicU64::new(0),
            tracker,
            stats,
            counters,
            started: clock.now(),
            clock,
            stopping,
            history: None,
            names: None,
            refusals: Seldom::default(),
        }
    }

    /// The same app with a history.
    #[must_use]
    pub fn with_history(self, history: Option<Arc<History>>) -> Self {
        Self { history, ..self }
    }

    /// The same app with what tells who the inside hosts are.
    #[must_use]
    pub fn with_names(self, names: Option<Arc<Names>>) -> Self {
        Self { names, ..self }
    }

    /// Who the inside hosts are.
    pub fn names(&self) -> Option<&Names> {
        self.names.as_deref()
    }

    /// Who the inside hosts are, if a source tells and this client may know it.
    pub(super) fn names_for(&self, known: &KnownRules, client: IpAddr) -> Option<Arc<Names>> {
        let names = self.names.as_ref()?;
        self.with_rules(known, |rules| rules.names_acl.allows(client)).then(|| names.clone())
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other rules into force for the following requests.
    pub fn set_rules(&self, rules: Rules) {
        self.places.set_limits(rules.limits);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.replaced.fetch_add(1, Ordering::Release);
    }

    /// The rules in force, for [`with_rules`](Self::with_rules).
    pub(super) fn known_rules(&self) -> KnownRules {
        let replaced = self.replaced.load(Ordering::Acquire);
        KnownRules(Mutex::new((replaced, self.rules())))
    }

    /// Calls `with` with the rules in force. While they are not replaced, this writes only to what the
    /// connection knows, so threads do not wait for each other's caches.
    pub(super) fn with_rules<T>(&self, known: &KnownRules, with: impl FnOnce(&Rules) -> T) -> T {
        let mut known = known.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = self.replaced.load(Ordering::Acquire);
        if known.0 != replaced {
            // These are as new as the count, or newer.
            *known = (replaced, self.rules());
        }
        with(&known.1)
    }

    /// Sets where questions about the history are recorded.
    pub fn set_audit(&self, audit: Option<&Audit>) {
        if let Some(history) = &self.history {
            history.set_audit(audit);
        }
    }

    /// Logs a refused client: as a warning at most once per second, otherwise as a debug message.
    pub(super) fn log_refusal(&self, client: SocketAddr, path: &str) {
        let client = client.ip().to_canonical();
        if self.refusals.is_due(self.clock.now()) {
            log::warn!("refused {client} {path}: not in ip_acl");
        } else {
            log::debug!("refused {client} {path}: not in ip_acl");
        }
    }
}
