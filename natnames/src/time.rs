//! Moments.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of the wall clock since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// This moment, by the clock that facts have.
pub fn wall_clock() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
