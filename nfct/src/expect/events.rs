//! Following what the kernel expects, as it comes and goes.

use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nfct_sys as sys;

use super::expectation::Expectation;
use crate::error::Error;
use crate::events::{EventKind, Events, Groups, Happening, News, next};
use crate::wire::{Malformed, Message, expectation_kind};

/// Kinds of expectation events to listen to; join them with `|`.
///
/// ```
/// use nfct::ExpectGroups;
///
/// assert_ne!(ExpectGroups::NEW | ExpectGroups::DESTROY, ExpectGroups::NONE);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectGroups(u32);

impl ExpectGroups {
    /// No events.
    pub const NONE: ExpectGroups = ExpectGroups(0);
    /// Expectations that begin.
    pub const NEW: ExpectGroups = ExpectGroups(1 << (sys::NFNLGRP_CONNTRACK_EXP_NEW - 1));
    /// Expectations that change. No kernel up to 6.18 sends any.
    pub const UPDATE: ExpectGroups = ExpectGroups(1 << (sys::NFNLGRP_CONNTRACK_EXP_UPDATE - 1));
    /// Expectations that end: because their connection has come, their time is
    /// over, their master has ended, or someone removed them.
    pub const DESTROY: ExpectGroups = ExpectGroups(1 << (sys::NFNLGRP_CONNTRACK_EXP_DESTROY - 1));
    /// All of them.
    pub const ALL: ExpectGroups = ExpectGroups(Self::NEW.0 | Self::UPDATE.0 | Self::DESTROY.0);

    pub(super) const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for ExpectGroups {
    type Output = ExpectGroups;

    fn bitor(self, other: ExpectGroups) -> ExpectGroups {
        ExpectGroups(self.0 | other.0)
    }
}

/// One event.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{EventKind, ExpectEvent, ExpectEvents, ExpectGroups, News};
///
/// for news in ExpectEvents::subscribe(ExpectGroups::NEW)? {
///     if let News::Event(ExpectEvent { kind: EventKind::New, expectation }) = news? {
///         println!("{expectation}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ExpectEvent {
    /// What happened.
    pub kind: EventKind,
    /// The expectation it happened to.
    pub expectation: Expectation,
}

/// A subscription to expectation events of one network namespace, and an
/// iterator that waits for them; it never ends by itself.
///
/// The kernel tells of a connection's expectations only if that connection
/// began while somebody listened to conntrack events
/// (`net.netfilter.nf_conntrack_events=2`, the default) or events are always on
/// (`=1`). Its events name neither the zone nor the rest of a master.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{ExpectEvents, ExpectGroups, News};
///
/// for news in ExpectEvents::subscribe(ExpectGroups::NEW | ExpectGroups::DESTROY)? {
///     if let News::Event(event) = news? {
///         println!("{:?} {}", event.kind, event.expectation);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct ExpectEvents {
    /// One socket serves both subsystems; what differs is what its messages are
    /// read as.
    pub(crate) events: Events,
}

impl ExpectEvents {
    /// Listens to `groups` in the network namespace of this thread;
    /// [`Namespace::enter`](crate::Namespace::enter) listens elsewhere.
    ///
    /// ```no_run
    /// let events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN, [`Error::Unsupported`]
    /// without netlink's netfilter protocol.
    pub fn subscribe(groups: ExpectGroups) -> Result<Self, Error> {
        Ok(Self { events: Events::subscribe(Groups::from_bits(groups.bits()))? })
    }

    /// Sets the receive buffer, as [`Events::set_receive_buffer`].
    ///
    /// ```no_run
    /// let events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// assert!(events.set_receive_buffer(1 << 20)? >= 1 << 20);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<usize, Error> {
        self.events.set_receive_buffer(bytes)
    }

    /// What has come, without waiting; `None` when there is nothing yet.
    ///
    /// ```no_run
    /// let mut events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// while let Some(news) = events.try_next()? {
    ///     println!("{news:?}");
    /// }
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says; a full buffer is [`News::Overrun`], no error.
    pub fn try_next(&mut self) -> Result<Option<News<ExpectEvent>>, Error> {
        self.events.take_news()
    }

    /// What comes next, waiting for it for at most `timeout`; `None` when that
    /// is over.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// let mut events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// if events.next_within(Duration::from_secs(10))?.is_none() {
    ///     println!("nothing for ten seconds");
    /// }
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<News<ExpectEvent>>, Error> {
        self.events.take_within(timeout)
    }
}

/// Waits for what comes next.
impl Iterator for ExpectEvents {
    type Item = Result<News<ExpectEvent>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        next(&mut self.events)
    }
}

/// The socket, to be watched together with others; [`ExpectEvents::try_next`]
/// takes what it has.
impl AsFd for ExpectEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Happening for ExpectEvent {
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let fresh = message.flags & (sys::NLM_F_CREATE | sys::NLM_F_EXCL) as u16 != 0;
        let kind = if message.kind == expectation_kind(sys::IPCTNL_MSG_EXP_NEW) {
            if fresh { EventKind::New } else { EventKind::Update }
        } else if message.kind == expectation_kind(sys::IPCTNL_MSG_EXP_DELETE) {
            EventKind::Destroy
        } else {
            return Ok(None);
        };
        Ok(Some(ExpectEvent { kind, expectation: message.expectation()? }))
    }
}
