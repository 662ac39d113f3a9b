//! The C library's handle, and its callbacks made safe.
//!
//! The library calls back from C. A panic must not unwind through C, so a thin
//! trampoline catches it, stops the C loop, and the safe function resumes it
//! on its own side. The closure lives on the caller's stack: it is registered
//! for one call and unregistered before that call returns, so nothing can
//! outlive what it borrows.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use libc::{c_int, c_void};
use nfct_sys as sys;

use crate::conntrack::ConntrackRef;
use crate::error::Error;
use crate::events::{EventKind, Groups};
use crate::selection::Family;

/// Whether a callback wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on with the next entry.
    Continue,
    /// That was enough.
    Stop,
}

/// A connection to the kernel's conntrack, opened by the C library. It belongs
/// to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Handle {
    raw: NonNull<sys::nfct_handle>,
}

// SAFETY: the library keeps all of a handle's state behind the handle and uses
// no thread-local state; a handle may move to another thread as long as one
// thread uses it at a time, which `&mut self` and the missing `Sync` ensure.
unsafe impl Send for Handle {}

impl Handle {
    /// Opens a handle that listens to `groups` ([`Groups::NONE`] for questions only).
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN when there are groups,
    /// [`Error::Unsupported`] without netlink's netfilter protocol.
    pub fn open(groups: Groups) -> Result<Self, Error> {
        // SAFETY: takes two integers; NULL is an error, checked next.
        let raw = unsafe { sys::nfct_open(sys::NFNL_SUBSYS_CTNETLINK as u8, groups.bits()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw }),
            None if groups.is_empty() => Err(Error::last("opening a conntrack socket")),
            None => Err(Error::last("subscribing to conntrack events")),
        }
    }

    /// Waits for events and hands each to `callback`, until it says
    /// [`Next::Stop`] or, on a socket that does not block, nothing is left.
    ///
    /// # Errors
    /// What `recv` says: `EAGAIN` when nothing is left, `ENOBUFS` when the
    /// kernel dropped events.
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn catch(&mut self, callback: impl FnMut(EventKind, &ConntrackRef) -> Next) -> Result<(), Error> {
        self.with_callback(callback, "receiving conntrack events", |raw| {
            // SAFETY: the handle is live, and `with_callback` has registered the
            // trampoline with a state that outlives this call.
            unsafe { sys::nfct_catch(raw) }
        })
    }

    /// Hands each entry of the kernel's table to `callback`, until it says
    /// [`Next::Stop`]. The handle is used up: what a stopped dump leaves unread
    /// goes with it.
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN; otherwise as the system says.
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn dump(
        mut self,
        family: Family,
        mut callback: impl FnMut(&ConntrackRef) -> Next,
    ) -> Result<(), Error> {
        let family = u32::from(family.number());
        self.with_callback(
            |_, entry| callback(entry),
            "reading all conntrack entries",
            |raw| {
                // SAFETY: the handle is live; NFCT_Q_DUMP reads a u32 from the
                // pointer, and the trampoline's state outlives this call.
                unsafe { sys::nfct_query(raw, sys::NFCT_Q_DUMP, (&raw const family).cast::<c_void>()) }
            },
        )
    }

    fn with_callback(
        &mut self,
        mut callback: impl FnMut(EventKind, &ConntrackRef) -> Next,
        doing: &'static str,
        call: impl FnOnce(*mut sys::nfct_handle) -> c_int,
    ) -> Result<(), Error> {
        let mut state = CallbackState { callback: &mut callback, panic: None, stopped: false };
        let data = (&raw mut state).cast::<c_void>();
        let raw = self.raw.as_ptr();
        // SAFETY: the handle is live; `data` points to `state`, which stays in
        // place until the callback is unregistered below.
        if unsafe { sys::nfct_callback_register(raw, sys::NFCT_T_ALL, Some(trampoline), data) } < 0 {
            return Err(Error::last(doing));
        }
        let result = call(raw);
        let error = std::io::Error::last_os_error();
        // SAFETY: the handle is live and has a callback registered.
        unsafe { sys::nfct_callback_unregister(raw) };
        if let Some(panic) = state.panic {
            resume_unwind(panic);
        }
        if result < 0 && !state.stopped { Err(Error::from_plain_request(doing, error)) } else { Ok(()) }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the handle is live.
        let fd = unsafe { sys::nfct_fd(self.raw.as_ptr()) };
        // SAFETY: the descriptor is the open socket of the handle, which only
        // dropping the handle closes, and the borrow ends before that.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is live and never used again. A failure to close
        // leaves nothing to do.
        unsafe { sys::nfct_close(self.raw.as_ptr()) };
    }
}

