//! Comparison of two objects, as the library does it.

use std::ops::BitOr;

use nfct_sys as sys;

use super::attr;
use super::object::ConntrackRef;

/// What to compare, and how; combine with `|`.
///
/// ```
/// use nfct::{Compare, Conntrack};
///
/// let (mut a, mut b) = (Conntrack::new()?, Conntrack::new()?);
/// a.set_mark(7);
/// assert!(a.compare(&b, Compare::ALL), "an attribute of only one object is ignored");
/// assert!(!a.compare(&b, Compare::STRICT), "but not here");
/// b.set_mark(8);
/// assert!(!a.compare(&b, Compare::ALL));
/// assert!(a.compare(&b, Compare::ORIGINAL | Compare::REPLY));
/// # Ok::<(), nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare(u32);

impl Compare {
    /// Both tuples, id, mark, timeout, status, protocol state, zones, security context and labels.
    /// The status matches if the second object has all bits of the first.
    pub const ALL: Compare = Compare(sys::NFCT_CMP_ALL);
    /// The original tuple.
    pub const ORIGINAL: Compare = Compare(sys::NFCT_CMP_ORIG);
    /// The reply tuple.
    pub const REPLY: Compare = Compare(sys::NFCT_CMP_REPL);
    /// The timeouts are equal.
    pub const TIMEOUT_EQUAL: Compare = Compare(sys::NFCT_CMP_TIMEOUT_EQ);
    /// The first timeout is longer.
    pub const TIMEOUT_LONGER: Compare = Compare(sys::NFCT_CMP_TIMEOUT_GT);
    /// The first timeout is shorter.
    pub const TIMEOUT_SHORTER: Compare = Compare(sys::NFCT_CMP_TIMEOUT_LT);
    /// An attribute that only the first object has is a difference.
    pub const MASK: Compare = Compare(sys::NFCT_CMP_MASK);
    /// An attribute that only one of the objects has is a difference.
    pub const STRICT: Compare = Compare(sys::NFCT_CMP_STRICT);

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    fn contains(self, other: Compare) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Compare {
    type Output = Compare;

    fn bitor(self, other: Compare) -> Compare {
        Compare(self.0 | other.0)
    }
}

impl ConntrackRef {
    /// Whether two objects are equal in the parts that `what` names. Attributes that are not set in both are ignored, except
    /// with [`Compare::MASK`] and [`Compare::STRICT`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use nfct::{Compare, Conntrack};
    ///
    /// let (mut a, mut b) = (Conntrack::new()?, Conntrack::new()?);
    /// a.set_timeout(Duration::from_secs(9));
    /// b.set_timeout(Duration::from_secs(3));
    /// assert!(a.compare(&b, Compare::TIMEOUT_LONGER | Compare::TIMEOUT_EQUAL));
    /// assert!(!a.compare(&b, Compare::TIMEOUT_SHORTER));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn compare(&self, other: &ConntrackRef, what: Compare) -> bool {
        // SAFETY: two live objects, which are only read.
        let same = unsafe { sys::nfct_cmp(self.as_ptr(), other.as_ptr(), what.0) };
        same > 0 && self.compare_timeouts(other, what)
    }

    /// Compares the timeouts as the flags require. The library does not: it evaluates these flags only in a
    /// comparison of everything, and such a comparison has none of them.
    fn compare_timeouts(&self, other: &ConntrackRef, what: Compare) -> bool {
        let accepted = [
            (Compare::TIMEOUT_SHORTER, std::cmp::Ordering::Less),
            (Compare::TIMEOUT_EQUAL, std::cmp::Ordering::Equal),
            (Compare::TIMEOUT_LONGER, std::cmp::Ordering::Greater),
        ];
        if !accepted.iter().any(|(flag, _)| what.contains(*flag)) {
            return true;
        }
        match (self.get(attr::TIMEOUT), other.get(attr::TIMEOUT)) {
            (Some(mine), Some(other)) => {
                let order = mine.cmp(&other);
                accepted.iter().any(|(flag, accepted)| what.contains(*flag) && order == *accepted)
            }
            (None, None) => true,
            (Some(_), None) => !what.contains(Compare::MASK) && !what.contains(Compare::STRICT),
            (None, Some(_)) => !what.contains(Compare::STRICT),
        }
    }
}
