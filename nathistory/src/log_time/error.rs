//! Why text is no time.

use jiff::tz::Offset;

/// Why text is no time. Its text says what was found; [`hint`](Self::hint) says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// It has none of the known forms.
    #[error("found \"{found}\", which is no time")]
    NoTime {
        /// The text.
        found: String,
    },
    /// It has a known form, but there is no such date or time of day.
    #[error("found \"{found}\": there is not {what}")]
    Invalid {
        /// The text.
        found: String,
        /// What there is not.
        what: &'static str,
    },
    /// It is before 1970 or after 9999.
    #[error("found \"{found}\", which is before 1970 or after 9999")]
    OutOfRange {
        /// The text.
        found: String,
    },
    /// Clocks were set back: this local time was there twice.
    #[error("found \"{found}\", a local time that was there twice, because clocks were set back")]
    Twice {
        /// The text.
        found: String,
        /// Both moments, the earlier one first, in RFC 3339.
        readings: [String; 2],
    },
    /// Clocks were set forward: this local time was skipped.
    #[error("found \"{found}\", a local time that never was, because clocks were set forward")]
    Never {
        /// The text.
        found: String,
        /// It with the offset before, and with the one after, in RFC 3339.
        readings: [String; 2],
    },
}

impl TimeError {
    /// How to mend it.
    pub fn hint(&self) -> String {
        match self {
            TimeError::Twice { readings: [first, second], .. } => {
                format!("write it with its offset: {first} or {second}")
            }
            TimeError::Never { readings: [first, second], .. } => {
                format!("write it with the offset of the clock that showed it: {first} or {second}")
            }
            TimeError::OutOfRange { .. } => {
                "numbers are seconds since 1970; from 12 digits on milliseconds, from 15 microseconds, from 18 \
                 nanoseconds"
                    .to_owned()
            }
            TimeError::NoTime { .. } | TimeError::Invalid { .. } => {
                "expected a time to the second, such as 2026-11-21T09:12:30.385Z, 2026-11-21T10:12:30+01:00, \
                 1795252350, 21/Nov/2026:10:12:30 +0100, 2026/11/21 10:12:30, Nov 21 10:12:30, now or -5m"
                    .to_owned()
            }
        }
    }
}

/// Text for a message: it may be long, and have any characters.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(64).collect()
}

/// An offset as RFC 3339 writes it.
pub(super) fn offset(offset: Offset) -> String {
    let minutes = offset.seconds().div_euclid(60);
    let (sign, minutes) = if minutes < 0 { ('-', -minutes) } else { ('+', minutes) };
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}
