//! A socket for requests, with the buffer for answers and the sequence numbers
//! that assign each answer to its request.

use std::io;
use std::os::fd::AsFd;

use crate::error::Error;
use crate::event::Groups;
use crate::handle::Handle;
use crate::namespace::Namespace;
use crate::socket::{self, Batch};
use crate::wire::{Malformed, Message, Messages};

/// The kernel sends at most 32 KiB of a dump at once, and at most as much as the
/// largest buffer with which the program has read the socket.
const BUFFER: usize = 64 * 1024;

/// What [`Query`](crate::Query) and [`Dump`](crate::Dump) share.
pub(crate) struct Channel {
    handle: Handle,
    pub(crate) buffer: Box<[u8]>,
    /// The buffers for the answers to many requests; allocated for the first ones.
    batch: Option<Batch>,
    sequence: u32,
}

impl Channel {
    pub(crate) fn open() -> Result<Self, Error> {
        let handle = Handle::open(Groups::NONE)?;
        Ok(Self { handle, buffer: vec![0; BUFFER].into_boxed_slice(), batch: None, sequence: 0 })
    }

    /// The number of the next request.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// The number of the first of `count` requests that are numbered in a row.
    pub(crate) fn next_sequences(&mut self, count: u32) -> u32 {
        let first = self.next_sequence();
        self.sequence = self.sequence.wrapping_add(count.saturating_sub(1));
        first
    }

    pub(crate) fn send(&self, request: &[u8]) -> io::Result<()> {
        socket::send(self.handle.as_fd(), request)
    }

    /// Waits for a datagram and returns its length in the buffer.
    pub(crate) fn receive(&mut self) -> io::Result<usize> {
        socket::receive(self.handle.as_fd(), &mut self.buffer)
    }

    /// Passes each message that is waiting in the socket to `read`, until `read` returns
    /// true or nothing is waiting. The kernel handles requests within the system call
    /// that sends them: all answers are waiting when it returns, or are lost.
    ///
    /// Answers are lost if the receive buffer is full, and if one is larger than the buffers
    /// of the [`Batch`], which then become larger. The rest is read nevertheless.
    ///
    /// # Errors
    /// Any other error of the socket.
    pub(crate) fn receive_waiting(
        &mut self,
        mut read: impl FnMut(Result<Message<'_>, Malformed>) -> bool,
    ) -> io::Result<()> {
        let batch = self.batch.get_or_insert_with(Batch::new);
        loop {
            match batch.receive(self.handle.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                received => received?,
            }
            let datagrams = (0..).map_while(|at| batch.datagram(at));
            if datagrams.flat_map(Messages::new).any(&mut read) {
                return Ok(());
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Replaces the socket with a new one in the same network namespace. Returns
    /// false, and changes nothing, if none can be opened.
    pub(crate) fn reopen(&mut self) -> bool {
        let open = || Handle::open(Groups::NONE);
        let handle = match Namespace::of_foreign_socket(self.handle.as_fd()) {
            Ok(None) => open(),
            Ok(Some(namespace)) => namespace.enter(open),
            Err(_) => return false,
        };
        match handle {
            Ok(handle) => self.handle = handle,
            Err(_) => return false,
        }
        true
    }

    /// Sends a request and reads its acknowledgement.
    pub(crate) fn acknowledged(
        &mut self,
        request: &[u8],
        sequence: u32,
        doing: &'static str,
    ) -> Result<(), Refused> {
        match self.transact(request, sequence, doing, |_| Ok(())) {
            Err(Refused::Kernel(0)) => Ok(()),
            answer => answer,
        }
    }

    /// Sends a request and reads the one message that answers it.
    pub(crate) fn transact<T>(
        &mut self,
        request: &[u8],
        sequence: u32,
        doing: &'static str,
        read: impl Fn(&Message<'_>) -> Result<T, Error>,
    ) -> Result<T, Refused> {
        let system = |source| Refused::Local(Error::from_io(doing, source));
        self.send(request).map_err(system)?;
        loop {
            let length = self.receive().map_err(system)?;
            for message in Messages::new(&self.buffer[..length]) {
                let message = message.map_err(|source| Refused::Local(Error::Malformed { doing, source }))?;
                if message.sequence != sequence {
                    continue;
                }
                return match message.errno() {
                    None => read(&message).map_err(Refused::Local),
                    Some(errno) => Err(Refused::Kernel(errno)),
                };
            }
        }
    }
}

/// Why a request failed.
pub(crate) enum Refused {
    /// The kernel's error number. 0 is an acknowledgement where an answer is expected.
    Kernel(i32),
    /// An error of this program: sending, receiving or parsing.
    Local(Error),
}

impl Refused {
    /// The error for the user. `refused` turns the kernel's error number into one.
    pub(crate) fn into_error(self, refused: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Refused::Kernel(errno) => refused(io::Error::from_raw_os_error(errno)),
            Refused::Local(error) => error,
        }
    }
}