/// What the trampoline finds behind the library's `data` pointer.
struct CallbackState<'a> {
    callback: &'a mut dyn FnMut(EventKind, &ConntrackRef) -> Next,
    panic: Option<Box<dyn Any + Send>>,
    stopped: bool,
}

/// Called by the C library for each entry.
///
/// # Safety
/// `data` is null or points to a live [`CallbackState`] that nothing else
/// refers to, and `entry` is null or a live object.
unsafe extern "C" fn trampoline(
    kind: sys::nf_conntrack_msg_type,
    entry: *mut sys::nf_conntrack,
    data: *mut c_void,
) -> c_int {
    // SAFETY: `with_callback` registered `data` as its live CallbackState, and
    // nothing else refers to it while the library runs.
    let Some(state) = (unsafe { data.cast::<CallbackState<'_>>().as_mut() }) else {
        return sys::NFCT_CB_FAILURE;
    };
    let Some(entry) = NonNull::new(entry) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library passes a live object that it frees only after the
    // callback returns, and the reference does not leave this function.
    let entry = unsafe { ConntrackRef::from_ptr(entry) };
    match catch_unwind(AssertUnwindSafe(|| (state.callback)(EventKind::from_library(kind), entry))) {
        Ok(Next::Continue) => sys::NFCT_CB_CONTINUE as c_int,
        Ok(Next::Stop) => {
            state.stopped = true;
            sys::NFCT_CB_STOP as c_int
        }
        Err(panic) => {
            state.panic = Some(panic);
            state.stopped = true;
            sys::NFCT_CB_STOP as c_int
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::Conntrack;

    fn call(
        callback: &mut dyn FnMut(EventKind, &ConntrackRef) -> Next,
        entry: *mut sys::nf_conntrack,
    ) -> (c_int, bool) {
        let mut state = CallbackState { callback, panic: None, stopped: false };
        // SAFETY: a live state, and an object of the library or null.
        let answer = unsafe { trampoline(sys::NFCT_T_NEW, entry, (&raw mut state).cast()) };
        (answer, state.panic.is_some())
    }

    #[test]
    fn a_panic_in_a_callback_stops_the_c_loop_and_does_not_cross_it() {
        let entry = Conntrack::new().unwrap();
        let mut seen = 0;
        let answer = call(
            &mut |kind, _| {
                assert_eq!(kind, EventKind::New);
                seen += 1;
                panic!("in the callback")
            },
            entry.as_ptr(),
        );
        assert_eq!((answer, seen), ((sys::NFCT_CB_STOP as c_int, true), 1));
        assert_eq!(call(&mut |_, _| Next::Continue, entry.as_ptr()), (sys::NFCT_CB_CONTINUE as c_int, false));
        assert_eq!(call(&mut |_, _| Next::Stop, entry.as_ptr()), (sys::NFCT_CB_STOP as c_int, false));
    }

    #[test]
    fn null_pointers_from_c_reach_no_callback() {
        let mut called = false;
        let (answer, _) = call(
            &mut |_, _| {
                called = true;
                Next::Continue
            },
            std::ptr::null_mut(),
        );
        assert_eq!(answer, sys::NFCT_CB_CONTINUE as c_int);
        assert!(!called);
        let entry = Conntrack::new().unwrap();
        // SAFETY: a live object, and no state.
        let answer = unsafe { trampoline(sys::NFCT_T_NEW, entry.as_ptr(), std::ptr::null_mut()) };
        assert_eq!(answer, sys::NFCT_CB_FAILURE);
    }

    #[test]
    fn a_handle_may_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Handle>();
    }
}
