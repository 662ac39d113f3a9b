//! What can go wrong.

use std::io;

/// The system's error for a place of a disk that cannot be read.
pub(crate) const EIO: i32 = 5;

/// An error of the history.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried, with the file's name.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{file} is damaged: {what}")]
    Damaged {
        /// The file's name.
        file: String,
        /// What was found, and what was expected.
        what: String,
    },
    /// The directory belongs to something else.
    #[error(
        "{path} is not a history: it contains {found:?} and no file {expected:?}; choose an empty directory"
    )]
    NotAHistory {
        /// The directory.
        path: String,
        /// A file in it.
        found: String,
        /// The file that a history has.
        expected: &'static str,
    },
    /// The directory was written by a newer version.
    #[error("{path} has format {found}, this version knows format {known}: use a newer version")]
    Newer {
        /// The directory.
        path: String,
        /// Its format.
        found: u32,
        /// The newest format that is known.
        known: u32,
    },
    /// Another process writes to the directory.
    #[error("{path} is in use by another process: stop it, or choose another directory")]
    InUse {
        /// The directory.
        path: String,
    },
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Error::Io { doing: doing.into(), source }
    }

    pub(crate) fn damaged(file: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Damaged { file: file.into(), what: what.into() }
    }

    /// Whether an error of reading concerns one file only, so that the rest can be used: it is missing, it is not what
    /// was written, or the disk cannot read it any more.
    pub(crate) fn is_of_one_file(&self) -> bool {
        match self {
            Error::Damaged { .. } => true,
            Error::Io { source, .. } => {
                source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(EIO)
            }
            _ => false,
        }
    }
}
