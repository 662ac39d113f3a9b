//! The error type: what failed, what the system reported, and how to fix it.

use std::fmt;
use std::io;

use crate::malformed::Malformed;

/// An operation that failed.
///
/// The text names the operation, then what the system reported, then the remedy
/// where one is known. [`source`](std::error::Error::source) returns `None`: the
/// text already contains the system's error, and a printed chain of errors would
/// repeat it. [`errno`](Self::errno) returns the error number.
///
/// ```no_run
/// # use nfct::{Family, Query};
/// if let Err(error) = Query::open().and_then(|mut query| query.flush(Family::Any)) {
///     eprintln!("{error}"); // flushing the conntrack table: Operation not permitted (os error 1): needs CAP_NET_ADMIN …
///     match error.errno() {
///         Some(libc::EPERM) => std::process::exit(77),
///         _ => std::process::exit(1),
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The process lacks a capability.
    #[non_exhaustive]
    Permission {
        /// The operation that failed.
        doing: &'static str,
        /// The capability that it needs.
        needs: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel has no conntrack netlink interface.
    #[non_exhaustive]
    Unsupported {
        /// The operation that failed.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Any other error of the system.
    #[non_exhaustive]
    System {
        /// The operation that failed.
        doing: &'static str,
        /// The likely cause and the remedy. Empty if none is known.
        hint: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A message that cannot be read.
    #[non_exhaustive]
    Malformed {
        /// The operation that failed.
        doing: &'static str,
        /// What is wrong with the message.
        source: Malformed,
    },
    /// An attribute that only the kernel sets.
    #[non_exhaustive]
    ReadOnly {
        /// The C library's name of the attribute.
        attribute: &'static str,
    },
    /// The installed C library is too old for the operation.
    #[non_exhaustive]
    Library {
        /// The operation that failed.
        doing: &'static str,
        /// The first release that has what is missing.
        needs: &'static str,
        /// What is missing.
        lacks: &'static str,
    },
    /// A value that is not valid.
    #[non_exhaustive]
    Invalid {
        /// The operation that failed.
        doing: &'static str,
        /// The value that was given.
        found: String,
        /// What is valid.
        expected: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Permission { doing, needs, source } => {
                write!(f, "{doing}: {source}: needs {needs} (run as root or grant the capability)")
            }
            Error::Unsupported { doing, source } => write!(
                f,
                "{doing}: {source}: the kernel has no nf_conntrack_netlink (try `modprobe nf_conntrack_netlink`)"
            ),
            Error::System { doing, hint: "", source } => write!(f, "{doing}: {source}"),
            Error::System { doing, hint, source } => write!(f, "{doing}: {source}: {hint}"),
            Error::Malformed { doing, source } => write!(f, "{doing}: malformed netlink message: {source}"),
            Error::ReadOnly { attribute } => {
                write!(f, "setting {attribute}: it is read-only: only the kernel sets it")
            }
            Error::Library { doing, needs, lacks } => write!(
                f,
                "{doing}: needs libnetfilter_conntrack {needs} or newer: the installed release has no {lacks}"
            ),
            Error::Invalid { doing, found, expected } => {
                write!(f, "{doing}: found {found}, expected {expected}")
            }
        }
    }
}

/// Has no source: the text already contains it.
impl std::error::Error for Error {}

impl Error {
    /// A system error in an operation of the caller, for functions that must return
    /// this type, such as those that [`Namespace::enter`](crate::Namespace::enter)
    /// runs.
    ///
    /// ```
    /// let missing = std::io::Error::from_raw_os_error(libc::ENOENT);
    /// let error = nfct::Error::new("reading the list of gateways", missing);
    /// assert_eq!(error.errno(), Some(libc::ENOENT));
    /// assert!(error.to_string().starts_with("reading the list of gateways: No such file"));
    /// ```
    #[must_use]
    pub fn new(doing: &'static str, source: io::Error) -> Self {
        Self::system(doing, source, "")
    }

    /// Sorts an error of a netlink socket by its remedy.
    pub(crate) fn from_io(doing: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Permission { doing, needs: "CAP_NET_ADMIN", source },
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
                Error::Unsupported { doing, source }
            }
            Some(libc::ENOBUFS) => {
                let hint = "events were lost because the receive buffer was full; enlarge it";
                Self::system(doing, source, hint)
            }
            _ => Self::from_system(doing, source),
        }
    }

    /// The error of a request that every kernel with the conntrack subsystem accepts.
    /// EINVAL means that nfnetlink cannot load the subsystem.
    pub(crate) fn from_plain_request(doing: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EINVAL) => Error::Unsupported { doing, source },
            _ => Self::from_io(doing, source),
        }
    }

    /// An error of an operation that does not concern conntrack.
    pub(crate) fn from_system(doing: &'static str, source: io::Error) -> Self {
        let hint = match source.raw_os_error() {
            Some(libc::EMFILE) => "the process has reached its limit of open files (see `ulimit -n`)",
            Some(libc::ENFILE) => "the system has reached its limit of open files (sysctl fs.file-max)",
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

    /// The system's error number, if there is one.
    ///
    /// ```no_run
    /// # let flow: nfct::Flow = unimplemented!();
    /// let entry = nfct::Conntrack::new()?;
    /// match nfct::Query::open()?.create(&entry) {
    ///     Err(error) if error.errno() == Some(libc::EEXIST) => println!("the entry exists already"),
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

    /// Whether the same operation may succeed a little later: the system lacked memory or
    /// descriptors, or something was busy. A dump or a query can then be repeated.
    ///
    /// ```
    /// let of = |errno| nfct::Error::new("reading", std::io::Error::from_raw_os_error(errno));
    /// assert!(of(libc::ENOBUFS).is_transient() && of(libc::ENOMEM).is_transient());
    /// assert!(!of(libc::EPERM).is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        matches!(
            self.errno(),
            Some(
                libc::EAGAIN
                    | libc::EBUSY
                    | libc::EINTR
                    | libc::EMFILE
                    | libc::ENFILE
                    | libc::ENOBUFS
                    | libc::ENOMEM
            )
        )
    }

    /// The operation that failed.
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

