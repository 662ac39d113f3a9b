//! Network namespaces other than the caller's.
//!
//! A netlink socket belongs to the network namespace of the thread that opened it,
//! also if another thread uses it later. So a separate thread enters the namespace,
//! opens the socket, returns it and ends. The caller's thread does not move.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use crate::error::Error;
use crate::socket;

/// A network namespace. It exists at least as long as this value.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Events, Groups, Namespace, Query};
///
/// let gateway = Namespace::named("gateway")?; // `ip netns add gateway`
/// let events = gateway.enter(|| Events::subscribe(Groups::NEW))?;
/// let entries = gateway.enter(Query::open)?.count()?.entries;
/// # let _ = (events, entries);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Opens the network namespace with this name in `ip netns`, a file in `/run/netns`.
    ///
    /// ```no_run
    /// let gateway = nfct::Namespace::named("gateway")?;
    /// # let _ = gateway;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// `ENOENT` if there is no such namespace.
    pub fn named(name: &str) -> Result<Self, Error> {
        Self::at(Path::new("/run/netns").join(name))
    }

    /// Opens the network namespace of a process.
    ///
    /// ```
    /// let own = nfct::Namespace::of_process(std::process::id())?;
    /// # let _ = own;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// `ENOENT` if there is no such process, [`Error::Permission`] if the caller may
    /// not trace it.
    pub fn of_process(pid: u32) -> Result<Self, Error> {
        Self::at(format!("/proc/{pid}/ns/net"))
    }

    /// Opens the network namespace of a file, such as one in `/run/netns` or `/proc/PID/ns/net`.
    ///
    /// ```
    /// let own = nfct::Namespace::at("/proc/self/ns/net")?;
    /// # let _ = own;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// The system's error if the file cannot be opened.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| {
            let hint = match source.raw_os_error() {
                Some(libc::ENOENT) => "there is no such namespace (`ip netns list`) or process",
                _ => "",
            };
            Error::system("opening a network namespace", source, hint)
        })?;
        Ok(Self { fd: file.into() })
    }

    /// Runs `open` inside the namespace, on a separate thread, and returns its
    /// result: a [`Query`](crate::Query), an
    /// [`Events`](crate::Events), a [`Handle`](crate::Handle) or anything else
    /// that can move to another thread.
    ///
    /// ```no_run
    /// let gateway = nfct::Namespace::named("gateway")?;
    /// let mut query = gateway.enter(nfct::Query::open)?;
    /// println!("{} connections", query.count()?.entries);
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `open`; [`Error::Permission`] without CAP_SYS_ADMIN, which the
    /// kernel requires to enter another namespace; `EINVAL` if the file is not a
    /// network namespace.
    ///
    /// # Panics
    /// If `open` panics.
    pub fn enter<T: Send>(&self, open: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let open_inside = || {
            socket::enter_namespace(self.fd.as_fd()).map_err(not_entered)?;
            open()
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("nfct-namespace".to_owned())
                .spawn_scoped(scope, open_inside)
                .map_err(|source| Error::from_system("starting a thread for a network namespace", source))?;
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// The network namespace of a socket, unless it is that of this thread.
    pub(crate) fn of_foreign_socket(socket: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let fd = socket::namespace(socket)?;
        let theirs = File::from(fd.try_clone()?).metadata()?;
        let ours = std::fs::metadata("/proc/thread-self/ns/net")?;
        let same = (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino());
        Ok(Some(Self { fd }).filter(|_| !same))
    }
}

fn not_entered(source: io::Error) -> Error {
    const DOING: &str = "entering a network namespace";
    match source.raw_os_error() {
        Some(libc::EPERM) => Error::Permission { doing: DOING, needs: "CAP_SYS_ADMIN", source },
        Some(libc::EINVAL) => Error::system(DOING, source, "the file is not a network namespace"),
        _ => Error::from_system(DOING, source),
    }
}

/// Wraps a descriptor of a network namespace that the caller has opened.
impl From<OwnedFd> for Namespace {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
