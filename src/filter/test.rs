//! The test of one key of a connection.

use super::ranges::Ranges;

/// What a condition accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test<T> {
    /// `None` accepts every value, and also none. The empty set accepts nothing: an interface
    /// may have no address.
    pub(super) only: Option<Ranges<T>>,
    pub(super) except: Ranges<T>,
}

impl<T: Ord + Copy> Test<T> {
    #[inline]
    pub(super) fn accepts(&self, value: Option<T>) -> bool {
        self.lists(value) && !self.excepts(value)
    }

    /// Whether a value is in the list, whatever the exceptions are.
    #[inline]
    pub(super) fn lists(&self, value: Option<T>) -> bool {
        let is_in = |only: &Ranges<T>| value.is_some_and(|value| only.contains(value));
        self.only.as_ref().is_none_or(is_in)
    }

    #[inline]
    pub(super) fn excepts(&self, value: Option<T>) -> bool {
        value.is_some_and(|value| self.except.contains(value))
    }

    /// Whether every value is accepted, and also none.
    pub(super) fn is_none(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }

    /// The only value that is accepted, if there is only one.
    pub(super) fn single(&self) -> Option<T> {
        self.only.as_ref()?.single().filter(|value| !self.except.contains(*value))
    }
}
