//! What `/v1/history` reads, and how who asks is recorded.

use std::fmt::{Debug, Formatter};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use nathistory::{Completeness, Error, Millis, Question, Record};

use crate::audit::Audit;
use crate::clock::Stamp;
use crate::config;
use crate::logging::Seldom;
use crate::recorder::Recorder;

/// The recorded mappings.
pub trait Past: Send + Sync {
    /// Passes each mapping that fits to `on`, once, which can stop the search, as can `is_wanted` where nothing fits.
    /// Blocks while it reads.
    ///
    /// # Errors
    /// Those of the disk.
    fn find(
        &self,
        question: &Question,
        is_wanted: &dyn Fn() -> bool,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, Error>;

    /// The name of the gateway.
    fn gateway(&self) -> String;

    /// Waits until what the kernel has reported by now can be found. Returns until when everything can be found.
    fn catch_up(&self) -> Pin<Box<dyn Future<Output = Millis> + Send + '_>>;
}

/// The history, if `[history]` turns it on.
pub struct History {
    pub(super) past: Box<dyn Past>,
    /// `None` if who asks is not recorded.
    audit: RwLock<Option<Arc<Audit>>>,
    questions: AtomicU64,
    failures: Seldom,
}

impl History {
    /// The recorded mappings, and where each question is recorded.
    pub fn new(past: impl Past + 'static, audit: Option<&config::Audit>) -> Self {
        let history = Self {
            past: Box::new(past),
            audit: RwLock::default(),
            questions: AtomicU64::new(0),
            failures: Seldom::default(),
        };
        history.set_audit(audit);
        history
    }

    /// Sets where each question is recorded. A file is opened again, even if it is the same, because it may have been
    /// rotated.
    pub fn set_audit(&self, audit: Option<&config::Audit>) {
        let audit = audit.cloned().map(Audit::new).map(Arc::new);
        *self.audit.write().unwrap_or_else(PoisonError::into_inner) = audit;
    }

    pub(super) fn audit(&self) -> Option<Arc<Audit>> {
        self.audit.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of another question.
    pub(super) fn count(&self) -> u64 {
        self.questions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Logs why a question has no answer: as a warning at most once per second, otherwise as a debug message.
    pub(super) fn log_failure(&self, error: &str, now: Stamp) {
        let level = if self.failures.is_due(now) { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "a question about the history has no answer: {error}");
    }
}

impl Past for Arc<Recorder> {
    fn find(
        &self,
        question: &Question,
        is_wanted: &dyn Fn() -> bool,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, Error> {
        Recorder::find(self, question, is_wanted, on)
    }

    fn gateway(&self) -> String {
        Recorder::gateway(self).to_owned()
    }

    fn catch_up(&self) -> Pin<Box<dyn Future<Output = Millis> + Send + '_>> {
        Box::pin(Recorder::catch_up(self))
    }
}

impl Debug for History {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("History").field("audit", &self.audit).finish_non_exhaustive()
    }
}
