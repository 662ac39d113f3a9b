//! What a subscription returns: events in one of three forms, overruns and
//! recoveries.

use nfct_sys as sys;

use crate::conntrack::Conntrack;
use crate::event::{Event, EventKind};
use crate::wire::{Malformed, Message, message_kind};

impl EventKind {
    /// The kind of event in a message of the conntrack subsystem. `None` if the message
    /// is not an event.
    ///
    /// ```no_run
    /// use nfct::{EventKind, Groups, Handle, Next};
    /// Handle::open(Groups::ALL)?.catch_messages(|message, kind, _| {
    ///     assert_eq!(EventKind::of(message), Some(kind));
    ///     Next::Continue
    /// })?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    pub fn of(message: &Message<'_>) -> Option<Self> {
        let is_new = message.flags & (sys::NLM_F_CREATE | sys::NLM_F_EXCL) as u16 != 0;
        if message.kind == message_kind(sys::IPCTNL_MSG_CT_NEW) {
            Some(if is_new { EventKind::New } else { EventKind::Update })
        } else if message.kind == message_kind(sys::IPCTNL_MSG_CT_DELETE) {
            Some(EventKind::Destroy)
        } else {
            None
        }
    }
}

/// One event with the C library's object, which has every attribute that the
/// kernel sends.
///
/// ```no_run
/// use nfct::{Events, FullEvent, Groups, Notification};
/// for notification in Events::subscribe(Groups::ALL)?.full() {
///     if let Notification::Event(FullEvent { kind, entry, .. }) = notification? {
///         println!("{kind:?} {entry}");
///     }
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct FullEvent {
    /// What happened.
    pub kind: EventKind,
    /// The entry to which it happened.
    pub entry: Conntrack,
}

/// What a subscription returns: an [`Event`], [`FullEvent`] or
/// [`ExpectEvent`](crate::ExpectEvent), or a problem after which events continue.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Events, Groups, Notification};
///
/// for notification in Events::subscribe(Groups::ALL)? {
///     match notification? {
///         Notification::Event(event) => println!("{:?} {}", event.kind, event.flow.original),
///         Notification::Overrun => println!("events are being lost (receive buffer full)"),
///         Notification::Recovered { lost } => println!("{lost} events lost"),
///         Notification::Malformed(error) => println!("an event cannot be read: {error}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification<E = Event> {
    /// An event.
    Event(E),
    /// The receive buffer was full and events were lost. The kernel drops all further
    /// events until the socket has been drained. [`Recovered`](Self::Recovered) reports
    /// that. The events in between happened before the overrun.
    Overrun,
    /// The socket has been drained after an [`Overrun`](Self::Overrun): events
    /// arrive again. This is the time to read the table again, for example with
    /// [`Events::resync`](crate::Events::resync).
    Recovered {
        /// The number of events lost since the last recovery, from the kernel's
        /// own counter. The sum over all recoveries of a subscription is exact.
        lost: u32,
    },
    /// A message that is malformed. It is skipped.
    Malformed(Malformed),
}

/// The forms in which an event can be read: [`Event`], [`FullEvent`] or
/// [`ExpectEvent`](crate::ExpectEvent).
///
/// ```
/// use nfct::{EventRecord, Notification};
///
/// fn is_overrun<E: EventRecord>(notification: &Notification<E>) -> bool {
///     matches!(notification, Notification::Overrun)
/// }
/// ```
pub trait EventRecord: sealed::Sealed + Sized {
    /// Reads an event. Returns `None` if the message is not an event.
    #[doc(hidden)]
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed>;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for Event {}
impl sealed::Sealed for FullEvent {}

impl EventRecord for Event {
    #[inline]
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let Some(kind) = EventKind::of(message) else { return Ok(None) };
        message.flow().map(|flow| Some(Event::new(kind, flow)))
    }
}

impl EventRecord for FullEvent {
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let Some(kind) = EventKind::of(message) else { return Ok(None) };
        let entry = Conntrack::parse(message.as_bytes()).map_err(|_| Malformed::Library)?;
        Ok(Some(FullEvent { kind, entry }))
    }
}

/// The result of one [`Events::receive`](crate::Events::receive).
///
/// ```no_run
/// use nfct::{Events, Groups, Received};
/// let mut events = Events::subscribe(Groups::NEW)?;
/// match events.receive(|event| println!("{}", event.flow.original))? {
///     Received::Some { messages, malformed } => println!("{messages} read, {malformed} malformed"),
///     Received::Nothing => println!("nothing yet"),
///     Received::Overrun => println!("events are being lost"),
///     Received::Recovered { lost } => println!("{lost} events lost"),
///     _ => {}
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// Messages were received. More may be waiting.
    Some {
        /// Messages received.
        messages: usize,
        /// Malformed messages, which were skipped.
        malformed: usize,
    },
    /// Nothing was waiting.
    Nothing,
    /// As [`Notification::Overrun`].
    Overrun,
    /// As [`Notification::Recovered`].
    Recovered {
        /// The number of events lost since the last recovery.
        lost: u32,
    },
}
