//! Following what the kernel says as connections come and go.

use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nfct_sys as sys;

use crate::conntrack::Conntrack;
use crate::error::Error;
use crate::flow::Flow;
use crate::handle::Handle;
use crate::kernel_filter::KernelFilter;
use crate::socket::{self, Batch};
use crate::wire::{Malformed, Message, Messages, message_kind};

/// What the kernel counts at least for an event that waits: its `struct sk_buff`
/// and `struct skb_shared_info`, before any data.
const SMALLEST_EVENT: usize = 512;

/// What happened to a connection.
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
    /// It was confirmed: its first packet is about to leave.
    New,
    /// Its state, mark, labels or timers changed. Its tuples never do.
    Update,
    /// It ended.
    Destroy,
}

impl EventKind {
    /// The C library's message type; entries of a dump count as updates.
    pub(crate) fn from_library(kind: sys::nf_conntrack_msg_type) -> Self {
        match kind {
            sys::NFCT_T_NEW => EventKind::New,
            sys::NFCT_T_DESTROY => EventKind::Destroy,
            _ => EventKind::Update,
        }
    }

    /// What a message tells, if it is an event at all.
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
        let fresh = message.flags & (sys::NLM_F_CREATE | sys::NLM_F_EXCL) as u16 != 0;
        if message.kind == message_kind(sys::IPCTNL_MSG_CT_NEW) {
            Some(if fresh { EventKind::New } else { EventKind::Update })
        } else if message.kind == message_kind(sys::IPCTNL_MSG_CT_DELETE) {
            Some(EventKind::Destroy)
        } else {
            None
        }
    }
}

/// Kinds of events to listen to; join them with `|`.
///
/// ```
/// use nfct::Groups;
/// assert_eq!(Groups::NEW | Groups::UPDATE | Groups::DESTROY, Groups::ALL);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups(u32);

impl Groups {
    /// No events.
    pub const NONE: Groups = Groups(0);
    /// Connections that begin.
    pub const NEW: Groups = Groups(1 << (sys::NFNLGRP_CONNTRACK_NEW - 1));
    /// Connections that change.
    pub const UPDATE: Groups = Groups(1 << (sys::NFNLGRP_CONNTRACK_UPDATE - 1));
    /// Connections that end.
    pub const DESTROY: Groups = Groups(1 << (sys::NFNLGRP_CONNTRACK_DESTROY - 1));
    /// All three.
    pub const ALL: Groups = Groups(Self::NEW.0 | Self::UPDATE.0 | Self::DESTROY.0);

    /// Groups of either subsystem.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Groups(bits)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Groups {
    type Output = Groups;

    fn bitor(self, other: Groups) -> Groups {
        Groups(self.0 | other.0)
    }
}

/// One event.
///
/// ```no_run
/// use nfct::{Events, Groups, News};
/// let mut events = Events::subscribe(Groups::NEW)?;
/// if let Some(News::Event(event)) = events.try_next()? {
///     println!("{:?} {}", event.kind, event.flow.original);
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The entry it happened to.
    pub flow: Flow,
}

/// One event with the C library's object, which holds every attribute that the
/// kernel sends.
///
/// ```no_run
/// use nfct::{Events, FullEvent, Groups, News};
/// for news in Events::subscribe(Groups::ALL)?.full() {
///     if let News::Event(FullEvent { kind, entry }) = news? {
///         println!("{kind:?} {entry}");
///     }
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug)]
pub struct FullEvent {
    /// What happened.
    pub kind: EventKind,
    /// The entry it happened to.
    pub entry: Conntrack,
}

/// What a listener learns: [`Event`]s, [`FullEvent`]s or
/// [`ExpectEvent`](crate::ExpectEvent)s, and what went wrong
/// with some, after which others follow.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Events, Groups, News};
///
/// for news in Events::subscribe(Groups::ALL)? {
///     match news? {
///         News::Event(event) => println!("{:?} {}", event.kind, event.flow.original),
///         News::Overrun => println!("some were lost: read the table anew"),
///         News::Malformed(error) => println!("one could not be read: {error}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News<E = Event> {
    /// Something happened.
    Event(E),
    /// The kernel dropped events because the receive buffer was full. It drops
    /// all further ones, without another word, until the buffer has been read
    /// empty; only then is it of use to read the table anew.
    Overrun,
    /// A message that could not be read.
    Malformed(Malformed),
}

