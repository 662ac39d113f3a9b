//! Waiting for the events of a subscription that another thread owns.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::error::Error;
use crate::socket;

/// Waits for the events of a subscription while another thread owns the [`Events`](crate::Events).
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
    pub(crate) fn new(socket: BorrowedFd<'_>) -> Result<Self, Error> {
        let socket = socket.try_clone_to_owned();
        let socket = socket.map_err(|source| Error::from_io("sharing the conntrack socket", source))?;
        Ok(Self { socket })
    }

    /// Waits until an event or the report of an overrun can be received, or for at most
    /// `timeout`. Returns whether one can be received. A timeout of 0 only checks, at
    /// the lowest cost.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// let waiter: nfct::Waiter = events.waiter()?;
    /// println!("{}", waiter.wait(Some(std::time::Duration::from_secs(1)))?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error. A signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        wait(self.socket.as_fd(), timeout)
    }

    /// The number of events that the kernel has dropped since the subscription
    /// because the receive buffer was full. It wraps around after 4,294,967,295.
    ///
    /// ```no_run
    /// let events = nfct::Events::subscribe(nfct::Groups::ALL)?;
    /// println!("{} dropped", events.waiter()?.drops()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn drops(&self) -> Result<u32, Error> {
        drops(self.socket.as_fd())
    }
}

/// The socket of the subscription.
impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(crate) fn wait(socket: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool, Error> {
    socket::wait(socket, timeout).map_err(|source| Error::from_io("waiting for conntrack events", source))
}

pub(crate) fn drops(socket: BorrowedFd<'_>) -> Result<u32, Error> {
    socket::drops(socket).map_err(|source| Error::from_io("reading the number of dropped events", source))
}
