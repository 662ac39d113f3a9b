//! Errors of a configuration. Each is one line: the location, what was found, and what is expected.

use std::{fmt, io};

use super::dialect::Fault;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The operating system cannot read the file.
    #[error("{file}: cannot be read: {cause}{}", remedy(.cause))]
    Unreadable {
        /// The file's path.
        file: String,
        /// The operating system's error, which is part of this error's text.
        cause: io::Error,
    },
    /// The text is not in the dialect.
    #[error("{file}:{line}: found {}, expected {expected}", Quoted(.found))]
    Syntax {
        /// The file's name.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What was found.
        found: String,
        /// What is valid.
        expected: String,
    },
    /// The value of a key is not valid.
    #[error("{location}: found {}, expected {expected}", Quoted(.found))]
    Value {
        /// Where the key is.
        location: KeyLocation,
        /// What was found.
        found: String,
        /// What is valid.
        expected: String,
    },
    /// A required key is missing.
    #[error("{location}: found nothing, expected {expected}")]
    Missing {
        /// Where the key should be.
        location: KeyLocation,
        /// What is valid.
        expected: String,
    },
}

impl ConfigError {
    pub(super) fn syntax(file: &str, fault: Fault) -> ConfigError {
        let Fault { line, found, expected } = fault;
        ConfigError::Syntax { file: file.to_owned(), line, found, expected }
    }
}

/// What to do about a file that cannot be read, for the causes that have a clear remedy.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "; create it, or name another file with --config",
        io::ErrorKind::PermissionDenied => "; give the user that runs pynatconnd read access",
        io::ErrorKind::IsADirectory => "; name a file in this directory",
        _ => "",
    }
}

/// Where a key is, or should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLocation {
    /// The file's name.
    pub file: String,
    /// Counted from 1; `None` if the section is missing too.
    pub line: Option<usize>,
    /// Without brackets.
    pub section: &'static str,
    /// The key's name.
    pub key: &'static str,
}

impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyLocation { file, line, section, key } = self;
        match line {
            Some(line) => write!(f, "{file}:{line}: [{section}] {key}"),
            None => write!(f, "{file}: [{section}] {key}"),
        }
    }
}

/// A name or a number that is not one of the valid ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {}, expected {expected}", Quoted(.found))]
pub struct Unknown {
    found: String,
    expected: &'static str,
}

impl Unknown {
    pub(super) fn new(found: &str, expected: &'static str) -> Unknown {
        Unknown { found: found.to_owned(), expected }
    }
}

/// A text in quotes, shown as [`OneLine`].
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", OneLine(self.0))
    }
}

/// A text shown on one line: control characters are escaped, and a long text is cut.
pub(super) struct OneLine<'a>(pub(super) &'a str);

/// In characters.
const MAX_SHOWN: usize = 60;

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(MAX_SHOWN) {
            if c.is_control() || c == '\u{2028}' || c == '\u{2029}' {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        f.write_str(if self.0.chars().nth(MAX_SHOWN).is_some() { "..." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_text_stays_on_one_line() {
        assert_eq!(Quoted("a\n\"b\" \u{e9}").to_string(), "\"a\\n\"b\" \u{e9}\"");
        assert_eq!(Quoted(&"x".repeat(61)).to_string(), format!("\"{}...\"", "x".repeat(60)));
    }
}
