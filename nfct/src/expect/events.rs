//! A subscription to expectation events.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nfct_sys as sys;

use crate::error::Error;
use crate::event::{EventKind, ExpectGroups, Groups};
use crate::events::{Events, next};
use crate::expectation::Expectation;
use crate::notification::{EventRecord, Notification, sealed};
use crate::waiter::Waiter;
use crate::wire::{Malformed, Message, expectation_kind};

/// One event of an expectation.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{EventKind, ExpectEvents, ExpectGroups, Notification};
///
/// for notification in ExpectEvents::subscribe(ExpectGroups::ALL)? {
///     match notification? {
///         Notification::Event(event) if event.kind == EventKind::New => println!("{}", event.expectation),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ExpectEvent {
    /// What happened.
    pub kind: EventKind,
    /// The expectation to which it happened.
    pub expectation: Expectation,
}

/// A subscription to expectation events of one network namespace, and an
/// iterator that waits for them. It never ends by itself.
///
/// The kernel reports the expectations of a connection only if a program listened to
/// conntrack events when that connection began
/// (`net.netfilter.nf_conntrack_events=2`, the default), or if events are always on
/// (`=1`). The events contain neither the zone nor the reply tuple of the master.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{ExpectEvents, ExpectGroups, Notification};
///
/// for notification in ExpectEvents::subscribe(ExpectGroups::NEW | ExpectGroups::DESTROY)? {
///     if let Notification::Event(event) = notification? {
///         println!("{:?} {}", event.kind, event.expectation);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct ExpectEvents {
    /// One socket serves both subsystems. Only the parsing of messages differs.
    pub(crate) events: Events,
}

impl ExpectEvents {
    /// Listens to `groups` in the network namespace of this thread;
    /// [`Namespace::enter`](crate::Namespace::enter) listens in another one.
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
    /// The system's error.
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<usize, Error> {
        self.events.set_receive_buffer(bytes)
    }

    /// The size of the receive buffer, as [`Events::receive_buffer`].
    ///
    /// ```no_run
    /// let events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// println!("{} bytes", events.receive_buffer()?);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn receive_buffer(&self) -> Result<usize, Error> {
        self.events.receive_buffer()
    }

    /// Waits until a notification can be received, or for at most `timeout`.
    /// Returns whether one can be received.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// let mut events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// while !events.wait(Some(Duration::from_secs(1)))? {
    ///     println!("nothing yet");
    /// }
    /// println!("{:?}", events.try_next()?);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error. A signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        self.events.wait(timeout)
    }

    /// A [`Waiter`], which waits for events while another thread receives them.
    ///
    /// ```no_run
    /// let events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// let waiter = events.waiter()?;
    /// std::thread::spawn(move || waiter.wait(None));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the process has reached its limit of open files.
    pub fn waiter(&self) -> Result<Waiter, Error> {
        self.events.waiter()
    }

    /// The next notification, without waiting. `None` if there is none yet.
    ///
    /// ```no_run
    /// let mut events = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL)?;
    /// while let Some(notification) = events.try_next()? {
    ///     println!("{notification:?}");
    /// }
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error. A full receive buffer is not an error but [`Notification::Overrun`].
    pub fn try_next(&mut self) -> Result<Option<Notification<ExpectEvent>>, Error> {
        self.events.try_take()
    }

    /// The next notification. Waits for it for at most `timeout`, then returns `None`.
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
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Notification<ExpectEvent>>, Error> {
        self.events.take_within(timeout)
    }
}

/// Waits for the next notification.
impl Iterator for ExpectEvents {
    type Item = Result<Notification<ExpectEvent>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        next(&mut self.events)
    }
}

/// The socket, to watch it together with others.
impl AsFd for ExpectEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl fmt::Debug for ExpectEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectEvents").finish_non_exhaustive()
    }
}

impl sealed::Sealed for ExpectEvent {}

impl EventRecord for ExpectEvent {
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let is_new = message.flags & (sys::NLM_F_CREATE | sys::NLM_F_EXCL) as u16 != 0;
        let kind = if message.kind == expectation_kind(sys::IPCTNL_MSG_EXP_NEW) {
            if is_new { EventKind::New } else { EventKind::Update }
        } else if message.kind == expectation_kind(sys::IPCTNL_MSG_EXP_DELETE) {
            EventKind::Destroy
        } else {
            return Ok(None);
        };
        Ok(Some(ExpectEvent { kind, expectation: message.expectation()? }))
    }
}
