//! Asking the kernel: all entries, one entry, or to make and remove some.

use std::io;
use std::os::fd::AsFd;

use nfct_sys as sys;

use crate::conntrack::Conntrack;
use crate::error::Error;
use crate::events::Groups;
use crate::flow::Flow;
use crate::handle::Handle;
use crate::socket;
use crate::tuple::Tuple;
use crate::wire::{Malformed, Message, Messages, Request, message_kind};

/// The kernel fills at most 32 KiB of a dump at once, and only as much as the
/// largest buffer that it has seen on the socket.
const BUFFER: usize = 64 * 1024;

/// Which entries, by network layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        let number = match self {
            Family::Any => libc::AF_UNSPEC,
            Family::Ipv4 => libc::AF_INET,
            Family::Ipv6 => libc::AF_INET6,
        };
        number as u8
    }
}

/// A socket for questions, in the network namespace of the thread that opened it.
pub struct Query {
    handle: Handle,
    buffer: Box<[u8]>,
    sequence: u32,
}

impl Query {
    /// Opens the socket. Asking needs CAP_NET_ADMIN, opening does not.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without netlink's netfilter protocol.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            handle: Handle::open(Groups::NONE)?,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            sequence: 0,
        })
    }

    /// Reads all entries, in constant memory: the kernel is asked for more as
    /// the iterator is read. An entry that begins or ends meanwhile may or may
    /// not show; one that lives all the time does, unless the kernel's hash
    /// table is resized meanwhile (`nf_conntrack_buckets`).
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN (from here or from the
    /// iterator), [`Error::Unsupported`] without `nf_conntrack_netlink`.
    pub fn dump(&mut self, family: Family) -> Result<Dump<'_>, Error> {
        const DOING: &str = "reading all conntrack entries";
        let sequence = self.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_DUMP;
        let request = Request::new(sys::IPCTNL_MSG_CT_GET, flags, sequence, family.number()).finish();
        socket::send(self.handle.as_fd(), &request).map_err(|source| Error::from_io(DOING, source))?;
        Ok(Dump { query: self, sequence, at: 0, end: 0, state: DumpState::Reading, interrupted: false })
    }

    /// Asks for the one entry whose reply tuple is `reply`, zone included;
    /// `None` when there is none.
    ///
    /// # Errors
    /// As the system says.
    pub fn get_by_reply(&mut self, reply: &Tuple) -> Result<Option<Flow>, Error> {
        self.get(sys::CTA_TUPLE_REPLY, reply)
    }

    /// Asks for the one entry whose original tuple is `original`, zone
    /// included; `None` when there is none.
    ///
    /// # Errors
    /// As the system says.
    pub fn get_by_original(&mut self, original: &Tuple) -> Result<Option<Flow>, Error> {
        self.get(sys::CTA_TUPLE_ORIG, original)
    }

    fn get(&mut self, direction: u32, tuple: &Tuple) -> Result<Option<Flow>, Error> {
        const DOING: &str = "asking for one conntrack entry";
        let sequence = self.next_sequence();
        let family = if tuple.src.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let mut request = Request::new(sys::IPCTNL_MSG_CT_GET, sys::NLM_F_REQUEST, sequence, family.number());
        request.tuple(direction, tuple);
        socket::send(self.handle.as_fd(), &request.finish())
            .map_err(|source| Error::from_io(DOING, source))?;
        loop {
            let length = socket::receive(self.handle.as_fd(), &mut self.buffer)
                .map_err(|source| Error::from_io(DOING, source))?;
            for message in Messages::new(&self.buffer[..length]) {
                let malformed = |source| Error::Malformed { doing: DOING, source };
                let message = message.map_err(malformed)?;
                if message.sequence != sequence {
                    continue;
                }
                return match message.errno() {
                    None => message.flow().map(Some).map_err(malformed),
                    Some(libc::ENOENT) => Ok(None),
                    Some(errno) => Err(Error::from_io(DOING, io::Error::from_raw_os_error(errno))),
                };
            }
        }
    }

    /// Puts an entry into the kernel's table.
    ///
    /// # Errors
    /// `EEXIST` where there is one already, `EINVAL` where something the kernel
    /// needs is missing (both tuples, a time-out, a TCP state).
    pub fn create(&mut self, entry: &Conntrack) -> Result<(), Error> {
        self.handle.query(sys::NFCT_Q_CREATE, entry, "making a conntrack entry")
    }

    /// Removes an entry, named by its original tuple and, where set, its id.
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub fn delete(&mut self, entry: &Conntrack) -> Result<(), Error> {
        self.handle.query(sys::NFCT_Q_DESTROY, entry, "removing a conntrack entry")
    }

    /// Removes all entries of a family.
    ///
    /// # Errors
    /// As the system says.
    pub fn flush(&mut self, family: Family) -> Result<(), Error> {
        self.handle.flush(family)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DumpState {
    Reading,
    Done,
    Failed,
}

/// The entries of one dump, as they come from the kernel.
///
/// Dropped before its end, it reads the rest away, so that the next question on
/// the same [`Query`] gets its own answer.
pub struct Dump<'a> {
    query: &'a mut Query,
    sequence: u32,
    at: usize,
    end: usize,
    state: DumpState,
    interrupted: bool,
}

