//! Containers that are to be inspected, in the order in which they changed.

use std::collections::{BTreeMap, HashMap};

/// The most containers that wait.
pub(super) const MOST_PENDING: usize = 10_000;

/// Why a container is inspected. Several events of it become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    /// Whether it was started, and not only renamed or connected.
    pub(super) is_start: bool,
    /// When the last event was, in nanoseconds since 1970.
    pub(super) at: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    causes: HashMap<String, (u64, Cause)>,
    order: BTreeMap<u64, String>,
    next: u64,
}

impl Pending {
    /// Adds a container, or a cause to one that waits. Returns whether there was room.
    pub(super) fn add(&mut self, id: &str, cause: Cause) -> bool {
        if let Some((_, waiting)) = self.causes.get_mut(id) {
            waiting.is_start |= cause.is_start;
            waiting.at = waiting.at.max(cause.at);
            return true;
        }
        if self.causes.len() >= MOST_PENDING {
            return false;
        }
        self.causes.insert(id.to_owned(), (self.next, cause));
        self.order.insert(self.next, id.to_owned());
        self.next += 1;
        true
    }

    /// Removes a container that has ended, unless its event is later than the end.
    pub(super) fn end(&mut self, id: &str, at: i64) {
        if let Some((place, cause)) = self.causes.get(id) {
            if cause.at.is_none_or(|caused| caused <= at) {
                self.order.remove(place);
                self.causes.remove(id);
            }
        }
    }

    /// Takes the container that has waited for the longest time.
    pub(super) fn take(&mut self) -> Option<(String, Cause)> {
        let (_, id) = self.order.pop_first()?;
        let (_, cause) = self.causes.remove(&id)?;
        Some((id, cause))
    }

    pub(super) fn clear(&mut self) {
        self.causes.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(is_start: bool, at: i64) -> Cause {
        Cause { is_start, at: Some(at) }
    }

    #[test]
    fn one_container_waits_once_and_not_after_its_end() {
        let mut pending = Pending::default();
        for (id, is_start, at) in [("a", true, 1), ("b", true, 2), ("a", false, 3), ("c", false, 4)] {
            assert!(pending.add(id, cause(is_start, at)));
        }
        pending.end("b", 5);
        pending.end("c", 3);
        assert_eq!(pending.take(), Some(("a".to_owned(), cause(true, 3))));
        assert_eq!(pending.take(), Some(("c".to_owned(), cause(false, 4))));
        assert_eq!(pending.take(), None);
    }

    #[test]
    fn starts_and_ends_leave_nothing_and_room_is_bounded() {
        let mut pending = Pending::default();
        for n in 0..100_000 {
            assert!(pending.add(&n.to_string(), cause(true, n)));
            pending.end(&n.to_string(), n);
        }
        assert!(pending.causes.is_empty() && pending.order.is_empty());
        let fitted = (0..20_000).filter(|n| pending.add(&n.to_string(), cause(true, *n))).count();
        assert_eq!(fitted, MOST_PENDING);
    }
}
