//! What can go wrong, with what was being asked and how to mend it.

use std::io;

/// An operation that the kernel or the C library refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused for lack of rights.
    #[error("{doing}: {source}: needs CAP_NET_ADMIN (run as root or grant the capability)")]
    Permission {
        /// What was being done.
        doing: &'static str,
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
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
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
}

impl Error {
    /// Sorts an error of the system by what it means for conntrack.
    pub(crate) fn from_io(doing: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Error::Permission { doing, source },
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
                Error::Unsupported { doing, source }
            }
            _ => Error::System { doing, source },
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

    /// The error that the last system or C library call left in `errno`.
    pub(crate) fn last(doing: &'static str) -> Self {
        Self::from_io(doing, io::Error::last_os_error())
    }

    /// The system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Permission { source, .. }
            | Error::Unsupported { source, .. }
            | Error::System { source, .. } => source.raw_os_error(),
            Error::Malformed { .. } => None,
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
}
