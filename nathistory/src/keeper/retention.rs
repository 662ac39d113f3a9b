//! Which segments are old enough, or too many.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{Catalog, SegmentFile};
use crate::time::Millis;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// How long a segment is kept after the end of its span.
    pub(crate) age: Option<Duration>,
    /// The most bytes of all files.
    pub(crate) bytes: Option<u64>,
}

/// The oldest segment, if it is to be removed. The newest is not: its open mappings are needed at the start.
pub(super) fn oldest_due<'a>(
    catalog: &'a Catalog,
    log_bytes: u64,
    retention: &Retention,
    now: Millis,
) -> Option<&'a Arc<SegmentFile>> {
    let oldest = catalog.first().filter(|_| catalog.segments().len() > 1)?;
    let is_old = retention.age.is_some_and(|age| {
        let age = Millis::try_from(age.as_millis()).unwrap_or(Millis::MAX);
        oldest.name.to < now.saturating_sub(age)
    });
    let is_too_much = retention.bytes.is_some_and(|most| catalog.bytes() + log_bytes > most);
    (is_old || is_too_much).then_some(oldest)
}
