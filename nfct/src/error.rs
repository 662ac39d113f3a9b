//! What can go wrong, with what was being asked and how to mend it.

use std::io;

/// An operation that the kernel or the C library refused.
///
/// Its text says what was being done, what the system said, and what mends it
/// where that can be told:
///
/// ```no_run
/// # use nfct::{Family, Query};
/// if let Err(error) = Query::open().and_then(|mut query| query.flush(Family::Any)) {
///     eprintln!("{error}"); // emptying the conntrack table: Operation not permitted (os error 1): needs CAP_NET_ADMIN …
///     match error.errno() {
///         Some(libc::EPERM) => std::process::exit(77),
///         _ => std::process::exit(1),
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused for lack of rights.
    #[error("{doing}: {source}: needs {needs} (run as root or grant the capability)")]
    Permission {
        /// What was being done.
        doing: &'static str,
        /// The capability that it takes.
        needs: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel has no conntrack netlink interface.
    #[error("{doing}: {source}: the kernel lacks nf_conntrack_netlink (try `modprobe nf_conntrack_netlink`)")]
    Unsupported {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Any other error of the system.
    #[error("{doing}: {source}{}{hint}", if .hint.is_empty() { "" } else { ": " })]
    System {
        /// What was being done.
        doing: &'static str,
        /// The likely cause and what mends it; empty where only the system's
        /// error can be told.
        hint: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel said something that this crate can't read.
    #[error("{doing}: malformed netlink message: {source}")]
    Malformed {
        /// What was being done.
        doing: &'static str,
        /// What is wrong with the message.
        source: crate::wire::Malformed,
    },
    /// The kernel alone sets this attribute.
    #[error("setting {attribute}: it is read-only: the kernel alone sets it")]
    ReadOnly {
        /// The C library's name of the attribute.
        attribute: &'static str,
    },
    /// The C library that is installed is too old for this.
    #[error("{doing}: needs libnetfilter_conntrack {needs} or newer: the installed one has no {lacks}")]
    Library {
        /// What was being done.
        doing: &'static str,
        /// The first release that has it.
        needs: &'static str,
        /// What is missing.
        lacks: &'static str,
    },
    /// A value that can't be taken.
    #[error("{doing}: found {found}, expected {expected}")]
    Invalid {
        /// What was being done.
        doing: &'static str,
        /// What was given.
        found: String,
        /// What is taken.
        expected: &'static str,
    },
}

impl Error {
    /// Sorts an error of the system by what it means for conntrack.
    pub(crate) fn from_io(doing: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Permission { doing, needs: "CAP_NET_ADMIN", source },
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
                Error::Unsupported { doing, source }
            }
            Some(libc::ENOBUFS) => {
                Self::system(doing, source, "the receive buffer was full and events were lost; enlarge it")
            }
            _ => Self::from_system(doing, source),
        }
    }

    /// The answer to a message that every kernel with the conntrack subsystem
    /// takes: nfnetlink says EINVAL for a subsystem that it can't load.
    pub(crate) fn from_plain_request(doing: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EINVAL) => Error::Unsupported { doing, source },
            _ => Self::from_io(doing, source),
        }
    }

    /// The answer to a message about one entry.
    pub(crate) fn from_entry_request(doing: &'static str, source: io::Error) -> Self {
        let hint = match source.raw_os_error() {
            Some(libc::EEXIST) => "there is an entry with this tuple already",
            Some(libc::ENOENT) => {
                "there is no such entry, or what it refers to (its master, its helper) is not there"
            }
            Some(libc::EINVAL) => {
                "a new entry needs both tuples, a time-out and, of TCP, a state; of an old one some things can't be \
                 changed (tuples, NAT, master)"
            }
            Some(libc::EBUSY) => "the kernel lets no one clear these status bits, or exchange a helper",
            Some(libc::EOPNOTSUPP) => "this kernel can't change that",
            Some(libc::ENOMEM) => "no memory, or the table is full (net.netfilter.nf_conntrack_max)",
            Some(libc::EMSGSIZE) => {
                "the entry does not fit a message: its labels or the helper's data are too long"
            }
            Some(libc::ETIME) => "the entry has just ended",
            _ => return Self::from_io(doing, source),
        };
        Self::system(doing, source, hint)
    }

    /// An error that has nothing to do with conntrack.
    pub(crate) fn from_system(doing: &'static str, source: io::Error) -> Self {
        let hint = match source.raw_os_error() {
            Some(libc::EMFILE) => "the process has no file descriptor left (see `ulimit -n`)",
            Some(libc::ENFILE) => "the system has no file left to give (sysctl fs.file-max)",
            _ => "",
        };
        Self::system(doing, source, hint)
    }

    pub(crate) fn system(doing: &'static str, source: io::Error, hint: &'static str) -> Self {
        Error::System { doing, hint, source }
    }

    /// The error that the last system or C library call left in `errno`.
    pub(crate) fn last(doing: &'static str) -> Self {
        Self::from_io(doing, io::Error::last_os_error())
    }

    /// The system's error number, where there is one.
    ///
    /// ```no_run
    /// # let flow: nfct::Flow = unimplemented!();
    /// let entry = nfct::Conntrack::new()?;
    /// match nfct::Query::open()?.create(&entry) {
    ///     Err(error) if error.errno() == Some(libc::EEXIST) => println!("it was there"),
    ///     other => other?,
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Permission { source, .. }
            | Error::Unsupported { source, .. }
            | Error::System { source, .. } => source.raw_os_error(),
            Error::Malformed { .. }
            | Error::ReadOnly { .. }
            | Error::Library { .. }
            | Error::Invalid { .. } => None,
        }
    }

    /// What was being done.
    ///
    /// ```
    /// let error = nfct::Namespace::named("no-such-namespace").unwrap_err();
    /// assert_eq!(error.doing(), "opening a network namespace");
    /// ```
    pub fn doing(&self) -> &'static str {
        match self {
            Error::Permission { doing, .. }
            | Error::Unsupported { doing, .. }
            | Error::System { doing, .. }
            | Error::Malformed { doing, .. }
            | Error::Library { doing, .. }
            | Error::Invalid { doing, .. } => doing,
            Error::ReadOnly { .. } => "setting an attribute",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_mends_them() {
        let of = |errno| Error::from_io("following conntrack", io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::EPERM), Error::Permission { .. }));
        assert!(matches!(of(libc::EPROTONOSUPPORT), Error::Unsupported { .. }));
        assert!(matches!(of(libc::ENOMEM), Error::System { .. }));
        assert_eq!(of(libc::ENOMEM).errno(), Some(libc::ENOMEM));
        assert!(matches!(of(libc::EINVAL), Error::System { .. }));
        let plain =
            Error::from_plain_request("reading all entries", io::Error::from_raw_os_error(libc::EINVAL));
        assert!(plain.to_string().contains("modprobe nf_conntrack_netlink"));
        assert!(of(libc::EPERM).to_string().contains("CAP_NET_ADMIN"));
    }

    #[test]
    fn an_error_says_what_was_asked_and_what_mends_it() {
        let of = |errno| Error::from_entry_request("making an entry", io::Error::from_raw_os_error(errno));
        let text = of(libc::EEXIST).to_string();
        assert!(text.starts_with("making an entry: File exists"), "{text}");
        assert!(text.ends_with("there is an entry with this tuple already"), "{text}");
        assert!(of(libc::ENOMEM).to_string().contains("nf_conntrack_max"));
        assert!(matches!(of(libc::EPERM), Error::Permission { .. }));
        assert_eq!(of(libc::EIO).to_string(), "making an entry: Input/output error (os error 5)");
        assert_eq!(of(libc::EIO).doing(), "making an entry");
        let old = Error::Library { doing: "filtering a dump", needs: "1.1.0", lacks: "a_function" };
        assert!(old.to_string().contains("libnetfilter_conntrack 1.1.0 or newer"), "{old}");
        assert_eq!(old.errno(), None);
    }
}
