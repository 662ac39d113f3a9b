//! Why the daemon ends: an exit status (from `sysexits.h`), one line that says what
//! happened and how to fix it, and the underlying error.

use std::error::Error;
use std::fmt;

/// The exit status, which tells a supervisor the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The command line is not valid.
    Usage = 64,
    /// The kernel's conntrack netlink interface is missing.
    Unavailable = 69,
    /// The daemon can no longer follow the kernel's connection tracking.
    Software = 70,
    /// The system refused an operation, for example to bind the address.
    System = 71,
    /// CAP_NET_ADMIN is missing.
    Permission = 77,
    /// The configuration file is missing or not valid.
    Configuration = 78,
}

/// An error that ends the daemon.
///
/// Its text is one complete line, which includes the text of the underlying error.
/// [`Error::source`] therefore skips that error and returns the next one, so that a
/// printed chain repeats nothing.
#[derive(Debug)]
pub struct Fatal {
    /// The exit status.
    pub cause: Cause,
    /// What happened and how to fix it, in one line.
    pub message: String,
    /// The underlying error, if there is one; `message` contains its text.
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl Fatal {
    /// An error with this exit status and text.
    pub fn new(cause: Cause, message: impl fmt::Display) -> Self {
        Self { cause, message: message.to_string(), source: None }
    }

    /// An error with the text of the underlying error.
    pub fn from_error(cause: Cause, source: impl Error + Send + Sync + 'static) -> Self {
        Self::new(cause, &source).with_source(source)
    }

    /// Adds the underlying error, whose text `message` must contain.
    #[must_use]
    pub fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), ..self }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Fatal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().and_then(Error::source)
    }
}

impl From<nfct::Error> for Fatal {
    fn from(error: nfct::Error) -> Self {
        let cause = match error {
            nfct::Error::Permission { .. } => Cause::Permission,
            nfct::Error::Unsupported { .. } => Cause::Unavailable,
            _ => Cause::Software,
        };
        Self::from_error(cause, error)
    }
}

impl From<crate::config::ConfigError> for Fatal {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::from_error(Cause::Configuration, error)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// The texts of an error and of all its sources.
    fn chain(error: &dyn Error) -> Vec<String> {
        let mut texts = vec![error.to_string()];
        let mut next = error.source();
        while let Some(error) = next {
            texts.push(error.to_string());
            next = error.source();
        }
        texts
    }

    #[test]
    fn the_underlying_error_is_kept_and_printed_once() {
        let error = nfct::Error::new("test", io::Error::from_raw_os_error(1));
        let text = error.to_string();
        let fatal = Fatal::from(error);
        assert_eq!((fatal.cause, fatal.to_string()), (Cause::Software, text));
        let source = fatal.source.as_deref().and_then(|source| source.downcast_ref());
        assert!(matches!(source, Some(nfct::Error::System { .. })), "{fatal:?}");

        let outer = io::Error::other("outer");
        let fatal = Fatal::new(Cause::System, format!("cannot listen: {outer}; use another port"));
        assert_eq!(chain(&fatal.with_source(outer)), ["cannot listen: outer; use another port"]);

        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let fatal = Fatal::from_error(Cause::System, Outer(io::Error::other("inner")));
        assert_eq!(chain(&fatal), ["outer", "inner"]);
    }
}
