//! Following what the kernel says as connections come and go.

use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nfct_sys as sys;

use crate::error::Error;
use crate::flow::Flow;
use crate::handle::Handle;
use crate::kernel_filter::KernelFilter;
use crate::socket::{self, Batch};
use crate::wire::{Message, Messages, message_kind};

/// What the kernel counts at least for an event that waits: its `struct sk_buff`
/// and `struct skb_shared_info`, before any data.
const SMALLEST_EVENT: usize = 512;

/// What happened to a connection.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The entry it happened to.
    pub flow: Flow,
}

/// What one [`Events::receive`] found.
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

/// A subscription to conntrack events of one network namespace.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Events, Groups, Received};
///
/// let mut events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
/// loop {
///     events.wait(None)?;
///     match events.receive(|event| println!("{:?} {}", event.kind, event.flow.original))? {
///         Received::Overrun => eprintln!("events were lost"),
///         Received::Some { .. } | Received::Nothing => {}
///     }
/// }
/// # }
/// ```
pub struct Events {
    handle: Handle,
    batch: Batch,
}

impl Events {
    /// Listens to `groups` in the network namespace of this thread.
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN, [`Error::Unsupported`]
    /// without netlink's netfilter protocol.
    pub fn subscribe(groups: Groups) -> Result<Self, Error> {
        Ok(Self { handle: Handle::open(groups)?, batch: Batch::new() })
    }

    /// Sets the receive buffer, past `net.core.rmem_max` with CAP_NET_ADMIN,
    /// and returns the bytes in force: the kernel doubles what it is given and
    /// counts its own bookkeeping, more than a kilobyte an event.
    ///
    /// # Errors
    /// As the system says.
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<usize, Error> {
        socket::set_receive_buffer(self.handle.as_fd(), bytes)
            .map_err(|source| Error::from_io("setting the receive buffer", source))
    }

    /// The receive buffer in force, in bytes as the kernel counts them.
    ///
    /// # Errors
    /// As the system says.
    pub fn receive_buffer(&self) -> Result<usize, Error> {
        socket::receive_buffer(self.handle.as_fd())
            .map_err(|source| Error::from_io("reading the receive buffer's size", source))
    }

    /// The most events that can be waiting now.
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
    /// # Errors
    /// As the system says.
    pub fn set_filter(&self, filter: &KernelFilter) -> Result<(), Error> {
        filter.attach(self)
    }

    /// Takes what waits, up to a fixed number of events, without blocking, and
    /// hands each to `on`.
    ///
    /// # Errors
    /// As the system says; a full buffer is [`Received::Overrun`], no error.
    pub fn receive(&mut self, mut on: impl FnMut(Event)) -> Result<Received, Error> {
        if let Err(error) = self.batch.receive(self.handle.as_fd()) {
            return match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(Received::Nothing),
                Some(libc::ENOBUFS | libc::EMSGSIZE) => Ok(Received::Overrun),
                _ => Err(Error::from_io("receiving conntrack events", error)),
            };
        }
        let (mut messages, mut malformed) = (0, 0);
        for datagram in self.batch.datagrams() {
            for message in Messages::new(datagram) {
                messages += 1;
                let event = message.and_then(|message| {
                    let Some(kind) = EventKind::of(&message) else { return Ok(None) };
                    message.flow().map(|flow| Some(Event { kind, flow }))
                });
                match event {
                    Ok(Some(event)) => on(event),
                    Ok(None) => {}
                    Err(_) => malformed += 1,
                }
            }
        }
        Ok(Received::Some { messages, malformed })
    }

    /// Waits until an event, or the word that some were lost, can be received,
    /// or for at most `timeout`; returns whether one can. With no time to wait
    /// it is the cheapest way to ask.
    ///
    /// # Errors
    /// As the system says; a signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        wait(self.handle.as_fd(), timeout)
    }

    /// Something to wait with while another thread receives.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn waiter(&self) -> Result<Waiter, Error> {
        let socket = self.handle.as_fd().try_clone_to_owned();
        let socket = socket.map_err(|source| Error::from_io("sharing the conntrack socket", source))?;
        Ok(Waiter { socket })
    }
}

/// Waits for events without a hold on their [`Events`].
#[derive(Debug)]
pub struct Waiter {
    socket: OwnedFd,
}

impl Waiter {
    /// Waits until an event, or the word that some were lost, can be received,
    /// or for at most `timeout`; returns whether one can. With no time to wait
    /// it is the cheapest way to ask.
    ///
    /// # Errors
    /// As the system says; a signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        wait(self.socket.as_fd(), timeout)
    }

    /// How many events the kernel dropped since the subscription because the
    /// receive buffer was full. Wraps around after 4,294,967,295.
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
