//! Why a command fails.

use std::io;
use std::path::Path;
use std::sync::Arc;

use nathistory::Reader;
use nathistory::disk::Directory;
use nathistory::log_time::{self, Reference, TimeError};

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The directory cannot be used.
    #[error("{path}: {error}; give the directory that [history] path names, or a copy of it")]
    Directory { path: String, error: io::Error },
    #[error(transparent)]
    History(#[from] nathistory::Error),
    /// An option is not valid.
    #[error("{name}: {error}; {hint}")]
    Option { name: &'static str, error: String, hint: String },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    pub(crate) fn option(name: &'static str, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::Option { name, error: error.into(), hint: hint.into() }
    }
}

/// The directory of a history.
pub(crate) fn directory(path: &Path) -> Result<Arc<Directory>, Failure> {
    let opened = Directory::existing(path);
    opened.map(Arc::new).map_err(|error| Failure::Directory { path: path.display().to_string(), error })
}

/// A reader of the files in a directory.
pub(crate) fn reader(path: &Path) -> Result<Reader, Failure> {
    Ok(Reader::of_files(directory(path)?)?)
}

/// The value of an option that is a time.
pub(crate) fn time(name: &'static str, value: &str, reference: &Reference) -> Result<i64, Failure> {
    let hint = |error: &TimeError| error.hint();
    log_time::parse(value, reference).map_err(|error| Failure::option(name, error.to_string(), hint(&error)))
}
