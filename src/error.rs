//! Why the daemon ends, with the exit status that says so (those of
//! `sysexits.h`) and one line on how to mend it.

use std::fmt;

/// What a supervisor can tell from the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The command line makes no sense.
    Usage = 64,
    /// The kernel's conntrack netlink interface is missing.
    Unavailable = 69,
    /// The kernel can't be followed any more.
    Software = 70,
    /// The system refused, for example to bind the address.
    System = 71,
    /// CAP_NET_ADMIN is missing.
    Permission = 77,
    /// The configuration file is missing or wrong.
    Configuration = 78,
}

/// The end of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// The exit status.
    pub cause: Cause,
    /// What happened and how to mend it, in one line.
    pub message: String,
}

impl Fatal {
    /// A cause with its line.
    pub fn new(cause: Cause, message: impl fmt::Display) -> Self {
        Self { cause, message: message.to_string() }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fatal {}

impl From<nfct::Error> for Fatal {
    fn from(error: nfct::Error) -> Self {
        let cause = match error {
            nfct::Error::Permission { .. } => Cause::Permission,
            nfct::Error::Unsupported { .. } => Cause::Unavailable,
            _ => Cause::Software,
        };
        Self::new(cause, error)
    }
}

impl From<crate::config::Error> for Fatal {
    fn from(error: crate::config::Error) -> Self {
        Self::new(Cause::Configuration, error)
    }
}
