//! Following what the kernel expects, as it comes and goes.

use std::collections::VecDeque;
use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nfct_sys as sys;

use super::expectation::Expectation;
use super::handle::ExpectHandle;
use crate::error::Error;
use crate::events::EventKind;
use crate::socket::{self, Batch};
use crate::wire::{Malformed, Message, Messages, expectation_kind};

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
/// use nfct::{EventKind, ExpectEvent, ExpectEvents, ExpectGroups, ExpectNews};
///
/// for news in ExpectEvents::subscribe(ExpectGroups::NEW)? {
///     if let ExpectNews::Event(ExpectEvent { kind: EventKind::New, expectation }) = news? {
///         println!("{expectation}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectEvent {
    /// What happened.
    pub kind: EventKind,
    /// The expectation it happened to.
    pub expectation: Expectation,
}

/// What a listener learns.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{ExpectEvents, ExpectGroups, ExpectNews};
///
/// for news in ExpectEvents::subscribe(ExpectGroups::ALL)? {
///     match news? {
///         ExpectNews::Event(event) => println!("{:?} {}", event.kind, event.expectation),
///         ExpectNews::Overrun => println!("some were lost: read the table anew"),
///         ExpectNews::Malformed(error) => println!("one could not be read: {error}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are events")]
pub enum ExpectNews {
    /// Something happened.
    Event(ExpectEvent),
    /// The kernel dropped events because the receive buffer was full; events go
    /// on after it.
    Overrun,
    /// A message that could not be read.
    Malformed(Malformed),
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
/// use nfct::{ExpectEvents, ExpectGroups, ExpectNews};
///
/// for news in ExpectEvents::subscribe(ExpectGroups::NEW | ExpectGroups::DESTROY)? {
///     if let ExpectNews::Event(event) = news? {
///         println!("{:?} {}", event.kind, event.expectation);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct ExpectEvents {
    handle: ExpectHandle,
    batch: Batch,
    waiting: VecDeque<ExpectNews>,
}

impl ExpectEvents {
    /// Listens to `groups` in the network namespace of this thread.
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
        Ok(Self { handle: ExpectHandle::open(groups)?, batch: Batch::new(), waiting: VecDeque::new() })
    }

    /// Sets the receive buffer, past `net.core.rmem_max` with CAP_NET_ADMIN,
    /// and returns the bytes in force: the kernel doubles what it is given and
    /// counts its own bookkeeping.
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
        socket::set_receive_buffer(self.handle.as_fd(), bytes)
            .map_err(|source| Error::from_io("setting the receive buffer", source))
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
    /// As the system says; a full buffer is [`ExpectNews::Overrun`], no error.
    pub fn try_next(&mut self) -> Result<Option<ExpectNews>, Error> {
        while self.waiting.is_empty() {
            if let Err(error) = self.batch.receive(self.handle.as_fd()) {
                return match error.raw_os_error() {
                    Some(libc::EAGAIN) => Ok(None),
                    Some(libc::ENOBUFS | libc::EMSGSIZE) => Ok(Some(ExpectNews::Overrun)),
                    _ => Err(Error::from_io("receiving expectation events", error)),
                };
            }
            let messages = self.batch.datagrams().flat_map(Messages::new);
            self.waiting.extend(messages.filter_map(
                |message| match message.and_then(|message| read(&message)) {
                    Ok(event) => event.map(ExpectNews::Event),
                    Err(error) => Some(ExpectNews::Malformed(error)),
                },
            ));
        }
        Ok(self.waiting.pop_front())
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
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<ExpectNews>, Error> {
        let start = Instant::now();
        loop {
            if let Some(news) = self.try_next()? {
                return Ok(Some(news));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(Some(left))?;
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<(), Error> {
        socket::wait(self.handle.as_fd(), timeout)
            .map(drop)
            .map_err(|source| Error::from_io("waiting for expectation events", source))
    }
}

/// Waits for what comes next.
impl Iterator for ExpectEvents {
    type Item = Result<ExpectNews, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.try_next().transpose() {
                Some(news) => return Some(news),
                None => {
                    if let Err(error) = self.wait(None) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

/// The socket, to be watched together with others; [`ExpectEvents::try_next`]
/// takes what it has.
impl AsFd for ExpectEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// What a message tells, if it is an event at all.
fn read(message: &Message<'_>) -> Result<Option<ExpectEvent>, Malformed> {
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
