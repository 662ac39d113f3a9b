//! Notices changes of the rules of nftables.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::error::Error;
use crate::event::Groups;
use crate::event_mask::{self, EventMask, RuleMasks};
use crate::handle::Handle;
use crate::socket;
use crate::waiter::{self, Waiter};
use crate::wire::{Message, Messages};

const SUBSCRIBING: &str = "following the rules of nftables";
/// Larger than what the kernel puts into one datagram.
const BUFFER: usize = 64 * 1024;

/// Notices when the rules of nftables change in the network namespace of the thread that
/// subscribed. The kernel notifies after a change is in force.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Query, RuleChanges};
///
/// // First the subscription, then the rules: no change is missed.
/// let mut changes = RuleChanges::subscribe()?;
/// let mut query = Query::open()?;
/// let mut masks = query.event_masks()?;
/// let change = changes.read()?;
/// masks.extend(change.added_masks);
/// if change.lost || (change.removed && !masks.is_empty()) {
///     masks = query.event_masks()?;
/// }
/// # let _ = masks;
/// # Ok(())
/// # }
/// ```
pub struct RuleChanges {
    handle: Handle,
    buffer: Box<[u8]>,
}

/// What has changed in the rules of nftables.
///
/// ```
/// let change = nfct::RuleChange::default();
/// assert!(change.added_masks.is_empty() && !change.removed && !change.lost);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RuleChange {
    /// The masks that new rules set.
    pub added_masks: Vec<EventMask>,
    /// Rules were removed. If any set a mask,
    /// [`Query::event_masks`](crate::Query::event_masks) tells which masks are left.
    pub removed: bool,
    /// Notifications were lost: only [`Query::event_masks`](crate::Query::event_masks)
    /// tells which masks there are.
    pub lost: bool,
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
        Ok(Self { handle, buffer: vec![0; BUFFER].into_boxed_slice() })
    }

    /// What has changed since the previous call, or since the subscription. Does not wait.
    /// One system call if nothing has changed.
    ///
    /// ```no_run
    /// let change = nfct::RuleChanges::subscribe()?.read()?;
    /// for mask in change.added_masks {
    ///     println!("{mask}");
    /// }
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&mut self) -> Result<RuleChange, Error> {
        let mut change = RuleChange::default();
        while waiter::wait(self.handle.as_fd(), Some(Duration::ZERO))? {
            match socket::receive(self.handle.as_fd(), &mut self.buffer) {
                Ok(length) => Messages::new(&self.buffer[..length]).for_each(|message| match message {
                    Ok(message) => change.note(&message),
                    Err(_) => change.lost = true,
                }),
                // Notifications were lost, or one is too large.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EMSGSIZE)) => {
                    change.lost = true;
                }
                Err(source) => {
                    return Err(Error::from_io("noticing changes of the rules of nftables", source));
                }
            }
        }
        Ok(change)
    }

    /// Waits until the rules may have changed.
    ///
    /// ```no_run
    /// let mut changes = nfct::RuleChanges::subscribe()?;
    /// changes.wait()?;
    /// println!("{:?}", changes.read()?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error. A signal ends the wait without an error.
    pub fn wait(&self) -> Result<(), Error> {
        waiter::wait(self.handle.as_fd(), None).map(drop)
    }

    /// A [`Waiter`], which shows whether the rules may have changed while another thread
    /// reads the changes.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// let waiter = nfct::RuleChanges::subscribe()?.waiter()?;
    /// println!("{}", waiter.wait(Some(Duration::ZERO))?);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the process has reached its limit of open files.
    pub fn waiter(&self) -> Result<Waiter, Error> {
        Waiter::new(self.handle.as_fd())
    }
}

impl RuleChange {
    fn note(&mut self, message: &Message<'_>) {
        if message.kind == event_mask::RULE {
            match RuleMasks::read(message) {
                Ok(RuleMasks(masks)) => self.added_masks.extend(masks),
                Err(_) => self.lost = true,
            }
        } else if event_mask::REMOVALS.contains(&message.kind) {
            self.removed = true;
        }
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
