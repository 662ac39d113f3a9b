//! Moments in UTC.

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// An hour.
pub const HOUR: Millis = 3_600_000;
/// A day.
pub const DAY: Millis = 24 * HOUR;