/// What an event can be read as: [`Event`], [`FullEvent`] or
/// [`ExpectEvent`](crate::ExpectEvent).
///
/// ```
/// use nfct::{Happening, News};
///
/// fn is_loss<E: Happening>(news: &News<E>) -> bool {
///     matches!(news, News::Overrun)
/// }
/// ```
pub trait Happening: sealed::Sealed + Sized {
    /// Reads one, or none where the message is no event.
    #[doc(hidden)]
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Event {}
    impl Sealed for super::FullEvent {}
    impl Sealed for crate::ExpectEvent {}
}

impl Happening for Event {
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let Some(kind) = EventKind::of(message) else { return Ok(None) };
        message.flow().map(|flow| Some(Event { kind, flow }))
    }
}

impl Happening for FullEvent {
    fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        let Some(kind) = EventKind::of(message) else { return Ok(None) };
        let entry = Conntrack::parse(message.as_bytes()).map_err(|_| Malformed::Library)?;
        Ok(Some(FullEvent { kind, entry }))
    }
}

/// What one [`Events::receive`] found.
///
/// ```no_run
/// use nfct::{Events, Groups, Received};
/// let mut events = Events::subscribe(Groups::NEW)?;
/// match events.receive(|event| println!("{}", event.flow.original))? {
///     Received::Some { messages, malformed } => println!("{messages}, {malformed} unread"),
///     Received::Nothing => println!("nothing yet"),
///     Received::Overrun => println!("some were lost"),
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Datagrams were taken; more may wait.
    Some {
        /// Messages taken.
        messages: usize,
        /// Messages that could not be read, and were left out.
        malformed: usize,
    },
    /// Nothing waited.
    Nothing,
    /// The kernel dropped events because the receive buffer was full. It drops
    /// all further ones, without another word, until the buffer has been read
    /// empty; only then is it of use to read the table anew.
    Overrun,
}

/// A subscription to conntrack events of one network namespace, and an iterator
/// that waits for them; it never ends by itself.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Events, Groups, News};
///
/// for news in Events::subscribe(Groups::NEW | Groups::DESTROY)? {
///     if let News::Event(event) = news? {
///         println!("{:?} {}", event.kind, event.flow.original);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// Where each microsecond counts, [`receive`](Self::receive) hands out many with
/// one call; with the feature `tokio`, `EventStream` is the asynchronous way.
pub struct Events {
    handle: Handle,
    batch: Batch,
    /// What of the batch is not read yet: from here in this datagram, and all
    /// behind it.
    at: usize,
    offset: usize,
}

