//! Events for asynchronous programs on tokio (feature `tokio`).

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::events::{Event, Events, FullEvent, Happening, News};
use crate::expect::{ExpectEvent, ExpectEvents};

/// A subscription as a stream; it never ends by itself. Dropping it, or its
/// future, loses nothing that another one would have got.
///
/// ```no_run
/// # async fn example() -> Result<(), nfct::Error> {
/// use nfct::{Events, EventStream, Groups, News};
///
/// let mut stream = EventStream::new(Events::subscribe(Groups::NEW)?)?;
/// while let Some(news) = stream.next().await {
///     if let News::Event(event) = news? {
///         println!("{}", event.flow.original);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct EventStream<E: Happening = Event> {
    events: AsyncFd<Socket>,
    happenings: PhantomData<fn() -> E>,
}

struct Socket(Events);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl EventStream<Event> {
    /// Makes a stream of a subscription, in the runtime that this is called in.
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
    /// Where the runtime can't watch the socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled, as all of tokio's sockets do.
    pub fn new(events: Events) -> Result<Self, Error> {
        Self::watch(events)
    }

    /// The same stream with every attribute that the kernel sends.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// # use nfct::{Events, EventStream, Groups, News};
    /// let mut stream = EventStream::new(Events::subscribe(Groups::ALL)?)?.full();
    /// if let Some(Ok(News::Event(event))) = stream.next().await {
    ///     println!("{:?} {:?}", event.kind, event.entry.timeout());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn full(self) -> EventStream<FullEvent> {
        EventStream { events: self.events, happenings: PhantomData }
    }
}

impl EventStream<ExpectEvent> {
    /// Makes a stream of a subscription to expectations, as [`new`](EventStream::new).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// use nfct::{EventStream, ExpectEvents, ExpectGroups, News};
    ///
    /// let mut stream = EventStream::expectations(ExpectEvents::subscribe(ExpectGroups::ALL)?)?;
    /// while let Some(news) = stream.next().await {
    ///     if let News::Event(event) = news? {
    ///         println!("{:?} {}", event.kind, event.expectation);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the runtime can't watch the socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled, as all of tokio's sockets do.
    pub fn expectations(events: ExpectEvents) -> Result<Self, Error> {
        Self::watch(events.events)
    }
}

impl<E: Happening> EventStream<E> {
    fn watch(events: Events) -> Result<Self, Error> {
        // tokio 1.54 deprecates it for descriptors that may be closed while it watches them. This one stays open:
        // the AsyncFd owns the handle inside of `events`. What replaces it does not exist before 1.54.
        #[allow(deprecated)]
        let watched = AsyncFd::with_interest(Socket(events), Interest::READABLE);
        let events = watched.map_err(|error| Error::from_system("watching the conntrack socket", error))?;
        Ok(Self { events, happenings: PhantomData })
    }

    /// The subscription, to set its buffer or filter.
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

    /// The subscription back, with what it has received and not handed out.
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

    /// What comes next; the same as `StreamExt::next`, without that crate.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), nfct::Error> {
    /// # use nfct::{Events, EventStream, Groups};
    /// let mut stream = EventStream::new(Events::subscribe(Groups::ALL)?)?;
    /// println!("{:?}", stream.next().await);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<News<E>, Error>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<E: Happening> Stream for EventStream<E> {
    type Item = Result<News<E>, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let events = &mut self.get_mut().events;
        if let Some(news) = events.get_mut().0.take_received() {
            return Poll::Ready(Some(Ok(news)));
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
            match guard.get_inner_mut().0.take_news().transpose() {
                Some(news) => return Poll::Ready(Some(news)),
                None => guard.clear_ready(),
            }
        }
    }
}
