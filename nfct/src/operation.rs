//! The operations on one entry or one expectation, and what the kernel's error
//! numbers mean for each.
//!
//! The same error number has a different cause for each operation: EINVAL means an
//! invalid tuple for a lookup, and mostly a missing timeout for a new entry. The
//! hints follow `net/netfilter/nf_conntrack_netlink.c`.

use std::io;

use crate::error::Error;

const TUPLE: &str = "the tuple is not valid: both addresses must be of one family, and the ports, ICMP type or keys \
                     those of its protocol";
const STATUS: &str = "status bits that are set cannot be unset (CONFIRMED, SEEN_REPLY, ASSURED), and a helper cannot \
                      be replaced";
const HELPER: &str = "the kernel has no helper of this name for this protocol (is its module loaded, such as \
                      nf_conntrack_ftp?)";
const LOADING: &str = "the kernel has just loaded the helper's module; try again";
const FULL: &str = "no memory, or the table is full (net.netfilter.nf_conntrack_max)";
const SIZE: &str = "the entry does not fit a message: its labels or the helper's data are too long";
pub(crate) const NO_LABELS: &str = "the entry cannot hold labels: when it began, no rule of its network namespace used \
                                    `ct label`; add such a rule first";

/// The error for an error number: with the hint of the operation, or else the general one.
fn refused(
    doing: &'static str,
    source: io::Error,
    hint: impl Fn(i32) -> Option<&'static str>,
    general: fn(&'static str, io::Error) -> Error,
) -> Error {
    match source.raw_os_error().and_then(hint) {
        Some(hint) => Error::system(doing, source, hint),
        None => general(doing, source),
    }
}

/// A request about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Create,
    Update,
    CreateOrUpdate,
    Delete,
}

impl Operation {
    pub(crate) const fn doing(self) -> &'static str {
        match self {
            Operation::Get => "looking up a conntrack entry",
            Operation::Create => "creating a conntrack entry",
            Operation::Update => "changing a conntrack entry",
            Operation::CreateOrUpdate => "creating or changing a conntrack entry",
            Operation::Delete => "removing a conntrack entry",
        }
    }

    /// The error for the kernel's error number.
    pub(crate) fn refused(self, source: io::Error) -> Error {
        refused(self.doing(), source, |errno| self.hint(errno), Error::from_io)
    }

    fn hint(self, errno: i32) -> Option<&'static str> {
        use Operation::{Create, CreateOrUpdate, Delete, Get, Update};
        let hint = match (self, errno) {
            (Get | Delete, libc::EINVAL) => TUPLE,
            (Get | Delete, libc::ENOENT) => "there is no such entry",
            (Delete, libc::EBUSY) => "the connection is offloaded to a flowtable",
            (Create, libc::EEXIST) => "an entry with one of these tuples exists already",
            (Create | CreateOrUpdate, libc::EINVAL) => {
                "a new entry needs both tuples, valid for their protocol, and a timeout"
            }
            (Create | CreateOrUpdate, libc::ENOENT) => "the master of the entry does not exist",
            (Create, libc::EOPNOTSUPP) => HELPER,
            (Update, libc::EINVAL) => "a tuple or a value is not valid for the protocol of the entry",
            (Update, libc::ENOENT) => "there is no entry with this tuple",
            (Update | CreateOrUpdate, libc::EOPNOTSUPP) => {
                "NAT, master and helper of an existing entry cannot be changed; or the kernel has no helper \
                 of this name (is its module loaded, such as nf_conntrack_ftp?)"
            }
            (Create | Update | CreateOrUpdate, libc::EBUSY) => STATUS,
            (Create | Update | CreateOrUpdate, libc::EAGAIN) => LOADING,
            (Create | Update | CreateOrUpdate, libc::ENOSPC) => NO_LABELS,
            (Create | CreateOrUpdate, libc::ENOMEM) => FULL,
            (Update | CreateOrUpdate, libc::ETIME) => "the entry has just ended",
            (_, libc::EMSGSIZE) => SIZE,
            _ => return None,
        };
        Some(hint)
    }
}