impl Events {
    /// Listens to `groups` in the network namespace of this thread;
    /// [`Namespace::enter`](crate::Namespace::enter) listens elsewhere.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::NEW)?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN, [`Error::Unsupported`]
    /// without netlink's netfilter protocol.
    pub fn subscribe(groups: Groups) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(groups)?, batch: Batch::new(), at: 0, offset: 0 })
    }

    /// What has come, without waiting; `None` when there is nothing yet.
    ///
    /// ```no_run
    /// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// while let Some(news) = events.try_next()? {
    ///     println!("{news:?}");
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says; a full buffer is [`News::Overrun`], no error.
    pub fn try_next(&mut self) -> Result<Option<News>, Error> {
        self.take_news()
    }

    /// What comes next, waiting for it for at most `timeout`; `None` when that
    /// is over.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// if events.next_within(Duration::from_secs(10))?.is_none() {
    ///     println!("nothing for ten seconds");
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`try_next`](Self::try_next).
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<News>, Error> {
        self.take_within(timeout)
    }

    /// What comes next, waiting for it for at most `timeout`.
    pub(crate) fn take_within<E: Happening>(&mut self, timeout: Duration) -> Result<Option<News<E>>, Error> {
        let start = Instant::now();
        loop {
            if let Some(news) = self.take_news()? {
                return Ok(Some(news));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(Some(left))?;
        }
    }

    /// The events as the C library's objects, which hold every attribute that
    /// the kernel sends.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// use nfct::{Events, Groups, News};
    ///
    /// for news in Events::subscribe(Groups::ALL)?.full() {
    ///     if let News::Event(event) = news? {
    ///         println!("{:?} {:?}", event.kind, event.entry.timeout());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn full(&mut self) -> FullEvents<'_> {
        FullEvents { events: self }
    }

    /// What has come, without waiting.
    pub(crate) fn take_news<E: Happening>(&mut self) -> Result<Option<News<E>>, Error> {
        loop {
            if let Some(news) = self.take_received() {
                return Ok(Some(news));
            }
            match self.refill()? {
                Received::Some { .. } => {}
                Received::Nothing => return Ok(None),
                Received::Overrun => return Ok(Some(News::Overrun)),
            }
        }
    }

    /// The next event of what has been received already.
    pub(crate) fn take_received<E: Happening>(&mut self) -> Option<News<E>> {
        while let Some(datagram) = self.batch.datagram(self.at) {
            let mut messages = Messages::new(datagram.get(self.offset..).unwrap_or_default());
            let message = messages.next();
            self.offset = datagram.len() - messages.remaining();
            match message {
                Some(message) => match message.and_then(|message| E::read(&message)) {
                    Ok(Some(event)) => return Some(News::Event(event)),
                    Ok(None) => {}
                    Err(error) => return Some(News::Malformed(error)),
                },
                None => (self.at, self.offset) = (self.at + 1, 0),
            }
        }
        None
    }

    /// Receives anew; what was not read of the last batch is gone.
    fn refill(&mut self) -> Result<Received, Error> {
        (self.at, self.offset) = (0, 0);
        match self.batch.receive(self.handle.as_fd()) {
            Ok(()) => Ok(Received::Some { messages: 0, malformed: 0 }),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Received::Nothing),
                Some(libc::ENOBUFS | libc::EMSGSIZE) => Ok(Received::Overrun),
                _ => Err(Error::from_io("receiving conntrack events", error)),
            },
        }
    }

    /// Sets the receive buffer, past `net.core.rmem_max` with CAP_NET_ADMIN,
    /// and returns the bytes in force: the kernel doubles what it is given and
    /// counts its own bookkeeping, more than a kilobyte an event.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// assert!(events.set_receive_buffer(64 << 20)? >= 64 << 20);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<usize, Error> {
        socket::set_receive_buffer(self.handle.as_fd(), bytes)
            .map_err(|source| Error::from_io("setting the receive buffer", source))
    }

    /// The receive buffer in force, in bytes as the kernel counts them.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// println!("{} bytes", events.receive_buffer()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn receive_buffer(&self) -> Result<usize, Error> {
        socket::receive_buffer(self.handle.as_fd())
            .map_err(|source| Error::from_io("reading the receive buffer's size", source))
    }

    /// The most events that can be waiting now.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// println!("at most {} wait", events.most_waiting()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn most_waiting(&self) -> Result<usize, Error> {
        let bytes = socket::receive_memory(self.handle.as_fd())
            .map_err(|source| Error::from_io("reading how much waits", source))?;
        Ok(bytes.div_ceil(SMALLEST_EVENT))
    }

    /// Asks the kernel to hold a connection's packet, or its end, back when its
    /// event can't be delivered (`NETLINK_BROADCAST_ERROR`): nothing is lost,
    /// but a listener that is too slow makes the gateway drop packets.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// events.set_reliable(true)?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn set_reliable(&self, reliable: bool) -> Result<(), Error> {
        socket::set_option(
            self.handle.as_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_BROADCAST_ERROR,
            i32::from(reliable),
        )
        .map_err(|source| Error::from_io("asking for reliable events", source))
    }

    /// Has the kernel deliver only what `filter` lets through, from now on.
    ///
    /// ```no_run
    /// use nfct::{Events, Groups, KernelFilter, Logic, Protocol};
    /// let events = Events::subscribe(Groups::ALL)?;
    /// events.set_filter(&KernelFilter::new().protocols(Logic::Only, [Protocol::Tcp]))?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn set_filter(&self, filter: &KernelFilter) -> Result<(), Error> {
        filter.attach(self)
    }

    /// Takes what waits, up to a fixed number of events, without blocking, and
    /// hands each to `on`.
    ///
    /// ```no_run
    /// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// events.wait(None)?;
    /// events.receive(|event| println!("{event:?}"))?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says; a full buffer is [`Received::Overrun`], no error.
    pub fn receive(&mut self, mut on: impl FnMut(Event)) -> Result<Received, Error> {
        // What `try_next` has left comes first.
        if self.batch.datagram(self.at).is_none() {
            match self.refill()? {
                Received::Some { .. } => {}
                nothing => return Ok(nothing),
            }
        }
        let (mut messages, mut malformed) = (0, 0);
        while let Some(datagram) = self.batch.datagram(self.at) {
            for message in Messages::new(datagram.get(self.offset..).unwrap_or_default()) {
                messages += 1;
                match message.and_then(|message| Event::read(&message)) {
                    Ok(Some(event)) => on(event),
                    Ok(None) => {}
                    Err(_) => malformed += 1,
                }
            }
            (self.at, self.offset) = (self.at + 1, 0);
        }
        Ok(Received::Some { messages, malformed })
    }

    /// Waits until an event, or the word that some were lost, can be received,
    /// or for at most `timeout`; returns whether one can. With no time to wait
    /// it is the cheapest way to ask.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// if !events.wait(Some(Duration::from_secs(1)))? {
    ///     println!("nothing for a second");
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says; a signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        wait(self.handle.as_fd(), timeout)
    }

    /// Something to wait with while another thread receives.
    ///
    /// ```no_run
    /// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// let waiter = events.waiter()?;
    /// std::thread::spawn(move || waiter.wait(None));
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn waiter(&self) -> Result<Waiter, Error> {
        let socket = self.handle.as_fd().try_clone_to_owned();
        let socket = socket.map_err(|source| Error::from_io("sharing the conntrack socket", source))?;
        Ok(Waiter { socket })
    }
}

