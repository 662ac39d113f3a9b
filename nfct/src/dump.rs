//! Dumps: an answer of many messages, read as it arrives.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;

use nfct_sys as sys;

use crate::channel::Channel;
use crate::conntrack::Conntrack;
use crate::error::Error;
use crate::event_mask::{RULE, RuleMasks};
use crate::flow::Flow;
use crate::selection::Selection;
use crate::statistics::{CpuStatistics, ExpectCpuStatistics};
use crate::wire::{Malformed, Message, Messages, expectation_kind, message_kind};

pub(crate) const DOING: &str = "reading all conntrack entries";

/// An item of a dump: [`Flow`], [`Conntrack`], [`CpuStatistics`],
/// [`Expectation`](crate::Expectation) or [`ExpectCpuStatistics`].
///
/// ```
/// use nfct::{Dump, Entry, Error};
///
/// fn count<T: Entry>(dump: Dump<'_, T>) -> Result<usize, Error> {
///     dump.map(|entry| entry.map(|_| 1)).sum()
/// }
/// ```
pub trait Entry: sealed::Sealed + Sized {
    /// Whether a message of this kind contains an item.
    #[doc(hidden)]
    fn is_in(kind: u16) -> bool;

    /// Reads an item. Returns `None` if it is not selected.
    #[doc(hidden)]
    fn read(message: &Message<'_>, selection: Option<&Selection>) -> Result<Option<Self>, Error>;

    /// The error for the kernel's error number.
    #[doc(hidden)]
    fn refused(error: io::Error) -> Error {
        Error::from_plain_request(DOING, error)
    }
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for Flow {}
impl sealed::Sealed for Conntrack {}
impl sealed::Sealed for CpuStatistics {}
impl sealed::Sealed for ExpectCpuStatistics {}
impl sealed::Sealed for RuleMasks {}

fn malformed(source: Malformed) -> Error {
    Error::Malformed { doing: DOING, source }
}

impl Entry for Flow {
    #[inline]
    fn is_in(kind: u16) -> bool {
        kind == message_kind(sys::IPCTNL_MSG_CT_NEW)
    }

    #[inline]
    fn read(message: &Message<'_>, selection: Option<&Selection>) -> Result<Option<Self>, Error> {
        let flow = message.flow().map_err(malformed)?;
        Ok(Some(flow).filter(|flow| selection.is_none_or(|selection| selection.matches(flow))))
    }
}

impl Entry for Conntrack {
    #[inline]
    fn is_in(kind: u16) -> bool {
        kind == message_kind(sys::IPCTNL_MSG_CT_NEW)
    }

    fn read(message: &Message<'_>, selection: Option<&Selection>) -> Result<Option<Self>, Error> {
        match selection {
            Some(_) if Flow::read(message, selection)?.is_none() => Ok(None),
            _ => Conntrack::parse(message.as_bytes()).map(Some),
        }
    }
}

impl Entry for CpuStatistics {
    fn is_in(kind: u16) -> bool {
        kind == message_kind(sys::IPCTNL_MSG_CT_GET_STATS_CPU)
    }

    fn read(message: &Message<'_>, _: Option<&Selection>) -> Result<Option<Self>, Error> {
        CpuStatistics::read(message).map(Some).map_err(malformed)
    }
}

impl Entry for ExpectCpuStatistics {
    fn is_in(kind: u16) -> bool {
        // The kernel answers with the number of the conntrack subsystem.
        let message = sys::IPCTNL_MSG_EXP_GET_STATS_CPU;
        kind == message_kind(message) || kind == expectation_kind(message)
    }

    fn read(message: &Message<'_>, _: Option<&Selection>) -> Result<Option<Self>, Error> {
        ExpectCpuStatistics::read(message).map(Some).map_err(malformed)
    }
}

impl Entry for RuleMasks {
    fn is_in(kind: u16) -> bool {
        kind == RULE
    }

    fn read(message: &Message<'_>, _: Option<&Selection>) -> Result<Option<Self>, Error> {
        RuleMasks::read(message).map(Some).map_err(|source| Error::Malformed { doing: Self::DOING, source })
    }

    fn refused(error: io::Error) -> Error {
        Error::from_io(Self::DOING, error)
    }
}

/// The entries of one dump, read as the kernel sends them, in constant memory.
///
/// A dump that is dropped before its end reads and discards the rest. So the next
/// request on the same [`Query`](crate::Query) gets its own answer.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// # use nfct::{Family, Protocol, Query};
/// let mut query = Query::open()?;
/// let mut dump = query.dump(Family::Any)?;
/// let mut tcp = 0;
/// for flow in &mut dump {
///     tcp += u64::from(flow?.original.protocol == Protocol::Tcp);
/// }
/// println!("{tcp} TCP connections{}", if dump.was_interrupted() { ", perhaps more" } else { "" });
/// # Ok(())
/// # }
/// ```
pub struct Dump<'a, T: Entry = Flow> {
    reader: DumpReader<'a>,
    entries: PhantomData<fn() -> T>,
}

impl<'a, T: Entry> Dump<'a, T> {
    /// Reads the answer to the request with this sequence number.
    pub(crate) fn new(channel: &'a mut Channel, sequence: u32, selection: Option<Selection>) -> Self {
        let (at, end, over, interrupted) = (0, 0, false, false);
        let reader =
            DumpReader { channel, selection, sequence, at, end, over, interrupted, refused: T::refused };
        Self { reader, entries: PhantomData }
    }