/// Ends the process because memory has run out, as Rust's own collections do.
pub(crate) fn out_of_memory() -> ! {
    std::alloc::handle_alloc_error(std::alloc::Layout::new::<[usize; 64]>())
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn errors_are_sorted_by_their_remedy() {
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
        let old = Error::Library { doing: "filtering a dump", needs: "1.1.0", lacks: "a_function" };
        assert!(old.to_string().contains("libnetfilter_conntrack 1.1.0 or newer"), "{old}");
        assert_eq!(old.errno(), None);
    }

    #[test]
    fn a_printed_chain_repeats_nothing() {
        let system = |errno| io::Error::from_raw_os_error(errno);
        let errors = [
            Error::from_io("following conntrack", system(libc::EPERM)),
            Error::from_io("following conntrack", system(libc::EOPNOTSUPP)),
            Error::from_io("following conntrack", system(libc::EIO)),
            Error::from_io("following conntrack", system(libc::ENOBUFS)),
            Error::Malformed { doing: "reading all entries", source: Malformed::NoTuple },
            Error::ReadOnly { attribute: "ATTR_USE" },
            Error::Library { doing: "filtering a dump", needs: "1.1.0", lacks: "a_function" },
            Error::Invalid { doing: "setting a label", found: "128".to_owned(), expected: "at most 127" },
        ];
        for error in errors {
            let mut chain = vec![error.to_string()];
            let mut next = error.source();
            while let Some(source) = next {
                chain.push(source.to_string());
                next = source.source();
            }
            for (at, text) in chain.iter().enumerate() {
                let others = chain.iter().enumerate().filter(|(other, _)| *other != at);
                assert!(others.into_iter().all(|(_, other)| !other.contains(text.as_str())), "{chain:?}");
            }
            // Each part of the text, including the system's error, appears once.
            let mut parts: Vec<&str> = chain.iter().flat_map(|text| text.split(": ")).collect();
            let count = parts.len();
            parts.sort_unstable();
            parts.dedup();
            assert_eq!(parts.len(), count, "{chain:?}");
        }
    }

    #[test]
    fn the_text_holds_what_the_system_reported() {
        let error = Error::from_io("following conntrack", io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(error.to_string(), "following conntrack: Input/output error (os error 5)");
        assert_eq!(error.doing(), "following conntrack");
    }
}
