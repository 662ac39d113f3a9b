//! What can be wrong with a configuration, said in one line with the place and the remedy.

use std::{fmt, io};

use super::dialect::Fault;

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system doesn't hand the file out.
    #[error("{file}: can't be read: {cause}{}", remedy(.cause))]
    Unreadable {
        /// The file's path.
        file: String,
        /// What the operating system said; it is part of the text already.
        cause: io::Error,
    },
    /// The text isn't in the dialect.
    #[error("{file}:{line}: found {}, expected {expected}", Quoted(.found))]
    Syntax {
        /// The file's name.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
    },
    /// A key has a value that it can't have.
    #[error("{place}: found {}, expected {expected}", Quoted(.found))]
    Value {
        /// Where the key is.
        place: Place,
        /// What stands there.
        found: String,
        /// What should stand there.
        expected: String,
    },
    /// A key that has to be there isn't.
    #[error("{place}: found nothing, expected {expected}")]
    Missing {
        /// Where the key should be.
        place: Place,
        /// What should stand there.
        expected: String,
    },
}

impl Error {
    pub(super) fn syntax(file: &str, fault: Fault) -> Error {
        let Fault { line, found, expected } = fault;
        Error::Syntax { file: file.to_owned(), line, found, expected }
    }
}

/// Says what to do about a file that can't be read, where that is clear.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "; create it, or name the right file",
        io::ErrorKind::PermissionDenied => "; let the user that runs this read it",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    }
}

/// Where a key is, or should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// Counted from 1; `None` where not even the section exists.
    pub line: Option<usize>,
    /// Without brackets.
    pub section: &'static str,
    /// The key's name.
    pub key: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, section, key } = self;
        match line {
            Some(line) => write!(f, "{file}:{line}: [{section}] {key}"),
            None => write!(f, "{file}: [{section}] {key}"),
        }
    }
}

/// A name or a number that isn't one of those that there are.
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

/// Shows a text in quotes, as [`OneLine`].
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", OneLine(self.0))
    }
}

/// Shows a text on one line: control characters escaped, and cut where it gets long.
pub(super) struct OneLine<'a>(pub(super) &'a str);

/// Longer texts are cut, in characters.
const LONGEST_SHOWN: usize = 60;

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(LONGEST_SHOWN) {
            if c.is_control() || c == '\u{2028}' || c == '\u{2029}' {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        f.write_str(if self.0.chars().nth(LONGEST_SHOWN).is_some() { "..." } else { "" })
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

    #[test]
    fn an_unreadable_file_says_what_to_do() {
        let error = super::super::Config::load("/nonexistent/x.conf".as_ref()).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("/nonexistent/x.conf: can't be read: "), "{text}");
        assert!(text.ends_with("; create it, or name the right file"), "{text}");
    }
}
