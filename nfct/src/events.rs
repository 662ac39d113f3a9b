//! A subscription to the events of the kernel.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::event::{Event, Groups};
use crate::handle::Handle;
use crate::kernel_filter::KernelFilter;
use crate::notification::{EventRecord, FullEvent, Notification, Received};
use crate::socket::{self, Batch};
use crate::waiter::{self, Waiter};
use crate::wire::Messages;

/// The least that the kernel counts for an event in the receive buffer: its
/// `struct sk_buff` and `struct skb_shared_info`, before any data.
const SMALLEST_EVENT: usize = 512;

/// A subscription to conntrack events of one network namespace, and an iterator
/// that waits for them. It never ends by itself.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Events, Groups, Notification};
///
/// for notification in Events::subscribe(Groups::NEW | Groups::DESTROY)? {
///     if let Notification::Event(event) = notification? {
///         println!("{:?} {}", event.kind, event.flow.original);
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// [`receive`](Self::receive) is faster: it passes on many events with one call. With
/// the feature `tokio`, `EventStream` is the asynchronous form.
pub struct Events {
    handle: Handle,
    batch: Batch,
    /// The unread part of the batch: from `offset` in datagram `at`, and all later ones.
    at: usize,
    offset: usize,
    recovery: Recovery,
    /// The kernel's counter of dropped events at the last recovery.
    drops: u32,
    /// Events since then that were larger than the buffer.
    truncated: u32,
}

/// The progress of the recovery from an overrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recovery {
    /// No overrun, or recovered.
    Done,
    /// The socket has not been drained yet.
    Draining,
    /// The socket has been drained. This is not reported yet.
    Drained,
}

