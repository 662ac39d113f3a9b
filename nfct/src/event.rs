//! Events as values: their kinds, the multicast groups to listen to, and one event.

use std::ops::BitOr;

use nfct_sys as sys;

use crate::flow::Flow;

/// What happened to a connection or an expectation.
///
/// ```
/// use nfct::{Event, EventKind};
///
/// fn sign(event: &Event) -> char {
///     match event.kind {
///         EventKind::New => '+',
///         EventKind::Update => '~',
///         EventKind::Destroy => '-',
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum EventKind {
    /// The entry was created: its first packet is about to leave.
    New,
    /// The entry's state, mark, labels or timeout changed. Tuples never change.
    Update,
    /// The entry ended.
    Destroy,
}

impl EventKind {
    /// The C library's message type. Entries of a dump count as updates.
    pub(crate) fn from_library(kind: sys::nf_conntrack_msg_type) -> Self {
        match kind {
            sys::NFCT_T_NEW => EventKind::New,
            sys::NFCT_T_DESTROY => EventKind::Destroy,
            _ => EventKind::Update,
        }
    }
}

/// Kinds of events to listen to; combine them with `|`.
///
/// ```
/// use nfct::Groups;
/// assert_eq!(Groups::NEW | Groups::UPDATE | Groups::DESTROY, Groups::ALL);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Groups(u32);

impl Groups {
    /// No events.
    pub const NONE: Groups = Groups(0);
    /// NEW events: connections that begin.
    pub const NEW: Groups = Groups(1 << (sys::NFNLGRP_CONNTRACK_NEW - 1));
    /// UPDATE events: connections that change.
    pub const UPDATE: Groups = Groups(1 << (sys::NFNLGRP_CONNTRACK_UPDATE - 1));
    /// DESTROY events: connections that end.
    pub const DESTROY: Groups = Groups(1 << (sys::NFNLGRP_CONNTRACK_DESTROY - 1));
    /// All three.
    pub const ALL: Groups = Groups(Self::NEW.0 | Self::UPDATE.0 | Self::DESTROY.0);

    /// Groups by number, also those of expectations: one socket serves both subsystems.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Groups(bits)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Groups {
    type Output = Groups;

    fn bitor(self, other: Groups) -> Groups {
        Groups(self.0 | other.0)
    }
}

/// Kinds of expectation events to listen to; combine them with `|`.
///
/// ```
/// use nfct::ExpectGroups;
///
/// assert_ne!(ExpectGroups::NEW | ExpectGroups::DESTROY, ExpectGroups::NONE);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExpectGroups(u32);

impl ExpectGroups {
    /// No events.
    pub const NONE: ExpectGroups = ExpectGroups(0);
    /// Expectations that begin.
    pub const NEW: ExpectGroups = ExpectGroups(1 << (sys::NFNLGRP_CONNTRACK_EXP_NEW - 1));
    /// Expectations that change. No kernel up to 6.18 sends any.
    pub const UPDATE: ExpectGroups = ExpectGroups(1 << (sys::NFNLGRP_CONNTRACK_EXP_UPDATE - 1));
    /// Expectations that end: their connection has begun, their timeout has
    /// expired, their master has ended, or someone removed them.
    pub const DESTROY: ExpectGroups = ExpectGroups(1 << (sys::NFNLGRP_CONNTRACK_EXP_DESTROY - 1));
    /// All of them.
    pub const ALL: ExpectGroups = ExpectGroups(Self::NEW.0 | Self::UPDATE.0 | Self::DESTROY.0);

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for ExpectGroups {
    type Output = ExpectGroups;

    fn bitor(self, other: ExpectGroups) -> ExpectGroups {
        ExpectGroups(self.0 | other.0)
    }
}

/// One event of a connection.
///
/// ```no_run
/// use nfct::{Events, Groups, Notification};
/// let mut events = Events::subscribe(Groups::NEW)?;
/// if let Some(Notification::Event(event)) = events.try_next()? {
///     println!("{:?} {}", event.kind, event.flow.original);
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The entry to which it happened.
    pub flow: Flow,
}

impl Event {
    /// Creates an event, for tests and replays.
    ///
    /// ```no_run
    /// # let flow: nfct::Flow = unimplemented!();
    /// let bytes = nfct::wire::write_event(&nfct::Event::new(nfct::EventKind::New, flow));
    /// # let _ = bytes;
    /// ```
    #[must_use]
    pub const fn new(kind: EventKind, flow: Flow) -> Self {
        Self { kind, flow }
    }
}