/// A request about expectations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectOperation {
    Dump,
    Get,
    Create,
    Update,
    CreateOrUpdate,
    Delete,
    Flush,
}

impl ExpectOperation {
    pub(crate) const fn doing(self) -> &'static str {
        match self {
            ExpectOperation::Dump => "reading expectations",
            ExpectOperation::Get => "looking up an expectation",
            ExpectOperation::Create => "creating an expectation",
            ExpectOperation::Update => "changing an expectation",
            ExpectOperation::CreateOrUpdate => "creating or changing an expectation",
            ExpectOperation::Delete => "removing an expectation",
            ExpectOperation::Flush => "removing expectations",
        }
    }

    /// The error for the kernel's error number.
    pub(crate) fn refused(self, source: io::Error) -> Error {
        refused(self.doing(), source, |errno| self.hint(errno), Error::from_plain_request)
    }

    fn hint(self, errno: i32) -> Option<&'static str> {
        use ExpectOperation::{Create, CreateOrUpdate, Delete, Dump, Get, Update};
        let hint = match (self, errno) {
            (Dump, libc::ENOENT) => "there is no such master",
            (Dump, libc::EINVAL) => {
                "the master never had a helper, or the kernel has no nf_conntrack_netlink"
            }
            (Get | Delete, libc::ENOENT) => "there is no such expectation",
            (Get | Delete, libc::EINVAL) => TUPLE,
            (Create, libc::EEXIST) => "this expectation exists already",
            (Create | Update | CreateOrUpdate, libc::ENOENT) => "there is no such master",
            (Create | Update | CreateOrUpdate, libc::EINVAL) => {
                "a tuple is not valid, or the kernel has no such class or function"
            }
            (Create | Update | CreateOrUpdate, libc::EOPNOTSUPP) => {
                "the master has no helper, or the kernel has no helper of this name"
            }
            (Create | Update | CreateOrUpdate, libc::EBUSY) => "the expectation clashes with another one",
            (Create | Update | CreateOrUpdate, libc::EMFILE) => {
                "the limit of expectations is reached: of the helper, or of the kernel \
                 (net.netfilter.nf_conntrack_expect_max)"
            }
            (Update | CreateOrUpdate, libc::ETIME) => "the expectation has just ended",
            _ => return None,
        };
        Some(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_operation_the_cause_and_the_remedy() {
        let of = |operation: Operation, errno| operation.refused(io::Error::from_raw_os_error(errno));
        let text = of(Operation::Create, libc::EEXIST).to_string();
        assert!(text.starts_with("creating a conntrack entry: File exists"), "{text}");
        assert!(text.ends_with("an entry with one of these tuples exists already"), "{text}");
        assert!(of(Operation::Create, libc::ENOMEM).to_string().contains("nf_conntrack_max"));
        assert!(matches!(of(Operation::Create, libc::EPERM), Error::Permission { .. }));
        let plain = of(Operation::Create, libc::EIO);
        assert_eq!(plain.to_string(), "creating a conntrack entry: Input/output error (os error 5)");
        assert_eq!(plain.doing(), "creating a conntrack entry");
    }

    #[test]
    fn the_same_number_has_the_cause_of_its_operation() {
        let of =
            |operation: Operation, errno| operation.refused(io::Error::from_raw_os_error(errno)).to_string();
        assert!(of(Operation::Get, libc::EINVAL).contains("the tuple is not valid"));
        assert!(of(Operation::Create, libc::EINVAL).contains("a timeout"));
        assert!(of(Operation::Create, libc::EOPNOTSUPP).contains("no helper of this name"));
        assert!(of(Operation::Update, libc::ENOSPC).contains("`ct label`"));
        let of = |operation: ExpectOperation, errno| {
            operation.refused(io::Error::from_raw_os_error(errno)).to_string()
        };
        assert!(of(ExpectOperation::Create, libc::ENOENT).ends_with("there is no such master"));
        assert!(of(ExpectOperation::Delete, libc::ENOENT).ends_with("there is no such expectation"));
        assert!(of(ExpectOperation::Flush, libc::EINVAL).contains("modprobe nf_conntrack_netlink"));
    }
}
