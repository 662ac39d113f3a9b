//! Copying attributes from one object to another.

use std::ops::BitOr;

use nfct_sys as sys;

use super::attr::{self, Id};
use super::codec;
use super::{Conntrack, ConntrackRef};

/// Which attributes to copy; join them with `|`.
///
/// ```
/// use nfct::{Conntrack, Parts};
///
/// let mut from = Conntrack::new()?;
/// from.set_mark(7);
/// let mut to = Conntrack::new()?;
/// to.copy_from(&from, Parts::ORIGINAL | Parts::REPLY);
/// assert_eq!(to.mark(), None);
/// to.copy_from(&from, Parts::META);
/// assert_eq!(to.mark(), Some(7));
/// # Ok::<(), nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts(u32);

impl Parts {
    /// Everything.
    pub const ALL: Parts = Parts(sys::NFCT_CP_ORIG | sys::NFCT_CP_REPL | sys::NFCT_CP_META);
    /// Addresses, protocols and ports of the original tuple, and ICMP details.
    pub const ORIGINAL: Parts = Parts(sys::NFCT_CP_ORIG);
    /// Addresses, protocols and ports of the reply tuple.
    pub const REPLY: Parts = Parts(sys::NFCT_CP_REPL);
    /// All the rest: states, mark, time-out, zones, counters, master...
    pub const META: Parts = Parts(sys::NFCT_CP_META);

    /// Where the library counts an attribute.
    fn of(id: Id) -> Parts {
        match id.name().strip_prefix("ATTR_").unwrap_or_default().split_once('_') {
            _ if id >= attr::TCP_STATE.id() => Parts::META,
            Some(("REPL", _)) => Parts::REPLY,
            _ => Parts::ORIGINAL,
        }
    }
}

impl BitOr for Parts {
    type Output = Parts;

    fn bitor(self, other: Parts) -> Parts {
        Parts(self.0 | other.0)
    }
}

impl Conntrack {
    /// Copies the attributes of `parts` that are set in `from`; the others stay as they are. To take
    /// over everything and forget the rest, assign a clone.
    ///
    /// ```
    /// # use nfct::{Conntrack, Parts};
    /// let (mut to, from) = (Conntrack::new()?, Conntrack::new()?);
    /// to.set_mark(7).copy_from(&from, Parts::ALL);
    /// assert_eq!(to.mark(), Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn copy_from(&mut self, from: &ConntrackRef, parts: Parts) -> &mut Self {
        for id in from.attributes().filter(|id| Parts::of(*id).0 & parts.0 != 0) {
            self.copy(from, id);
        }
        self
    }

    /// Copies one attribute, if it is set in `from`.
    ///
    /// The time of an event ([`attr::TIMESTAMP_EVENT`]) stays behind: the library can't copy it.
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
        if !from.is_set(id) || id == attr::TIMESTAMP_EVENT.id() {
            return self;
        }
        // The library's own copy loses the upper end of a NAT's ports, the answer's half of ICMP
        // details, and the length of a helper's data: setting what was read loses nothing.
        if id == attr::HELPER_INFO.id() {
            if let Some(info) = from.helper_info() {
                let _ = self.set_helper_info(&info);
            }
        } else if id == attr::CONNLABELS.id() || id == attr::CONNLABELS_MASK.id() {
            if let Some(labels) = codec::labels::read(from, id) {
                let _ = codec::labels::write(self, id, labels);
            }
        } else if id.is_read_only() {
            // SAFETY: two live objects, one of them borrowed for writing, and an attribute that the
            // library knows, since it is set.
            unsafe { sys::nfct_copy_attr(self.as_ptr(), from.as_ptr(), id.number()) };
        } else if let Some(value) = codec::pointer(from, id) {
            self.make_room_for(id);
            codec::set_pointer(self, id, value.as_ptr());
            self.settle(id);
        }
        self
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
        // What is not set there stays as it was here.
        from.unset(attr::MARK);
        assert_eq!(to.copy(&from, attr::MARK).mark(), Some(7));
    }
}
