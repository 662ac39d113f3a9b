//! A position in the table, for work that goes through it slice by slice.

/// A position in the table: an address family and a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(super) is_v4: bool,
    pub(super) slot: u32,
}

impl Cursor {
    /// The beginning of the table.
    pub const START: Cursor = Cursor { is_v4: true, slot: 0 };

    /// The position after a slice of this family that ended at `next`, or at the
    /// family's end; `None` at the table's end.
    pub(super) fn after(self, next: Option<u32>) -> Option<Self> {
        match next {
            Some(slot) => Some(Self { slot, ..self }),
            None => self.is_v4.then_some(Self { is_v4: false, slot: 0 }),
        }
    }
}
