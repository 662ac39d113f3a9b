//! Starts and stops all of it.

use std::sync::Arc;

use natnames::{Book, Limits, Millis, Names};

use super::keeping::{Keeping, Loaded};
use super::sources;
use crate::config::{Config, NamesConfig};
use crate::error::{Cause, Fatal};

const DAY: Millis = 24 * 60 * 60 * 1000;

/// The sources that are followed, and the thread that writes what they say.
#[derive(Debug)]
pub struct Following {
    /// What the sources say.
    pub names: Arc<Names>,
    keeping: Option<Keeping>,
}

/// Begins to follow the sources; `None` if there are none.
///
/// # Errors
/// If the system has no thread or no descriptor for them, or what was kept cannot be read.
pub fn start(config: &Config) -> Result<Option<Following>, Fatal> {
    let sources = sources::sources(&config.names);
    if sources.is_empty() {
        return Ok(None);
    }
    let days = config.names.keep_days.or(config.history.retention_days);
    let keep = days.map_or(Millis::MAX, |days| Millis::from(days) * DAY);
    let limits = Limits { facts: config.names.max_facts, keep };
    let directory = config.history.path.as_ref().map(|path| path.join("names"));
    let loaded = directory.map(|directory| Loaded::open(&directory, limits.facts)).transpose()?;
    let (store, restore) = loaded.map(Loaded::split).unzip();
    let prepare = |book: &mut Book| {
        if let Some(restore) = restore {
            restore.into(book);
            book.keep_journal();
        }
    };
    let failed = |error| {
        Fatal::new(Cause::System, format!("[names]: cannot start threads: {error}")).with_source(error)
    };
    let names = Arc::new(Names::start_with(sources, limits, prepare).map_err(failed)?);
    let keeping = store
        .map(|store| Keeping::start(store, names.clone(), config.history.sync_interval, keep))
        .transpose()
        .map_err(failed)?;
    Ok(Some(Following { names, keeping }))
}

impl Following {
    /// Writes what is not written yet, and ends.
    pub fn stop(&self) {
        self.keeping.iter().for_each(Keeping::stop);
    }
}

/// Warns about changes of `[names]` that a reload does not put into effect.
pub fn warn_of_restart(old: &NamesConfig, new: &NamesConfig) {
    let without_acl = |config: &NamesConfig| NamesConfig { acl: Vec::new(), ..config.clone() };
    if without_acl(old) != without_acl(new) {
        log::warn!("[names] has changed; apart from acl, that takes effect after a restart");
    }
}
