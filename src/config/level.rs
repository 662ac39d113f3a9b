//! Log levels: the eleven steps of the Python program, mapped to the five levels of `log`.

use std::{fmt, str::FromStr};

use log::LevelFilter;

use super::error::Unknown;

/// A step from 0 (errors only) to 10 (everything).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogLevel(u8);

impl LogLevel {
    /// The step that logs most.
    pub const MAX: u8 = 10;

    /// `None` above [`LogLevel::MAX`].
    pub const fn new(step: u8) -> Option<LogLevel> {
        if step <= LogLevel::MAX { Some(LogLevel(step)) } else { None }
    }

    /// The step, as in a file.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The least severe level that is logged at this step.
    pub const fn to_filter(self) -> LevelFilter {
        match self.0 {
            0 => LevelFilter::Error,
            1..=2 => LevelFilter::Warn,
            3..=5 => LevelFilter::Info,
            6..=8 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses a step, or the name of a level, which stands for the middle of its steps.
impl FromStr for LogLevel {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<LogLevel, Unknown> {
        let step = match text {
            "error" => 0,
            "warn" => 2,
            "info" => 4,
            "debug" => 7,
            "trace" => 10,
            _ => text.parse().unwrap_or(u8::MAX),
        };
        LogLevel::new(step)
            .ok_or_else(|| Unknown::new(text, "a number from 0 to 10, or error, warn, info, debug or trace"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_level() {
        use LevelFilter::{Debug, Error, Info, Trace, Warn};
        let expected = [Error, Warn, Warn, Info, Info, Info, Debug, Debug, Debug, Trace, Trace];
        for (step, expected) in expected.into_iter().enumerate() {
            let level: LogLevel = step.to_string().parse().unwrap();
            assert_eq!((usize::from(level.get()), level.to_filter()), (step, expected));
        }
    }

    #[test]
    fn level_names_are_accepted() {
        for name in ["error", "warn", "info", "debug", "trace"] {
            let level: LogLevel = name.parse().unwrap();
            assert_eq!(level.to_filter().to_string().to_lowercase(), name);
        }
    }

    #[test]
    fn anything_else_is_rejected() {
        for text in ["11", "-1", "", "300", "loud", "4.0"] {
            let error = text.parse::<LogLevel>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("found {text:?}, expected a number from 0 to 10")), "{error}");
        }
    }
}