impl Events {
    /// Listens to `groups` in the network namespace of this thread.
    /// [`Namespace::enter`](crate::Namespace::enter) listens in another one.
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
        let (handle, batch) = (Handle::open(groups)?, Batch::new());
        Ok(Self { handle, batch, at: 0, offset: 0, recovery: Recovery::Done, drops: 0, truncated: 0 })
    }

    /// The next notification, without waiting. `None` if there is none yet.
    ///
    /// ```no_run
    /// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// while let Some(notification) = events.try_next()? {
    ///     println!("{notification:?}");
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error. A full receive buffer is not an error but [`Notification::Overrun`].
    pub fn try_next(&mut self) -> Result<Option<Notification>, Error> {
        self.try_take()
    }

    /// The next notification. Waits for it for at most `timeout`, then returns `None`.
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
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<Notification>, Error> {
        self.take_within(timeout)
    }

    /// The next notification in any form of event. Waits for at most `timeout`.
    pub(crate) fn take_within<E: EventRecord>(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Notification<E>>, Error> {
        let start = Instant::now();
        loop {
            if let Some(notification) = self.try_take()? {
                return Ok(Some(notification));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(Some(left))?;
        }
    }

    /// The events as the C library's objects, which have every attribute that
    /// the kernel sends.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// use nfct::{Events, Groups, Notification};
    ///
    /// for notification in Events::subscribe(Groups::ALL)?.full() {
    ///     if let Notification::Event(event) = notification? {
    ///         println!("{:?} {:?}", event.kind, event.entry.timeout());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn full(&mut self) -> FullEvents<'_> {
        FullEvents { events: self }
    }

    /// The next notification in any form of event, without waiting.
    pub(crate) fn try_take<E: EventRecord>(&mut self) -> Result<Option<Notification<E>>, Error> {
        loop {
            if let Some(notification) = self.take_received() {
                return Ok(Some(notification));
            }
            match self.refill()? {
                Received::Some { .. } => {}
                Received::Nothing => return Ok(None),
                Received::Overrun => return Ok(Some(Notification::Overrun)),
                Received::Recovered { lost } => return Ok(Some(Notification::Recovered { lost })),
            }
        }
    }

    /// Whether [`try_take`](Self::try_take) may return something although nothing waits
    /// in the socket: the rest of a batch, or a recovery.
    #[cfg(feature = "tokio")]
    pub(crate) fn has_pending(&self) -> bool {
        self.batch.datagram(self.at).is_some() || self.recovery != Recovery::Done
    }

    /// The next event of the batch.
    fn take_received<E: EventRecord>(&mut self) -> Option<Notification<E>> {
        while let Some(datagram) = self.batch.datagram(self.at) {
            let mut messages = Messages::new(datagram.get(self.offset..).unwrap_or_default());
            let message = messages.next();
            self.offset = datagram.len() - messages.remaining();
            match message {
                Some(message) => match message.and_then(|message| E::read(&message)) {
                    Ok(Some(event)) => return Some(Notification::Event(event)),
                    Ok(None) => {}
                    Err(error) => return Some(Notification::Malformed(error)),
                },
                None => (self.at, self.offset) = (self.at + 1, 0),
            }
        }
        None
    }

    /// Receives the next batch. The previous one must have been read completely.
    fn refill(&mut self) -> Result<Received, Error> {
        if self.recovery == Recovery::Drained {
            return self.recovered();
        }
        (self.at, self.offset) = (0, 0);
        match self.batch.receive(self.handle.as_fd()) {
            Ok(()) => {
                // Fewer datagrams than would fit: the kernel had no more.
                if self.recovery == Recovery::Draining && !self.batch.is_full() {
                    self.recovery = Recovery::Drained;
                }
                match self.batch.truncated() {
                    0 => Ok(Received::Some { messages: 0, malformed: 0 }),
                    // The batch stays, and is passed on by the next calls.
                    truncated => Ok(self.overrun(truncated)),
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) if self.recovery == Recovery::Done => Ok(Received::Nothing),
                Some(libc::EAGAIN) => self.recovered(),
                Some(libc::ENOBUFS) => Ok(self.overrun(0)),
                _ => Err(Error::from_io("receiving conntrack events", error)),
            },
        }
    }

    fn overrun(&mut self, truncated: u32) -> Received {
        self.recovery = Recovery::Draining;
        self.truncated = self.truncated.wrapping_add(truncated);
        Received::Overrun
    }

    /// Reports a recovery: the socket is drained. An event that the kernel drops before
    /// the counter is read here is part of this recovery, not of the next one.
    fn recovered(&mut self) -> Result<Received, Error> {
        let drops = waiter::drops(self.handle.as_fd())?;
        let lost = drops.wrapping_sub(self.drops).wrapping_add(self.truncated);
        (self.recovery, self.drops, self.truncated) = (Recovery::Done, drops, 0);
        Ok(Received::Recovered { lost })
    }

    /// Sets the size of the receive buffer, with CAP_NET_ADMIN also above
    /// `net.core.rmem_max`. Returns the size in effect, in bytes: the kernel doubles
    /// the given size. It counts more than a kilobyte for each event.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// assert!(events.set_receive_buffer(64 << 20)? >= 64 << 20);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<usize, Error> {
        socket::set_receive_buffer(self.handle.as_fd(), bytes)
            .map_err(|source| Error::from_io("setting the receive buffer", source))
    }

    /// The size of the receive buffer in bytes, as the kernel counts them.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// println!("{} bytes", events.receive_buffer()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn receive_buffer(&self) -> Result<usize, Error> {
        socket::receive_buffer(self.handle.as_fd())
            .map_err(|source| Error::from_io("reading the size of the receive buffer", source))
    }

    /// An upper bound for the number of events that are waiting now.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// println!("at most {} waiting", events.most_waiting()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn most_waiting(&self) -> Result<usize, Error> {
        let bytes = socket::receive_memory(self.handle.as_fd())
            .map_err(|source| Error::from_io("reading the use of the receive buffer", source))?;
        Ok(bytes.div_ceil(SMALLEST_EVENT))
    }

    /// Sets whether the kernel repeats events that this listener lost because its receive
    /// buffer was full (`NETLINK_BROADCAST_ERROR`). The packet that caused an event is
    /// never held back or dropped for this.
    ///
    /// - **NEW**: the kernel notes the loss in the entry, and sends the event again with
    ///   each later packet of the connection, until the listener has received it. A
    ///   connection without a later packet is never reported, except by its DESTROY event.
    /// - **DESTROY**: the kernel keeps the ended entry
    ///   ([`Query::dump_dying`](crate::Query::dump_dying)). It sends the event again after
    ///   a second, then about every 10 ms, until the listener has received it or has closed
    ///   its socket. An entry that is kept counts against `nf_conntrack_max`: if a listener
    ///   does not read for long, the table becomes full and the kernel drops the packets of
    ///   new connections. A new connection can have the tuples of one that is kept. Its NEW
    ///   event then precedes the DESTROY event of the old one.
    /// - Each repetition goes to all listeners of the group. Those that have received the
    ///   event before receive it again.
    ///
    /// So events can be missing after an overrun with this setting too: read the table
    /// again ([`resync`](Self::resync)). `lost` counts failed attempts, also of events that
    /// were delivered later. Seen on Linux 6.18; see `net/netfilter/nf_conntrack_ecache.c`.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// events.set_reliable(true)?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn set_reliable(&self, reliable: bool) -> Result<(), Error> {
        socket::set_option(
            self.handle.as_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_BROADCAST_ERROR,
            i32::from(reliable),
        )
        .map_err(|source| Error::from_io("setting reliable delivery of events", source))
    }

    /// Makes the kernel deliver only the events that pass `filter`, from now on.
    ///
    /// ```no_run
    /// use nfct::{Events, Groups, KernelFilter, Logic, Protocol};
    /// let events = Events::subscribe(Groups::ALL)?;
    /// events.set_filter(&KernelFilter::new().protocols(Logic::Only, [Protocol::Tcp]))?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`KernelFilter::attach`].
    pub fn set_filter(&self, filter: &KernelFilter) -> Result<(), Error> {
        filter.attach(self)
    }

    /// Passes waiting events to `on`, up to a fixed number, without waiting.
    ///
    /// ```no_run
    /// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// events.wait(None)?;
    /// events.receive(|event| println!("{event:?}"))?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error. A full receive buffer is not an error but [`Received::Overrun`].
    pub fn receive(&mut self, mut on: impl FnMut(Event)) -> Result<Received, Error> {
        // The rest of a batch that `try_next` has begun comes first.
        if self.batch.datagram(self.at).is_none() {
            match self.refill()? {
                Received::Some { .. } => {}
                other => return Ok(other),
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

    /// Waits until a notification can be received, or for at most `timeout`.
    /// Returns whether one can be received. A timeout of 0 only checks, at the lowest
    /// cost.
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
    /// The system's error. A signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        // A recovery is reported without anything in the socket.
        if self.recovery != Recovery::Done {
            return Ok(true);
        }
        waiter::wait(self.handle.as_fd(), timeout)
    }

    /// A [`Waiter`], which waits for events while another thread receives them.
    ///
    /// ```no_run
    /// let mut events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// let waiter = events.waiter()?;
    /// std::thread::spawn(move || waiter.wait(None));
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the process has reached its limit of open files.
    pub fn waiter(&self) -> Result<Waiter, Error> {
        Waiter::new(self.handle.as_fd())
    }
}

/// Waits for the next notification.
impl Iterator for Events {
    type Item = Result<Notification, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        next(self)
    }
}

