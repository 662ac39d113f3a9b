//! The C library's own way with expectations: a callback for each, made safe.
//!
//! As in [`Handle`](crate::Handle), a thin trampoline catches a panic, stops the
//! C loop, and the safe function resumes it on its own side; the closure is
//! registered for one call and unregistered before that call returns.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use libc::{c_int, c_void};
use nfct_sys as sys;

use super::events::ExpectGroups;
use super::object::{Expect, ExpectAttribute, ExpectRef};
use crate::error::Error;
use crate::events::EventKind;
use crate::handle::Next;
use crate::selection::Family;

/// What the C library may ask of the kernel about one expectation.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// # use nfct::{Expect, ExpectGroups, ExpectHandle, ExpectRequest};
/// # let expect = Expect::new()?;
/// ExpectHandle::open(ExpectGroups::NONE)?.query(ExpectRequest::Create, &expect)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectRequest {
    /// Make it; `EEXIST` where it is there.
    Create,
    /// Make it or, where it is there, set its time-out.
    CreateOrUpdate,
    /// Hand it out.
    Get,
    /// Remove it.
    Delete,
}

impl ExpectRequest {
    fn number(self) -> u32 {
        match self {
            ExpectRequest::Create => sys::NFCT_Q_CREATE,
            ExpectRequest::CreateOrUpdate => sys::NFCT_Q_CREATE_UPDATE,
            ExpectRequest::Get => sys::NFCT_Q_GET,
            ExpectRequest::Delete => sys::NFCT_Q_DESTROY,
        }
    }

    fn doing(self) -> &'static str {
        match self {
            ExpectRequest::Create => "making an expectation",
            ExpectRequest::CreateOrUpdate => "making or changing an expectation",
            ExpectRequest::Get => "asking for one expectation",
            ExpectRequest::Delete => "removing an expectation",
        }
    }

    /// The library sends what is there: without a tuple an empty message, and
    /// "remove" without one removes every expectation.
    fn check(self, expect: &ExpectRef) -> Result<(), Error> {
        use ExpectAttribute::{Expected, Mask, Master};
        let needed: &[ExpectAttribute] = match self {
            ExpectRequest::Create | ExpectRequest::CreateOrUpdate => &[Master, Expected, Mask],
            ExpectRequest::Get | ExpectRequest::Delete => &[Expected],
        };
        match needed.iter().find(|attribute| !expect.is_set(**attribute)) {
            None => Ok(()),
            Some(lacking) => Err(Error::Invalid {
                doing: self.doing(),
                found: format!("an expectation without {lacking:?}"),
                expected: "the expected tuple, and to make one its master and mask too",
            }),
        }
    }
}

/// A connection to the kernel's expectations, opened by the C library. It
/// belongs to the network namespace of the thread that opened it.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{ExpectGroups, ExpectHandle, Next};
///
/// let mut handle = ExpectHandle::open(ExpectGroups::NEW | ExpectGroups::DESTROY)?;
/// handle.catch(|kind, expect| {
///     println!("{kind:?} {expect:?}");
///     Next::Continue
/// })?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ExpectHandle {
    raw: NonNull<sys::nfct_handle>,
}

// SAFETY: the library keeps all of a handle's state behind the handle and uses
// no thread-local state; a handle may move to another thread as long as one
// thread uses it at a time, which `&mut self` and the missing `Sync` ensure.
unsafe impl Send for ExpectHandle {}

impl ExpectHandle {
    /// Opens a handle that listens to `groups` ([`ExpectGroups::NONE`] for
    /// questions only).
    ///
    /// ```no_run
    /// let handle = nfct::ExpectHandle::open(nfct::ExpectGroups::NONE)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN when there are groups,
    /// [`Error::Unsupported`] without netlink's netfilter protocol.
    pub fn open(groups: ExpectGroups) -> Result<Self, Error> {
        // SAFETY: takes two integers; NULL is an error, checked next.
        let raw = unsafe { sys::nfct_open(sys::NFNL_SUBSYS_CTNETLINK_EXP as u8, groups.bits()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Self { raw }),
            None if groups == ExpectGroups::NONE => Err(Error::last("opening a socket for expectations")),
            None => Err(Error::last("subscribing to expectation events")),
        }
    }

    /// Waits for events and hands each to `callback`, until it says
    /// [`Next::Stop`] or, on a socket that does not block, nothing is left.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{ExpectGroups, ExpectHandle, Next};
    /// let mut first = None;
    /// ExpectHandle::open(ExpectGroups::NEW)?.catch(|_, expect| {
    ///     first = expect.to_expectation();
    ///     Next::Stop
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `recv` says: `EAGAIN` when nothing is left, `ENOBUFS` when the
    /// kernel dropped events.
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn catch(&mut self, callback: impl FnMut(EventKind, &ExpectRef) -> Next) -> Result<(), Error> {
        self.with_callback(callback, "receiving expectation events", |raw| {
            // SAFETY: the handle is live, and `with_callback` has registered the
            // trampoline with a state that outlives this call.
            unsafe { sys::nfexp_catch(raw) }
        })
    }

