//! Copying of attributes from one object to another.

use std::ops::BitOr;

use nfct_sys as sys;

use super::attr::{self, Attribute, Id};
use super::object::{Conntrack, ConntrackRef};
use crate::error::out_of_memory;
use crate::labels::Labels;

/// Which attributes to copy; combine with `|`.
///
/// ```
/// use nfct::{Conntrack, CopyParts};
///
/// let mut from = Conntrack::new()?;
/// from.set_mark(7);
/// let mut to = Conntrack::new()?;
/// to.copy_from(&from, CopyParts::ORIGINAL | CopyParts::REPLY);
/// assert_eq!(to.mark(), None);
/// to.copy_from(&from, CopyParts::META);
/// assert_eq!(to.mark(), Some(7));
/// # Ok::<(), nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyParts(u32);

impl CopyParts {
    /// Everything.
    pub const ALL: CopyParts = CopyParts(sys::NFCT_CP_ORIG | sys::NFCT_CP_REPL | sys::NFCT_CP_META);
    /// Addresses, protocols and ports of the original tuple, and ICMP details.
    pub const ORIGINAL: CopyParts = CopyParts(sys::NFCT_CP_ORIG);
    /// Addresses, protocols and ports of the reply tuple.
    pub const REPLY: CopyParts = CopyParts(sys::NFCT_CP_REPL);
    /// Everything else: states, mark, timeout, zones, counters, the master.
    pub const META: CopyParts = CopyParts(sys::NFCT_CP_META);

    /// The part to which the library assigns an attribute.
    fn of(id: Id) -> CopyParts {
        match id.name().strip_prefix("ATTR_").unwrap_or_default().split_once('_') {
            _ if id >= attr::TCP_STATE.id() => CopyParts::META,
            Some(("REPL", _)) => CopyParts::REPLY,
            _ => CopyParts::ORIGINAL,
        }
    }
}

impl BitOr for CopyParts {
    type Output = CopyParts;

    fn bitor(self, other: CopyParts) -> CopyParts {
        CopyParts(self.0 | other.0)
    }
}

impl Conntrack {
    /// Copies the attributes of `parts` that are set in `from`; the others do not change. For an exact
    /// copy, assign a clone.
    ///
    /// ```
    /// # use nfct::{Conntrack, CopyParts};
    /// let (mut to, from) = (Conntrack::new()?, Conntrack::new()?);
    /// to.set_mark(7).copy_from(&from, CopyParts::ALL);
    /// assert_eq!(to.mark(), Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn copy_from(&mut self, from: &ConntrackRef, parts: CopyParts) -> &mut Self {
        for id in attr::all().filter(|id| CopyParts::of(*id).0 & parts.0 != 0) {
            self.copy(from, id);
        }
        self
    }

    /// Copies one attribute, if it is set in `from`.
    ///
    /// The time of an event ([`attr::TIMESTAMP_EVENT`]) is not copied: the library cannot copy it.
    ///
    /// ```
    /// # use nfct::{Conntrack, attr};
    /// let (mut to, mut from) = (Conntrack::new()?, Conntrack::new()?);
    /// from.set_mark(7).set_zone(5);
    /// to.copy(&from, attr::MARK);
    /// assert_eq!((to.mark(), to.zone()), (Some(7), None));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn copy(&mut self, from: &ConntrackRef, attribute: impl Into<Id>) -> &mut Self {
        let id = attribute.into();
        let number = id.number();
        if !from.has(number) || id == attr::TIMESTAMP_EVENT.id() {
            return self;
        }
        // The library's own copy loses the upper end of a NAT port range, the reply's half of the ICMP
        // details, and the length of a helper's data. Setting the value that was read loses nothing.
        if id == attr::HELPER_INFO.id() {
            let mut with_info = self.without_helper_info();
            // Data that an object has is never too long.
            if from.helper_info().is_some_and(|info| with_info.set_helper_info(&info).is_ok()) {
                *self = with_info;
            }
        } else if id == attr::CONNLABELS.id() {
            self.copy_labels(from, attr::CONNLABELS);
        } else if id == attr::CONNLABELS_MASK.id() {
            self.copy_labels(from, attr::CONNLABELS_MASK);
        } else if id.is_read_only() {
            // SAFETY: two live objects, one of them borrowed for writing, and an attribute that the
            // library knows, since it is set.
            unsafe { sys::nfct_copy_attr(self.as_ptr(), from.as_ptr(), number) };
        } else if let Some(value) = from.pointer(number) {
            self.unset_overlapping(number);
            // SAFETY: the value of the same attribute in another object, which is no bitmask.
            unsafe { self.set_pointer(number, value.as_ptr()) };
            self.refresh_derived(number);
        }
        self
    }

    fn copy_labels(&mut self, from: &ConntrackRef, attribute: Attribute<Labels>) {
        if let Some(labels) = attribute.read(from) {
            // Labels are never rejected.
            let _ = attribute.write(self, labels);
        }
    }
}

impl ConntrackRef {
    /// A copy without a helper's data. Unsetting the data is not enough: the library would still write it
    /// into messages.
    pub(super) fn without_helper_info(&self) -> Conntrack {
        if !self.has(attr::HELPER_INFO.id().number()) {
            return self.to_owned();
        }
        let mut without = Conntrack::new().unwrap_or_else(|_| out_of_memory());
        for id in attr::all().filter(|id| *id != attr::HELPER_INFO.id()) {
            without.copy(self, id);
        }
        without
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_attribute_is_copied_where_it_is_set() {
        let (mut to, mut from) = (Conntrack::new().unwrap(), Conntrack::new().unwrap());
        from.set_mark(7).set_zone(5);
        to.set_mark(8);
        to.copy(&from, attr::MARK).copy(&from, attr::STATUS);
        assert_eq!((to.mark(), to.zone(), to.status()), (Some(7), None, None));
        // What is not set in `from` does not change in `to`.
        from.unset(attr::MARK);
        assert_eq!(to.copy(&from, attr::MARK).mark(), Some(7));
    }
}