    /// Returns everything that the kernel sends, selected or not.
    #[cfg(test)]
    pub(crate) fn without_selection(&mut self) {
        self.reader.selection = None;
    }

    /// Reads messages that the test has put into the buffer.
    #[cfg(test)]
    pub(crate) fn over(channel: &'a mut Channel, sequence: u32, end: usize) -> Self {
        let mut dump = Self::new(channel, sequence, None);
        dump.reader.end = end;
        dump
    }

    /// Whether the kernel has reported so far that the table changed during the dump
    /// (`NLM_F_DUMP_INTR`). The dump may then be incomplete, or list an entry twice.
    ///
    /// ```no_run
    /// # use nfct::{Family, Query};
    /// let mut query = Query::open()?;
    /// let mut dump = query.dump(Family::Any)?;
    /// let flows: Vec<_> = dump.by_ref().collect::<Result<_, _>>()?;
    /// if dump.was_interrupted() {
    ///     println!("perhaps more than {}", flows.len());
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    pub fn was_interrupted(&self) -> bool {
        self.reader.interrupted
    }

    /// Ends the dump without reading the rest: the [`Query`](crate::Query) continues
    /// with a new socket in the same network namespace. If no socket can be opened,
    /// the rest is read and discarded, which can take long.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Query};
    /// let mut query = Query::open()?;
    /// let mut dump = query.dump(Family::Any)?;
    /// let any = dump.next().transpose()?;
    /// dump.abandon();
    /// # let _ = any;
    /// # Ok(())
    /// # }
    /// ```
    pub fn abandon(mut self) {
        self.reader.over |= self.reader.channel.reopen();
    }
}

impl<'a> Dump<'a, Flow> {
    /// Receives the next part of the dump, some hundred entries, without reading
    /// it. Another thread can read it while this one receives the next part: the
    /// kernel produces a part within the system call. Returns false at the end of
    /// the dump.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Piece, Query};
    /// use std::sync::mpsc::sync_channel;
    ///
    /// let mut query = Query::open()?;
    /// let mut dump = query.dump(Family::Any)?;
    /// let (sender, pieces) = sync_channel::<Piece>(64);
    /// let counting = std::thread::spawn(move || pieces.iter().map(|piece| piece.flows().count()).sum::<usize>());
    /// let mut piece = Piece::default();
    /// while dump.read_piece(&mut piece)? {
    ///     let _ = sender.send(std::mem::take(&mut piece));
    /// }
    /// drop(sender);
    /// println!("{:?} connections", counting.join());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As the iterator, except for malformed messages: [`Piece::flows`] reports those.
    pub fn read_piece(&mut self, piece: &mut Piece) -> Result<bool, Error> {
        self.reader.read_piece(piece)
    }

    /// The rest of the dump as the C library's objects, which have every attribute
    /// that the kernel sends.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Query};
    /// for entry in Query::open()?.dump(Family::Any)?.full() {
    ///     let entry = entry?;
    ///     println!("{:?} {:?}", entry.id(), entry.timeout());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn full(self) -> Dump<'a, Conntrack> {
        Dump { reader: self.reader, entries: PhantomData }
    }
}

impl<T: Entry> Iterator for Dump<'_, T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.next(|message, selection| match T::is_in(message.kind) {
            true => T::read(message, selection),
            false => Ok(None),
        })
    }
}

impl<T: Entry> fmt::Debug for Dump<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump").finish_non_exhaustive()
    }
}