    /// Hands each expectation to `callback`, until it says [`Next::Stop`]. The
    /// handle is used up: what a stopped dump leaves unread goes with it.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{ExpectGroups, ExpectHandle, Family, Next};
    /// let mut count = 0;
    /// ExpectHandle::open(ExpectGroups::NONE)?.dump(Family::Any, |_| {
    ///     count += 1;
    ///     Next::Continue
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN; otherwise as the system says.
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn dump(mut self, family: Family, mut callback: impl FnMut(&ExpectRef) -> Next) -> Result<(), Error> {
        let family = family_argument(family);
        self.with_callback(
            |_, expect| callback(expect),
            "reading all expectations",
            |raw| {
                // SAFETY: the handle is live; for expectations NFCT_Q_DUMP reads
                // one byte from the pointer, and the trampoline's state outlives
                // this call.
                unsafe { sys::nfexp_query(raw, sys::NFCT_Q_DUMP, family.as_ptr().cast::<c_void>()) }
            },
        )
    }

    /// Asks the kernel about one expectation, and waits for its answer: what
    /// was asked for with [`ExpectRequest::Get`], nothing otherwise.
    ///
    /// The library sends tuples, mask, time-out, flags, zone and helper;
    /// [`Query::create_expectation`](crate::Query::create_expectation) sends
    /// class, NAT and function too.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Expect, ExpectGroups, ExpectHandle, ExpectRequest, Tuple};
    /// # fn example(data: Tuple) -> Result<(), nfct::Error> {
    /// let mut handle = ExpectHandle::open(ExpectGroups::NONE)?;
    /// let mut question = Expect::new()?;
    /// question.set_expected(&data)?;
    /// if let Some(found) = handle.query(ExpectRequest::Get, &question)? {
    ///     println!("{:?} left", found.timeout());
    /// }
    /// # Ok(())
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] where a tuple is missing that this request needs;
    /// `ENOENT` where there is none such; else as
    /// [`Query::create_expectation`](crate::Query::create_expectation).
    pub fn query(&mut self, request: ExpectRequest, expect: &ExpectRef) -> Result<Option<Expect>, Error> {
        request.check(expect)?;
        let mut found = None;
        let keep = |_: EventKind, expect: &ExpectRef| {
            found = Some(expect.to_owned());
            Next::Continue
        };
        self.with_callback(keep, request.doing(), |raw| {
            let expect = expect.as_ptr().cast_const().cast::<c_void>();
            // SAFETY: the handle is live, the expectation too and is only read,
            // and `keep` outlives this call.
            unsafe { sys::nfexp_query(raw, request.number(), expect) }
        })?;
        Ok(found)
    }

    /// Asks without waiting: [`catch`](Self::catch) gets the answer.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Expect, ExpectGroups, ExpectHandle, ExpectRequest, Next};
    /// # let question = Expect::new()?;
    /// let mut handle = ExpectHandle::open(ExpectGroups::NONE)?;
    /// handle.send(ExpectRequest::Get, &question)?;
    /// handle.catch(|_, expect| {
    ///     println!("{expect:?}");
    ///     Next::Continue
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] where a tuple is missing that this request needs;
    /// else what `send` says.
    pub fn send(&mut self, request: ExpectRequest, expect: &ExpectRef) -> Result<(), Error> {
        request.check(expect)?;
        let expect = expect.as_ptr().cast_const().cast::<c_void>();
        // SAFETY: the handle is live, the expectation too and is only read.
        let result = unsafe { sys::nfexp_send(self.raw.as_ptr(), request.number(), expect) };
        if result < 0 { Err(Error::last(request.doing())) } else { Ok(()) }
    }

    /// Has the kernel expect nothing any more, in either family.
    ///
    /// ```no_run
    /// nfct::ExpectHandle::open(nfct::ExpectGroups::NONE)?.flush()?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the system says.
    pub fn flush(&mut self) -> Result<(), Error> {
        let family = family_argument(Family::Any);
        // SAFETY: the handle is live; for expectations NFCT_Q_FLUSH reads one
        // byte from the pointer.
        let result = unsafe {
            sys::nfexp_query(self.raw.as_ptr(), sys::NFCT_Q_FLUSH, family.as_ptr().cast::<c_void>())
        };
        if result < 0 { Err(Error::last("removing all expectations")) } else { Ok(()) }
    }

    fn with_callback(
        &mut self,
        mut callback: impl FnMut(EventKind, &ExpectRef) -> Next,
        doing: &'static str,
        call: impl FnOnce(*mut sys::nfct_handle) -> c_int,
    ) -> Result<(), Error> {
        let mut state = CallbackState { callback: &mut callback, panic: None, stopped: false };
        let data = (&raw mut state).cast::<c_void>();
        let raw = self.raw.as_ptr();
        // SAFETY: the handle is live; `data` points to `state`, which stays in
        // place until the callback is unregistered below.
        if unsafe { sys::nfexp_callback_register(raw, sys::NFCT_T_ALL, Some(trampoline), data) } < 0 {
            return Err(Error::last(doing));
        }
        let result = call(raw);
        let error = std::io::Error::last_os_error();
        // SAFETY: the handle is live and has a callback registered.
        unsafe { sys::nfexp_callback_unregister(raw) };
        if let Some(panic) = state.panic {
            resume_unwind(panic);
        }
        if result < 0 && !state.stopped { Err(Error::from_io(doing, error)) } else { Ok(()) }
    }
}

