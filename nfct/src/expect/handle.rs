//! The C library's own way with expectations: a callback for each, made safe.
//!
//! As in [`Handle`](crate::Handle): a thin trampoline catches a panic, the safe
//! function resumes it on its own side; the closure is registered for one call
//! and unregistered before that call returns.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use libc::{c_int, c_void};
use nfct_sys as sys;

use super::attribute::ExpectAttribute;
use super::events::ExpectGroups;
use super::object::ExpectRef;
use super::query::refused;
use crate::error::Error;
use crate::events::EventKind;
use crate::handle::{CallbackState, Next, Stop, message_at};
use crate::selection::Family;
use crate::socket;
use crate::wire::Message;

/// What the C library may ask of the kernel about expectations.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{ExpectGroups, ExpectHandle, ExpectRequest, Family, Next};
///
/// let mut handle = ExpectHandle::open(ExpectGroups::NONE)?;
/// handle.query(ExpectRequest::Dump(Family::Ipv4), |_, expect| {
///     println!("{expect}");
///     Next::Continue
/// })?;
/// handle.query(ExpectRequest::Flush, |_, _| Next::Continue)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub enum ExpectRequest<'a> {
    /// Make it; `EEXIST` where it is there (`NFCT_Q_CREATE`).
    Create(&'a ExpectRef),
    /// Make it or, where it is there, set its time-out (`NFCT_Q_CREATE_UPDATE`).
    CreateOrUpdate(&'a ExpectRef),
    /// Hand out the one with this expected tuple (`NFCT_Q_GET`).
    Get(&'a ExpectRef),
    /// Remove it (`NFCT_Q_DESTROY`).
    Delete(&'a ExpectRef),
    /// Remove all, of both families (`NFCT_Q_FLUSH`).
    Flush,
    /// Hand out all (`NFCT_Q_DUMP`).
    Dump(Family),
}

/// What the library's query reads from its pointer: an expectation, or the
/// family, as one byte; for connections it reads four, and these are right for
/// both.
enum Argument<'a> {
    Expect(&'a ExpectRef),
    Family([u8; 4]),
}

impl Argument<'_> {
    fn as_ptr(&self) -> *const c_void {
        match self {
            Argument::Expect(expect) => expect.as_ptr().cast_const().cast::<c_void>(),
            Argument::Family(family) => family.as_ptr().cast::<c_void>(),
        }
    }
}

impl<'a> ExpectRequest<'a> {
    fn doing(&self) -> &'static str {
        match self {
            ExpectRequest::Create(_) => "making an expectation",
            ExpectRequest::CreateOrUpdate(_) => "making or changing an expectation",
            ExpectRequest::Get(_) => "asking for one expectation",
            ExpectRequest::Delete(_) => "removing an expectation",
            ExpectRequest::Flush => "removing expectations",
            ExpectRequest::Dump(_) => "reading expectations",
        }
    }

    /// The library's number of it, and what that reads.
    fn prepare(self) -> Result<(u32, Argument<'a>), Error> {
        use ExpectAttribute::{Expected, Mask, Master};
        let one = |number, expect: &'a ExpectRef, needed: &[ExpectAttribute]| {
            // The library sends what is there: without a tuple an empty message,
            // and "remove" without one removes every expectation.
            match needed.iter().find(|attribute| !expect.is_set(**attribute)) {
                None => Ok((number, Argument::Expect(expect))),
                Some(lacking) => Err(Error::Invalid {
                    doing: self.doing(),
                    found: format!("an expectation without {lacking:?}"),
                    expected: "the expected tuple, and to make one its master and mask too",
                }),
            }
        };
        let family = |family: Family| Argument::Family([family.number(), 0, 0, 0]);
        match self {
            ExpectRequest::Create(expect) => one(sys::NFCT_Q_CREATE, expect, &[Master, Expected, Mask]),
            ExpectRequest::CreateOrUpdate(expect) => {
                one(sys::NFCT_Q_CREATE_UPDATE, expect, &[Master, Expected, Mask])
            }
            ExpectRequest::Get(expect) => one(sys::NFCT_Q_GET, expect, &[Expected]),
            ExpectRequest::Delete(expect) => one(sys::NFCT_Q_DESTROY, expect, &[Expected]),
            ExpectRequest::Flush => Ok((sys::NFCT_Q_FLUSH, family(Family::Any))),
            ExpectRequest::Dump(of) => Ok((sys::NFCT_Q_DUMP, family(of))),
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
            Some(raw) => {
                let handle = Self { raw };
                socket::close_on_exec(handle.as_fd())
                    .map_err(|source| Error::from_system("opening a socket for expectations", source))?;
                Ok(handle)
            }
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
    pub fn catch(&mut self, mut callback: impl FnMut(EventKind, &ExpectRef) -> Next) -> Result<(), Error> {
        self.catch_messages(|_, kind, expect| callback(kind, expect))
    }

    /// As [`catch`](Self::catch), with the netlink message that the expectation
    /// was read from (`nfexp_callback_register2`).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{ExpectGroups, ExpectHandle, Next};
    /// ExpectHandle::open(ExpectGroups::ALL)?.catch_messages(|message, kind, _| {
    ///     println!("{kind:?}: {} bytes, flags {:#x}", message.as_bytes().len(), message.flags);
    ///     Next::Continue
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`catch`](Self::catch).
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn catch_messages(
        &mut self,
        callback: impl FnMut(&Message<'_>, EventKind, &ExpectRef) -> Next,
    ) -> Result<(), Error> {
        let doing = "receiving expectation events";
        let (result, error) = self.with_callback(callback, Stop::Now, doing, |raw| {
            // SAFETY: the handle is live, and `with_callback` has registered the
            // trampoline with a state that outlives this call.
            unsafe { sys::nfexp_catch(raw) }
        })?;
        if result < 0 { Err(Error::from_io(doing, error)) } else { Ok(()) }
    }

    /// Asks the kernel, waits for the answer, and hands each expectation of it
    /// to `callback`. After [`Next::Stop`] or a panic the rest of the answer is
    /// read away, so that the handle can be used for another question.
    ///
    /// The library sends tuples, mask, time-out, flags, zone and helper;
    /// [`Query::create_expectation`](crate::Query::create_expectation) sends
    /// class, NAT and function too.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Expect, ExpectGroups, ExpectHandle, ExpectRequest, Next, Tuple};
    /// # let data: Tuple = unimplemented!();
    /// let mut question = Expect::new()?;
    /// question.set_expected(&data)?;
    /// ExpectHandle::open(ExpectGroups::NONE)?.query(ExpectRequest::Get(&question), |_, found| {
    ///     println!("{:?} left", found.timeout());
    ///     Next::Continue
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN; [`Error::Invalid`] where a
    /// tuple is missing that this request needs; `ENOENT` where there is none
    /// such; else as [`Query::create_expectation`](crate::Query::create_expectation).
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn query(
        &mut self,
        request: ExpectRequest<'_>,
        mut callback: impl FnMut(EventKind, &ExpectRef) -> Next,
    ) -> Result<(), Error> {
        let (number, argument) = request.prepare()?;
        let callback = |_: &Message<'_>, kind, expect: &ExpectRef| callback(kind, expect);
        let (result, error) = self.with_callback(callback, Stop::AtTheEnd, request.doing(), |raw| {
            let data = argument.as_ptr();
            // SAFETY: the handle is live; `data` is of the kind that this query
            // reads, and it and the trampoline's state outlive this call.
            unsafe { sys::nfexp_query(raw, number, data) }
        })?;
        if result < 0 { Err(refused(request.doing(), error)) } else { Ok(()) }
    }

    /// Asks without waiting: [`catch`](Self::catch) gets the answer.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{ExpectGroups, ExpectHandle, ExpectRequest, Family, Next};
    /// let mut handle = ExpectHandle::open(ExpectGroups::NONE)?;
    /// handle.send(ExpectRequest::Dump(Family::Any))?;
    /// handle.catch(|_, expect| {
    ///     println!("{expect}");
    ///     Next::Continue
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `send` says, and [`Error::Invalid`] where a tuple is missing that
    /// this request needs.
    pub fn send(&mut self, request: ExpectRequest<'_>) -> Result<(), Error> {
        let (number, argument) = request.prepare()?;
        let data = argument.as_ptr();
        // SAFETY: the handle is live, and `data` is of the kind that this query
        // reads, and outlives this call.
        let result = unsafe { sys::nfexp_send(self.raw.as_ptr(), number, data) };
        if result < 0 { Err(Error::last(request.doing())) } else { Ok(()) }
    }

    /// Runs `call` with a callback registered; returns what it returned, and
    /// `errno`. To be stopped is no failure.
    fn with_callback(
        &mut self,
        mut callback: impl FnMut(&Message<'_>, EventKind, &ExpectRef) -> Next,
        stop: Stop,
        doing: &'static str,
        call: impl FnOnce(*mut sys::nfct_handle) -> c_int,
    ) -> Result<(c_int, std::io::Error), Error> {
        let mut state = CallbackState::new(&mut callback, stop);
        let data = (&raw mut state).cast::<c_void>();
        let raw = self.raw.as_ptr();
        // SAFETY: the handle is live; `data` points to `state`, which stays in
        // place until the callback is unregistered below.
        if unsafe { sys::nfexp_callback_register2(raw, sys::NFCT_T_ALL, Some(trampoline), data) } < 0 {
            return Err(Error::last(doing));
        }
        let result = call(raw);
        let error = std::io::Error::last_os_error();
        // SAFETY: the handle is live and has a callback registered.
        unsafe { sys::nfexp_callback_unregister2(raw) };
        Ok((state.finish(result), error))
    }
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

/// Called by the C library for each expectation.
///
/// # Safety
/// `data` is null or points to a live [`CallbackState`] that nothing else
/// refers to; `expect` is null or a live expectation; `header` is null or begins
/// a live message of the length that it says.
unsafe extern "C" fn trampoline(
    header: *const sys::nlmsghdr,
    kind: sys::nf_conntrack_msg_type,
    expect: *mut sys::nf_expect,
    data: *mut c_void,
) -> c_int {
    // SAFETY: `with_callback` registered `data` as its live CallbackState, and
    // nothing else refers to it while the library runs.
    let Some(state) = (unsafe { data.cast::<CallbackState<'_, ExpectRef>>().as_mut() }) else {
        return sys::NFCT_CB_FAILURE;
    };
    let Some(expect) = NonNull::new(expect) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library's own message, which does not leave this function.
    let Some(message) = (unsafe { message_at(header) }) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library passes a live expectation that it frees only after the
    // callback returns, and the reference does not leave this function.
    let expect = unsafe { ExpectRef::from_ptr(expect) };
    state.run(&message, EventKind::from_library(kind), expect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expect::Expect;

    fn call(
        callback: &mut dyn FnMut(&Message<'_>, EventKind, &ExpectRef) -> Next,
        header: Option<&sys::nlmsghdr>,
        expect: *mut sys::nf_expect,
    ) -> (c_int, c_int) {
        let mut state = CallbackState::new(callback, Stop::Now);
        let header = header.map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: a live state, a live header or null, and a live expectation or null.
        let answer = unsafe { trampoline(header, sys::NFCT_T_NEW, expect, (&raw mut state).cast()) };
        (answer, state.finish(-1))
    }

    fn header() -> sys::nlmsghdr {
        let nlmsg_len = size_of::<sys::nlmsghdr>() as u32;
        sys::nlmsghdr { nlmsg_len, nlmsg_type: 0x200, nlmsg_flags: 0, nlmsg_seq: 7, nlmsg_pid: 0 }
    }

    #[test]
    fn the_trampoline_hands_on_what_it_is_given_and_what_it_is_told() {
        let expect = Expect::new().unwrap();
        let goes_on = call(
            &mut |message, kind, _| {
                assert_eq!((message.sequence, kind), (7, EventKind::New));
                Next::Continue
            },
            Some(&header()),
            expect.as_ptr(),
        );
        assert_eq!(goes_on, (sys::NFCT_CB_CONTINUE as c_int, -1));
        let stops = call(&mut |_, _, _| Next::Stop, Some(&header()), expect.as_ptr());
        assert_eq!(stops, (sys::NFCT_CB_STOP as c_int, 0));
    }

    #[test]
    fn a_panic_in_a_callback_does_not_cross_the_c_loop_and_comes_out_behind_it() {
        let expect = Expect::new().unwrap();
        let mut callback =
            |_: &Message<'_>, _: EventKind, _: &ExpectRef| -> Next { panic!("in the callback") };
        let mut state = CallbackState::new(&mut callback, Stop::Now);
        let header = header();
        // SAFETY: a live state, header and expectation.
        let answer = unsafe {
            trampoline(&raw const header, sys::NFCT_T_NEW, expect.as_ptr(), (&raw mut state).cast())
        };
        assert_eq!(answer, sys::NFCT_CB_STOP as c_int);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| state.finish(0)));
        assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"in the callback"));
    }

    #[test]
    fn null_pointers_from_c_reach_no_callback() {
        let mut called = false;
        let mut callback = |_: &Message<'_>, _: EventKind, _: &ExpectRef| {
            called = true;
            Next::Continue
        };
        let expect = Expect::new().unwrap();
        let goes_on = sys::NFCT_CB_CONTINUE as c_int;
        assert_eq!(call(&mut callback, Some(&header()), std::ptr::null_mut()).0, goes_on);
        assert_eq!(call(&mut callback, None, expect.as_ptr()).0, goes_on);
        assert!(!called);
        let header = header();
        // SAFETY: a live header and expectation, and no state.
        let answer =
            unsafe { trampoline(&raw const header, sys::NFCT_T_NEW, expect.as_ptr(), std::ptr::null_mut()) };
        assert_eq!(answer, sys::NFCT_CB_FAILURE);
    }

    #[test]
    fn a_request_without_its_tuples_never_reaches_the_library() {
        let expect = Expect::new().unwrap();
        use ExpectRequest::{Create, CreateOrUpdate, Delete, Get};
        for request in [Create(&expect), CreateOrUpdate(&expect), Get(&expect), Delete(&expect)] {
            let refused = request.prepare().err();
            assert!(matches!(refused, Some(Error::Invalid { .. })), "{}", request.doing());
        }
    }

    #[test]
    fn a_handle_may_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<ExpectHandle>();
    }
}