impl Dump<'_> {
    /// Whether the kernel said that the table changed in a way that may have
    /// made the dump incomplete.
    pub fn was_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Ends the dump without reading the rest of it away, which takes as long
    /// as reading it: the [`Query`] goes on with a new socket, in the network
    /// namespace of this thread. Where none can be had the rest is read away.
    pub fn abandon(mut self) {
        if let Ok(handle) = Handle::open(Groups::NONE) {
            self.query.handle = handle;
            self.state = DumpState::Done;
        }
    }

    fn read(&mut self) -> Result<Option<Flow>, Error> {
        const DOING: &str = "reading all conntrack entries";
        let malformed = |source| Error::Malformed { doing: DOING, source };
        loop {
            if self.at >= self.end {
                self.at = 0;
                self.end = socket::receive(self.query.handle.as_fd(), &mut self.query.buffer)
                    .map_err(|source| Error::from_io(DOING, source))?;
            }
            let (message, length) = match self.message() {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.at = self.end;
                    continue;
                }
                Err(error) => {
                    self.at = self.end;
                    return Err(malformed(error));
                }
            };
            let (kind, ours) = (message.kind, message.sequence == self.sequence);
            let interrupted = message.flags & sys::NLM_F_DUMP_INTR as u16 != 0;
            let errno = message.errno();
            let flow = (kind == message_kind(sys::IPCTNL_MSG_CT_NEW)).then(|| message.flow());
            self.at += length;
            if !ours {
                continue;
            }
            self.interrupted |= interrupted;
            match errno {
                Some(0) => {
                    self.state = DumpState::Done;
                    return Ok(None);
                }
                Some(errno) => {
                    return Err(Error::from_plain_request(DOING, io::Error::from_raw_os_error(errno)));
                }
                None => {}
            }
            if let Some(flow) = flow {
                return flow.map(Some).map_err(malformed);
            }
        }
    }

    /// The message at the reading position, and how far the next one is.
    fn message(&self) -> Result<Option<(Message<'_>, usize)>, Malformed> {
        let mut messages = Messages::new(&self.query.buffer[self.at..self.end]);
        let before = messages.remaining();
        let message = messages.next().transpose()?;
        Ok(message.map(|message| (message, before - messages.remaining())))
    }
}

impl Iterator for Dump<'_> {
    type Item = Result<Flow, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state != DumpState::Reading {
            return None;
        }
        self.read()
            .inspect_err(|error| {
                // A message that makes no sense ends nothing: the dump goes on behind it.
                if !matches!(error, Error::Malformed { .. }) {
                    self.state = DumpState::Failed;
                }
            })
            .transpose()
    }
}

impl Drop for Dump<'_> {
    fn drop(&mut self) {
        while self.state == DumpState::Reading {
            let _ = self.next();
        }
    }
}
