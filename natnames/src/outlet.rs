//! Where a source says what it knows.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::claim::Report;
use crate::time::Millis;

/// The source is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source was stopped")]
pub struct Stopped;

impl From<Stopped> for io::Error {
    fn from(stopped: Stopped) -> Self {
        io::Error::new(io::ErrorKind::Interrupted, stopped)
    }
}

/// Ends sources.
#[derive(Debug)]
pub(crate) struct Stop(OwnedFd);

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes all that wait, now and later.
    pub(crate) fn stop(&self) {
        // It only fails if the counter is full, and then all are awake.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Takes reports, with the moment at which they were learnt.
pub(crate) trait Taker: Send + Sync {
    fn take(&self, report: Report, now: Millis);

    /// What is reported from now on can have happened since this moment; `None` if it is told at once.
    fn note_delay(&self, _since: Option<Millis>) {}
}

/// Where a source says what it knows, and how it waits.
#[derive(Clone)]
pub struct Outlet {
    taker: Arc<dyn Taker>,
    stop: Arc<Stop>,
    clock: fn() -> Millis,
    /// Since when there is something that the source has not read; [`NOTHING`] if there is not.
    unread_since: Arc<AtomicI64>,
}

/// Everything was read.
const NOTHING: Millis = Millis::MAX;

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

impl Outlet {
    pub(crate) fn new(taker: Arc<dyn Taker>, stop: Arc<Stop>, clock: fn() -> Millis) -> Self {
        Self { taker, stop, clock, unread_since: Arc::new(AtomicI64::new(NOTHING)) }
    }

    /// This moment.
    pub fn now(&self) -> Millis {
        (self.clock)()
    }

    /// Notes that something has happened since this moment at the earliest, which is yet to be read.
    pub(crate) fn note_unread(&self, since: Millis) {
        if self.unread_since.fetch_min(since, Ordering::Relaxed) == NOTHING {
            self.taker.note_delay(Some(since));
        }
    }

    /// Notes that everything was read and said. Returns since when that was not so, or this moment.
    pub(crate) fn note_read(&self) -> Millis {
        let since = self.unread_since.swap(NOTHING, Ordering::Relaxed);
        if since != NOTHING {
            self.taker.note_delay(None);
        }
        since.min(self.now())
    }

    /// Says something. It is learnt at this moment.
    ///
    /// # Errors
    /// [`Stopped`] if the source is to end.
    pub fn say(&self, report: Report) -> Result<(), Stopped> {
        self.taker.take(report, self.now());
        if self.is_stopped() { Err(Stopped) } else { Ok(()) }
    }

    /// Waits until one of these can be read (or has failed), for at most this time. Returns whether one can.
    ///
    /// # Errors
    /// [`Stopped`] as an [`io::Error`] if the source is to end, and those of the system.
    pub fn wait(&self, readable: &[&dyn AsFd], timeout: Option<Duration>) -> io::Result<bool> {
        // A time that is too long for the kernel is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut watched: Vec<PollFd<'_>> =
            readable.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
        watched.push(PollFd::new(&self.stop.0, PollFlags::IN));
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let (stop, others) = watched.split_last().expect("the one that was pushed is there");
        if !stop.revents().is_empty() {
            return Err(Stopped.into());
        }
        Ok(others.iter().any(|fd| !fd.revents().is_empty()))
    }

    fn is_stopped(&self) -> bool {
        let mut fd = [PollFd::new(&self.stop.0, PollFlags::IN)];
        poll(&mut fd, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use parking_lot::{Condvar, Mutex};

    /// Collects what a source says.
    #[derive(Default)]
    pub(crate) struct Heard {
        reports: Mutex<Vec<Report>>,
        more: Condvar,
    }

    impl Taker for Heard {
        fn take(&self, report: Report, _: Millis) {
            self.reports.lock().push(report);
            self.more.notify_all();
        }
    }

    impl Heard {
        /// An outlet that ends here, and what stops it.
        pub(crate) fn outlet(self: &Arc<Self>) -> (Outlet, Arc<Stop>) {
            let stop = Arc::new(Stop::new().unwrap());
            (Outlet::new(self.clone(), stop.clone(), crate::time::wall_clock), stop)
        }

        /// Waits until what was said fulfils a condition, and returns it; panics after 20 s.
        pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&[Report]) -> bool) -> Vec<Report> {
            let mut reports = self.reports.lock();
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while !condition(&reports) {
                let timed_out = self.more.wait_until(&mut reports, deadline).timed_out();
                assert!(!timed_out, "{what}: {reports:?}");
            }
            reports.clone()
        }

        /// What was said until now; it is forgotten.
        pub(crate) fn take_all(&self) -> Vec<Report> {
            std::mem::take(&mut *self.reports.lock())
        }
    }
}
