//! Notices changes of the rules of nftables.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::error::Error;
use crate::event::Groups;
use crate::handle::Handle;
use crate::socket;

const SUBSCRIBING: &str = "following the rules of nftables";

/// Notices when the rules of nftables change in the network namespace of the thread that
/// subscribed, so that [`Query::event_masks`](crate::Query::event_masks) must be read
/// again. The kernel notifies after a change is in force.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Query, RuleChanges};
///
/// // First the subscription, then the rules: no change is missed.
/// let changes = RuleChanges::subscribe()?;
/// let mut query = Query::open()?;
/// let mut masks = query.event_masks()?;
/// if changes.has_changed()? {
///     masks = query.event_masks()?;
/// }
/// # let _ = masks;
/// # Ok(())
/// # }
/// ```
pub struct RuleChanges {
    handle: Handle,
}

impl RuleChanges {
    /// Opens a socket and joins the group of nf_tables (`NFNLGRP_NFTABLES`). A kernel
    /// without nf_tables accepts this, and never notifies.
    ///
    /// ```no_run
    /// let changes = nfct::RuleChanges::subscribe()?;
    /// # let _ = changes;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN.
    pub fn subscribe() -> Result<Self, Error> {
        let handle = Handle::open(Groups::NONE)?;
        let joined = socket::set_option(
            handle.as_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_ADD_MEMBERSHIP,
            libc::NFNLGRP_NFTABLES,
        );
        joined.map_err(|source| Error::from_io(SUBSCRIBING, source))?;
        Ok(Self { handle })
    }

    /// Whether the rules have changed since the previous call, or since the subscription.
    /// Does not wait. One system call if nothing has changed.
    ///
    /// ```no_run
    /// let changes = nfct::RuleChanges::subscribe()?;
    /// println!("{}", changes.has_changed()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn has_changed(&self) -> Result<bool, Error> {
        let mut changed = false;
        loop {
            match socket::discard(self.handle.as_fd()) {
                Ok(()) => changed = true,
                // Notifications were lost: something has changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(source) => {
                    return Err(Error::from_io("noticing changes of the rules of nftables", source));
                }
            }
        }
    }
}

impl RuleChanges {
    /// Waits until the rules may have changed.
    ///
    /// ```no_run
    /// let changes = nfct::RuleChanges::subscribe()?;
    /// changes.wait()?;
    /// assert!(changes.has_changed()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error. A signal ends the wait without an error.
    pub fn wait(&self) -> Result<(), Error> {
        crate::waiter::wait(self.handle.as_fd(), None).map(drop)
    }
}

/// Readable when the rules have changed.
impl AsFd for RuleChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl std::fmt::Debug for RuleChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleChanges").finish_non_exhaustive()
    }
}