/// For expectations the library reads the family as one byte, for connections
/// as four: this is right for both.
fn family_argument(family: Family) -> [u8; 4] {
    [family.number(), 0, 0, 0]
}

impl AsFd for ExpectHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the handle is live.
        let fd = unsafe { sys::nfct_fd(self.raw.as_ptr()) };
        // SAFETY: the descriptor is the open socket of the handle, which only
        // dropping the handle closes, and the borrow ends before that.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for ExpectHandle {
    fn drop(&mut self) {
        // SAFETY: the handle is live and never used again. A failure to close
        // leaves nothing to do.
        unsafe { sys::nfct_close(self.raw.as_ptr()) };
    }
}

/// What the trampoline finds behind the library's `data` pointer.
struct CallbackState<'a> {
    callback: &'a mut dyn FnMut(EventKind, &ExpectRef) -> Next,
    panic: Option<Box<dyn Any + Send>>,
    stopped: bool,
}

/// Called by the C library for each expectation.
///
/// # Safety
/// `data` is null or points to a live [`CallbackState`] that nothing else
/// refers to, and `expect` is null or a live expectation.
unsafe extern "C" fn trampoline(
    kind: sys::nf_conntrack_msg_type,
    expect: *mut sys::nf_expect,
    data: *mut c_void,
) -> c_int {
    // SAFETY: `with_callback` registered `data` as its live CallbackState, and
    // nothing else refers to it while the library runs.
    let Some(state) = (unsafe { data.cast::<CallbackState<'_>>().as_mut() }) else {
        return sys::NFCT_CB_FAILURE;
    };
    let Some(expect) = NonNull::new(expect) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library passes a live expectation that it frees only after the
    // callback returns, and the reference does not leave this function.
    let expect = unsafe { ExpectRef::from_ptr(expect) };
    match catch_unwind(AssertUnwindSafe(|| (state.callback)(EventKind::from_library(kind), expect))) {
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

    fn call(
        callback: &mut dyn FnMut(EventKind, &ExpectRef) -> Next,
        expect: *mut sys::nf_expect,
    ) -> (c_int, bool) {
        let mut state = CallbackState { callback, panic: None, stopped: false };
        // SAFETY: a live state, and an expectation of the library or null.
        let answer = unsafe { trampoline(sys::NFCT_T_NEW, expect, (&raw mut state).cast()) };
        (answer, state.panic.is_some())
    }

    #[test]
    fn a_panic_in_a_callback_stops_the_c_loop_and_does_not_cross_it() {
        let expect = Expect::new().unwrap();
        let mut seen = 0;
        let answer = call(
            &mut |kind, _| {
                assert_eq!(kind, EventKind::New);
                seen += 1;
                panic!("in the callback")
            },
            expect.as_ptr(),
        );
        assert_eq!((answer, seen), ((sys::NFCT_CB_STOP as c_int, true), 1));
        let goes_on = call(&mut |_, _| Next::Continue, expect.as_ptr());
        assert_eq!(goes_on, (sys::NFCT_CB_CONTINUE as c_int, false));
        assert_eq!(call(&mut |_, _| Next::Stop, expect.as_ptr()), (sys::NFCT_CB_STOP as c_int, false));
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
        let expect = Expect::new().unwrap();
        // SAFETY: a live expectation, and no state.
        let answer = unsafe { trampoline(sys::NFCT_T_NEW, expect.as_ptr(), std::ptr::null_mut()) };
        assert_eq!(answer, sys::NFCT_CB_FAILURE);
    }

    #[test]
    fn a_request_without_its_tuples_never_reaches_the_library() {
        let expect = Expect::new().unwrap();
        for request in [ExpectRequest::Create, ExpectRequest::Get, ExpectRequest::Delete] {
            assert!(matches!(request.check(&expect), Err(Error::Invalid { .. })), "{request:?}");
        }
    }

    #[test]
    fn a_handle_may_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<ExpectHandle>();
    }
}