/// An iterator that waits for notifications with every attribute; returned by [`Events::full`].
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
    type Item = Result<Notification<FullEvent>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        next(self.events)
    }
}

/// Waits for the next notification in any form of event.
pub(crate) fn next<E: EventRecord>(events: &mut Events) -> Option<Result<Notification<E>, Error>> {
    loop {
        match events.try_take().transpose() {
            Some(notification) => return Some(notification),
            None => {
                if let Err(error) = events.wait(None) {
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The socket, to watch it together with others.
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl fmt::Debug for FullEvents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FullEvents").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::wire::write_event;
    use crate::{EventKind, Flow, Tuple};

    /// A subscription that receives what the other end of a pair of sockets sends.
    fn over_pair() -> (Events, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (handle, batch) = (Handle::open(Groups::NONE).unwrap(), Batch::new());
        // SAFETY: both descriptors are open, and the second one stays owned by the handle.
        let fd = unsafe { libc::dup2(ours.as_raw_fd(), handle.as_fd().as_raw_fd()) };
        assert!(fd >= 0);
        (Events { handle, batch, at: 0, offset: 0, recovery: Recovery::Done, drops: 0, truncated: 0 }, theirs)
    }

    /// A NEW event of this public port, with an attribute of so many bytes.
    fn event(port: u16, more: u16) -> Vec<u8> {
        let original = Tuple::udp(([192, 168, 7, 2], port), ([198, 51, 100, 1], 443));
        let reply = Tuple::udp(([198, 51, 100, 1], 443), ([100, 64, 2, 1], port));
        let mut bytes = write_event(&Event::new(EventKind::New, Flow::new(original, reply)));
        // No attribute has this number; the parsers skip it.
        bytes.extend([(more + 4).to_ne_bytes(), 1000_u16.to_ne_bytes()].concat());
        bytes.resize(bytes.len() + usize::from(more), 0);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_first_event_that_is_larger_than_the_buffers_is_lost() {
        let (mut events, kernel) = over_pair();
        let send = |port, more| assert!(kernel.send(&event(port, more)).is_ok());
        let receive = |events: &mut Events| {
            let (mut ports, mut reports) = (Vec::new(), Vec::new());
            loop {
                let on = |event: Event| ports.extend(event.flow.reply.dst_port());
                match events.receive(on).unwrap() {
                    Received::Nothing => return (ports, reports),
                    Received::Some { malformed, .. } => assert_eq!(malformed, 0),
                    other => reports.push(other),
                }
            }
        };
        [(1, 0), (2, 3000), (3, 9000), (4, 0)].into_iter().for_each(|(port, more)| send(port, more));
        let lost = [Received::Overrun, Received::Recovered { lost: 1 }].to_vec();
        assert_eq!(receive(&mut events), (vec![1, 2, 4], lost));
        [(5, 9000), (6, 0), (7, 12_000)].into_iter().for_each(|(port, more)| send(port, more));
        assert_eq!(receive(&mut events), (vec![5, 6, 7], Vec::new()));
    }
}
