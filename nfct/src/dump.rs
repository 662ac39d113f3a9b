//! Dumps: the kernel's answer of many messages, read as it comes.

use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsFd;

use nfct_sys as sys;

use crate::conntrack::Conntrack;
use crate::error::Error;
use crate::events::Groups;
use crate::flow::Flow;
use crate::handle::Handle;
use crate::namespace::Namespace;
use crate::query::Query;
use crate::selection::Selection;
use crate::socket;
use crate::statistics::{CpuStatistics, ExpectCpuStatistics};
use crate::wire::{Malformed, Message, Messages, expectation_kind, message_kind};

pub(crate) const DOING: &str = "reading all conntrack entries";

/// What a dump hands out: [`Flow`], [`Conntrack`], [`CpuStatistics`],
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
    /// Whether a message of this kind holds one.
    #[doc(hidden)]
    fn is_in(kind: u16) -> bool;

    /// Reads one, or none where it is not among those selected.
    #[doc(hidden)]
    fn read(message: &Message<'_>, selection: Option<&Selection>) -> Result<Option<Self>, Error>;

    /// What the kernel means by an error.
    #[doc(hidden)]
    fn refused(error: io::Error) -> Error {
        Error::from_plain_request(DOING, error)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Flow {}
    impl Sealed for crate::Conntrack {}
    impl Sealed for crate::CpuStatistics {}
    impl Sealed for crate::Expectation {}
    impl Sealed for crate::ExpectCpuStatistics {}
}

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
        // The kernel answers in the name of the conntrack subsystem.
        let message = sys::IPCTNL_MSG_EXP_GET_STATS_CPU;
        kind == message_kind(message) || kind == expectation_kind(message)
    }

    fn read(message: &Message<'_>, _: Option<&Selection>) -> Result<Option<Self>, Error> {
        ExpectCpuStatistics::read(message).map(Some).map_err(malformed)
    }
}

/// The entries of one dump, as they come from the kernel, in constant memory.
///
/// Dropped before its end, it reads the rest away, so that the next question on
/// the same [`Query`] gets its own answer.
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
    reader: Reader<'a>,
    entries: PhantomData<fn() -> T>,
}

impl<'a, T: Entry> Dump<'a, T> {
    /// Reads the answer to the question of this number.
    pub(crate) fn new(query: &'a mut Query, sequence: u32, selection: Option<Selection>) -> Self {
        let (at, end, over, interrupted) = (0, 0, false, false);
        let reader = Reader { query, selection, sequence, at, end, over, interrupted, refused: T::refused };
        Self { reader, entries: PhantomData }
    }

    /// Hands out whatever the kernel sends.
    #[cfg(test)]
    pub(crate) fn check_nothing(&mut self) {
        self.reader.selection = None;
    }

    /// Reads what is in the query's buffer already.
    #[cfg(test)]
    pub(crate) fn over(query: &'a mut Query, sequence: u32, end: usize) -> Self {
        let mut dump = Self::new(query, sequence, None);
        dump.reader.end = end;
        dump
    }

    /// Whether the kernel said, of what was read so far, that the table changed
    /// in a way that may have made the dump incomplete or told of an entry
    /// twice (`NLM_F_DUMP_INTR`).
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

    /// Ends the dump without reading the rest of it away, which takes as long
    /// as reading it: the [`Query`] goes on with a new socket in the same
    /// network namespace. Where none can be had the rest is read away.
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
        let open = || Handle::open(Groups::NONE);
        let handle = match Namespace::of_foreign_socket(self.reader.query.handle.as_fd()) {
            Ok(None) => open(),
            Ok(Some(namespace)) => namespace.enter(open),
            Err(_) => return,
        };
        if let Ok(handle) = handle {
            self.reader.query.handle = handle;
            self.reader.over = true;
        }
    }
}

impl<'a> Dump<'a, Flow> {
    /// Takes what the kernel has ready, some hundred entries, to be read by
    /// another thread while this one has the kernel make more: it does so
    /// within the system call. Returns false at the dump's end.
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
    /// As the iterator, but for what can't be read: that shows in
    /// [`Piece::flows`].
    pub fn read_piece(&mut self, piece: &mut Piece) -> Result<bool, Error> {
        self.reader.read_piece(piece)
    }

    /// What is not read yet as the C library's objects, which hold every
    /// attribute that the kernel sends.
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

/// A part of a dump, as [`Dump::read_piece`] takes it; its memory is used again
/// when it is filled again.
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
    /// The entries in it.
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
    /// [`Error::Malformed`]; what comes behind may be readable.
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

/// Takes a dump's messages off the socket.
struct Reader<'a> {
    query: &'a mut Query,
    selection: Option<Selection>,
    sequence: u32,
    /// What of the query's buffer is not read yet.
    at: usize,
    end: usize,
    /// Ended, or failed for good.
    over: bool,
    interrupted: bool,
    refused: fn(io::Error) -> Error,
}

impl Reader<'_> {
    /// What `read` makes of the next message that it makes something of, or none
    /// at the dump's end. A message that makes no sense ends nothing: the dump
    /// goes on behind it.
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
            let mut messages = Messages::new(&self.query.buffer[self.at..self.end]);
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

    /// Hands over what is not read yet of the buffer, or the next that comes.
    fn read_piece(&mut self, piece: &mut Piece) -> Result<bool, Error> {
        if self.over {
            return Ok(false);
        }
        if self.at >= self.end {
            self.fill()?;
        }
        let unread = self.at..self.end;
        self.at = self.end;
        // What can't be read shows to whoever reads the piece.
        for message in Messages::new(&self.query.buffer[unread.clone()]).flatten() {
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
            piece.buffer = vec![0; self.query.buffer.len()].into_boxed_slice();
        }
        std::mem::swap(&mut self.query.buffer, &mut piece.buffer);
        piece.entries = unread;
        piece.sequence = self.sequence;
        piece.selection.clone_from(&self.selection);
        Ok(true)
    }

    fn fill(&mut self) -> Result<(), Error> {
        (self.at, self.end) = (0, 0);
        let received = socket::receive(self.query.handle.as_fd(), &mut self.query.buffer);
        self.end = received.map_err(|source| {
            self.over = true;
            Error::from_io(DOING, source)
        })?;
        Ok(())
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        while !self.over {
            let _ = self.next(|_, _| Ok(None::<()>));
        }
    }
}