/// A part of a dump, filled by [`Dump::read_piece`]. Filling it again reuses its
/// memory.
///
/// ```no_run
/// use nfct::{Family, Piece, Query};
/// let mut query = Query::open()?;
/// let mut dump = query.dump(Family::Any)?;
/// let mut piece = Piece::default();
/// while dump.read_piece(&mut piece)? {
///     println!("{} more", piece.flows().count());
/// }
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Piece {
    buffer: Box<[u8]>,
    entries: Range<usize>,
    sequence: u32,
    selection: Option<Selection>,
}

impl Piece {
    /// The entries of the piece.
    ///
    /// ```no_run
    /// use nfct::{Family, Piece, Query};
    /// let mut query = Query::open()?;
    /// let mut dump = query.dump(Family::Any)?;
    /// let mut piece = Piece::default();
    /// while dump.read_piece(&mut piece)? {
    ///     println!("{} more", piece.flows().count());
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Malformed`] for an entry. The entries after it may still be readable.
    pub fn flows(&self) -> impl Iterator<Item = Result<Flow, Error>> {
        Messages::new(&self.buffer[self.entries.clone()]).filter_map(|message| match message {
            Ok(message) if message.sequence == self.sequence && Flow::is_in(message.kind) => {
                Flow::read(&message, self.selection.as_ref()).transpose()
            }
            Ok(_) => None,
            Err(error) => Some(Err(malformed(error))),
        })
    }
}

/// Reads the messages of a dump from the socket.
struct DumpReader<'a> {
    channel: &'a mut Channel,
    selection: Option<Selection>,
    sequence: u32,
    /// The unread part of the buffer.
    at: usize,
    end: usize,
    /// The dump has ended or failed.
    over: bool,
    interrupted: bool,
    refused: fn(io::Error) -> Error,
}

impl DumpReader<'_> {
    /// The next item that `read` finds in a message, or `None` at the end of the
    /// dump. The dump continues after a malformed message.
    #[inline]
    fn next<T>(
        &mut self,
        read: impl Fn(&Message<'_>, Option<&Selection>) -> Result<Option<T>, Error>,
    ) -> Option<Result<T, Error>> {
        while !self.over {
            if self.at >= self.end {
                if let Err(error) = self.fill() {
                    return Some(Err(error));
                }
            }
            let mut messages = Messages::new(&self.channel.buffer[self.at..self.end]);
            let message = messages.next();
            self.at = self.end - messages.remaining();
            let message = match message {
                Some(Ok(message)) if message.sequence == self.sequence => message,
                Some(Err(error)) => return Some(Err(malformed(error))),
                Some(Ok(_)) | None => continue,
            };
            self.interrupted |= message.flags & sys::NLM_F_DUMP_INTR as u16 != 0;
            match message.errno() {
                None => match read(&message, self.selection.as_ref()).transpose() {
                    None => {}
                    some => return some,
                },
                Some(0) => self.over = true,
                Some(errno) => {
                    self.over = true;
                    return Some(Err((self.refused)(io::Error::from_raw_os_error(errno))));
                }
            }
        }
        None
    }

    /// Moves the unread part of the buffer into the piece. If there is none, receives the next datagram.
    fn read_piece(&mut self, piece: &mut Piece) -> Result<bool, Error> {
        if self.over {
            return Ok(false);
        }
        if self.at >= self.end {
            self.fill()?;
        }
        let unread = self.at..self.end;
        self.at = self.end;
        // Malformed messages are left to `Piece::flows`.
        for message in Messages::new(&self.channel.buffer[unread.clone()]).flatten() {
            if message.sequence != self.sequence {
                continue;
            }
            self.interrupted |= message.flags & sys::NLM_F_DUMP_INTR as u16 != 0;
            match message.errno() {
                None => {}
                Some(0) => self.over = true,
                Some(errno) => {
                    self.over = true;
                    return Err((self.refused)(io::Error::from_raw_os_error(errno)));
                }
            }
        }
        if piece.buffer.is_empty() {
            piece.buffer = vec![0; self.channel.buffer.len()].into_boxed_slice();
        }
        std::mem::swap(&mut self.channel.buffer, &mut piece.buffer);
        piece.entries = unread;
        piece.sequence = self.sequence;
        piece.selection.clone_from(&self.selection);
        Ok(true)
    }

    fn fill(&mut self) -> Result<(), Error> {
        (self.at, self.end) = (0, 0);
        let received = self.channel.receive();
        self.end = received.map_err(|source| {
            self.over = true;
            // The kernel may still have this dump in progress, and would refuse the next one.
            self.channel.reopen();
            Error::from_io(DOING, source)
        })?;
        Ok(())
    }
}

impl Drop for DumpReader<'_> {
    fn drop(&mut self) {
        while !self.over {
            let _ = self.next(|_, _| Ok(None::<()>));
        }
    }
}