/// Waits for what comes next.
impl Iterator for Events {
    type Item = Result<News, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        next(self)
    }
}

/// Waits for what comes next, with every attribute; made by [`Events::full`].
///
/// ```no_run
/// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
/// let first = events.full().next().transpose()?;
/// println!("{first:?}");
/// # Ok::<_, nfct::Error>(())
/// ```
pub struct FullEvents<'a> {
    events: &'a mut Events,
}

impl Iterator for FullEvents<'_> {
    type Item = Result<News<FullEvent>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        next(self.events)
    }
}

pub(crate) fn next<E: Happening>(events: &mut Events) -> Option<Result<News<E>, Error>> {
    loop {
        match events.take_news().transpose() {
            Some(news) => return Some(news),
            None => {
                if let Err(error) = events.wait(None) {
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Waits for events without a hold on their [`Events`].
///
/// ```no_run
/// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
/// let waiter: nfct::Waiter = events.waiter()?;
/// println!("{}", waiter.wait(Some(std::time::Duration::from_secs(1)))?);
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug)]
pub struct Waiter {
    socket: OwnedFd,
}

impl Waiter {
    /// Waits until an event, or the word that some were lost, can be received,
    /// or for at most `timeout`; returns whether one can. With no time to wait
    /// it is the cheapest way to ask.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// let waiter: nfct::Waiter = events.waiter()?;
    /// println!("{}", waiter.wait(Some(std::time::Duration::from_secs(1)))?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says; a signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        wait(self.socket.as_fd(), timeout)
    }

    /// How many events the kernel dropped since the subscription because the
    /// receive buffer was full. Wraps around after 4,294,967,295.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// println!("{} dropped", events.waiter()?.drops()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn drops(&self) -> Result<u32, Error> {
        socket::drops(self.socket.as_fd())
            .map_err(|source| Error::from_io("reading how many events were dropped", source))
    }
}

/// The same socket.
impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn wait(socket: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool, Error> {
    socket::wait(socket, timeout).map_err(|source| Error::from_io("waiting for conntrack events", source))
}

/// The socket, to be watched together with others.
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}
