//! One test at a time, and how long it runs.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Keeps the other tests of this program waiting: a race that is forced needs all processors.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `usually`, or `long` if `PYNATCONND_LONG` is set.
pub(crate) fn amount<T>(usually: T, long: T) -> T {
    if std::env::var_os("PYNATCONND_LONG").is_some() { long } else { usually }
}

/// A kernel parameter of the whole machine, changed until this value is dropped.
pub(crate) struct Changed {
    path: String,
    before: String,
}

impl Changed {
    /// Changes a parameter of `net.netfilter`. `None` if it cannot be changed.
    pub(crate) fn to(name: &str, value: u32) -> Option<Self> {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let before = fs::read_to_string(&path).ok()?.trim().to_owned();
        fs::write(&path, value.to_string()).ok()?;
        Some(Self { path, before })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}
