//! Events for asynchronous programs on tokio (feature `tokio`).

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::event::Event;
use crate::events::Events;
use crate::expect::{ExpectEvent, ExpectEvents};
use crate::notification::{EventRecord, FullEvent, Notification};

/// A subscription as a stream. It never ends by itself. No event is lost if the
/// future of [`next`](Self::next) is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), nfct::Error> {
/// use nfct::{Events, EventStream, Groups, Notification};
///
/// let mut stream = EventStream::new(Events::subscribe(Groups::NEW)?)?;
/// while let Some(notification) = stream.next().await {
///     if let Notification::Event(event) = notification? {
///         println!("{}", event.flow.original);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct EventStream<E: EventRecord = Event> {
    events: AsyncFd<Socket>,
    records: PhantomData<fn() -> E>,
}

struct Socket(Events);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl EventStream<Event> {
    /// Turns a subscription into a stream, in the current runtime.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// # use nfct::{Events, EventStream, Groups};
    /// let stream = EventStream::new(Events::subscribe(Groups::ALL)?)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled, as with all sockets of tokio.
    pub fn new(events: Events) -> Result<Self, Error> {
        Self::watch(events)
    }

    /// Changes the stream to events with every attribute that the kernel sends.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// # use nfct::{Events, EventStream, Groups, Notification};
    /// let mut stream = EventStream::new(Events::subscribe(Groups::ALL)?)?.full();
    /// if let Some(Ok(Notification::Event(event))) = stream.next().await {
    ///     println!("{:?} {:?}", event.kind, event.entry.timeout());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn full(self) -> EventStream<FullEvent> {
        EventStream { events: self.events, records: PhantomData }
    }
}

impl EventStream<ExpectEvent> {
    /// Turns a subscription to expectations into a stream, as [`new`](EventStream::new).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// use nfct::{EventStream, ExpectEvents, ExpectGroups, Notification};
    ///
    /// let mut stream = EventStream::expectations(ExpectEvents::subscribe(ExpectGroups::ALL)?)?;
    /// while let Some(notification) = stream.next().await {
    ///     if let Notification::Event(event) = notification? {
    ///         println!("{:?} {}", event.kind, event.expectation);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled, as with all sockets of tokio.
    pub fn expectations(events: ExpectEvents) -> Result<Self, Error> {
        Self::watch(events.events)
    }
}

impl<E: EventRecord> EventStream<E> {
    fn watch(events: Events) -> Result<Self, Error> {
        // tokio 1.54 deprecates this function for descriptors that may be closed while tokio watches them. This
        // one stays open: the AsyncFd owns the handle inside `events`. Earlier releases have no replacement.
        #[allow(deprecated)]
        let watched = AsyncFd::with_interest(Socket(events), Interest::READABLE);
        let events = watched.map_err(|error| Error::from_system("watching the conntrack socket", error))?;
        Ok(Self { events, records: PhantomData })
    }

    /// The subscription, to set its receive buffer or filter.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// # use nfct::{Events, EventStream, Groups};
    /// let stream = EventStream::new(Events::subscribe(Groups::ALL)?)?;
    /// stream.events().set_receive_buffer(8 << 20)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> &Events {
        &self.events.get_ref().0
    }

    /// Returns the subscription, including events that it has received and not passed on.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// # use nfct::{Events, EventStream, Groups};
    /// let stream = EventStream::new(Events::subscribe(Groups::ALL)?)?;
    /// let events: Events = stream.into_inner();
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_inner(self) -> Events {
        self.events.into_inner().0
    }

    /// The next notification; the same as `StreamExt::next`, without that crate.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// # use nfct::{Events, EventStream, Groups};
    /// let mut stream = EventStream::new(Events::subscribe(Groups::ALL)?)?;
    /// println!("{:?}", stream.next().await);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<Notification<E>, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<E: EventRecord> Stream for EventStream<E> {
    type Item = Result<Notification<E>, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let events = &mut self.get_mut().events;
        // What is pending does not make the socket readable.
        if events.get_ref().0.has_pending() {
            if let Some(notification) = events.get_mut().0.try_take().transpose() {
                return Poll::Ready(Some(notification));
            }
        }
        loop {
            let mut guard = match ready!(events.poll_read_ready_mut(context)) {
                Ok(guard) => guard,
                Err(source) => {
                    return Poll::Ready(Some(Err(Error::from_system(
                        "waiting for conntrack events",
                        source,
                    ))));
                }
            };
            match guard.get_inner_mut().0.try_take().transpose() {
                Some(notification) => return Poll::Ready(Some(notification)),
                None => guard.clear_ready(),
            }
        }
    }
}

impl<E: EventRecord> fmt::Debug for EventStream<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}
