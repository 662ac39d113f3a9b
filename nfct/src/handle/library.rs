//! The C library's handle, generic over the subsystem that it serves.
//!
//! The closure of a call is on the caller's stack. It is registered for this call
//! and unregistered before the call returns. So the library never uses it after its
//! borrows have ended.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

use libc::{c_int, c_void};
use nfct_sys as sys;

use super::callback::{CallbackState, Next, Stop, message_at};
use crate::dump_filter::DumpFilter;
use crate::error::Error;
use crate::event::EventKind;
use crate::socket;
use crate::wire::Message;

/// One of the two subsystems of conntrack that the C library serves:
/// [`Connections`](crate::Connections) or [`Expectations`](crate::Expectations).
///
/// ```no_run
/// use nfct::{Error, Groups, Handle, LibraryHandle, Next, Subsystem};
///
/// fn count<S: Subsystem>(handle: &mut LibraryHandle<S>, request: S::Request<'_>) -> Result<usize, Error> {
///     let mut count = 0;
///     handle.query(request, |_, _| {
///         count += 1;
///         Next::Continue
///     })?;
///     Ok(count)
/// }
/// let mut handle = Handle::open(Groups::NONE)?;
/// println!("{}", count(&mut handle, nfct::Request::Dump(nfct::Family::Any))?);
/// # Ok::<_, nfct::Error>(())
/// ```
pub trait Subsystem: sealed::Sealed + Sized + 'static {
    /// Kinds of events to listen to.
    type Groups: Copy + PartialEq;
    /// The library's object that a callback borrows.
    type Object: 'static;
    /// A request to the kernel.
    type Request<'a>;
    /// The library's own type of the object.
    #[doc(hidden)]
    type Raw: 'static;
    #[doc(hidden)]
    const LIBRARY: Library<Self>;

    #[doc(hidden)]
    fn bits(groups: Self::Groups) -> u32;

    /// # Safety
    /// `raw` is a live object of the library and stays so for `'a`.
    #[doc(hidden)]
    unsafe fn lend<'a>(raw: NonNull<Self::Raw>) -> &'a Self::Object;

    /// # Errors
    /// For a request that the library would handle incorrectly.
    #[doc(hidden)]
    fn prepare<'a>(request: Self::Request<'a>) -> Result<Prepared<'a>, Error>;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// The library's functions for a subsystem, and the names of the operations in errors.
#[allow(unreachable_pub, reason = "a hidden part of the public, sealed trait")]
pub struct Library<S: Subsystem> {
    pub(crate) number: u32,
    pub(crate) opening: &'static str,
    pub(crate) subscribing: &'static str,
    pub(crate) receiving: &'static str,
    pub(crate) register: Register<S::Raw>,
    pub(crate) unregister: unsafe extern "C" fn(*mut sys::nfct_handle),
    pub(crate) catch: unsafe extern "C" fn(*mut sys::nfct_handle) -> c_int,
    pub(crate) query: Query,
    pub(crate) send: Query,
}

type Callback<R> =
    unsafe extern "C" fn(*const sys::nlmsghdr, sys::nf_conntrack_msg_type, *mut R, *mut c_void) -> c_int;
type Register<R> = unsafe extern "C" fn(
    *mut sys::nfct_handle,
    sys::nf_conntrack_msg_type,
    Option<Callback<R>>,
    *mut c_void,
) -> c_int;
type Query = unsafe extern "C" fn(*mut sys::nfct_handle, sys::nf_conntrack_query, *const c_void) -> c_int;

/// A request in the library's form.
#[allow(unreachable_pub, reason = "a hidden part of the public, sealed trait")]
pub struct Prepared<'a> {
    pub(crate) doing: &'static str,
    /// The library's number of the query.
    pub(crate) number: sys::nf_conntrack_query,
    pub(crate) argument: Argument<'a>,
    /// The error for the kernel's error number.
    pub(crate) refused: Box<dyn Fn(io::Error) -> Error>,
}

/// What the pointer argument of the library's query points to.
pub(crate) enum Argument<'a> {
    /// An object of the subsystem, borrowed for the call.
    Object(*const c_void, PhantomData<&'a ()>),
    Family(u32),
    Filter(DumpFilter),
}

impl Argument<'_> {
    fn as_ptr(&self) -> *const c_void {
        match self {
            Argument::Object(object, _) => *object,
            Argument::Family(family) => (&raw const *family).cast::<c_void>(),
            Argument::Filter(filter) => filter.as_ptr().cast::<c_void>(),
        }
    }
}

/// A connection to the kernel that the C library opened, with safe callbacks:
/// [`Handle`](crate::Handle) or [`ExpectHandle`](crate::ExpectHandle). It belongs
/// to the network namespace of the thread that opened it.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Family, Groups, Handle, Next};
///
/// let mut handle = Handle::open(Groups::NEW)?;
/// let mut left = 10;
/// handle.catch(|kind, entry| {
///     println!("{kind:?} {:?}", entry.original());
///     left -= 1;
///     if left == 0 { Next::Stop } else { Next::Continue }
/// })?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LibraryHandle<S: Subsystem> {
    raw: NonNull<sys::nfct_handle>,
    subsystem: PhantomData<fn() -> S>,
}

// SAFETY: the library keeps all of a handle's state behind the handle and uses
// no thread-local state. A handle may move to another thread as long as one
// thread uses it at a time, which `&mut self` and the missing `Sync` ensure.
unsafe impl<S: Subsystem> Send for LibraryHandle<S> {}

impl<S: Subsystem> LibraryHandle<S> {
    /// Opens a handle that listens to `groups` (`NONE` for queries only).
    ///
    /// ```no_run
    /// let handle = nfct::Handle::open(nfct::Groups::NONE)?;
    /// let other = nfct::ExpectHandle::open(nfct::ExpectGroups::NEW)?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN if there are groups,
    /// [`Error::Unsupported`] without netlink's netfilter protocol.
    pub fn open(groups: S::Groups) -> Result<Self, Error> {
        let Library { number, opening, subscribing, .. } = S::LIBRARY;
        let bits = S::bits(groups);
        // SAFETY: takes two integers; NULL is an error and is checked next.
        let raw = unsafe { sys::nfct_open(number as u8, bits) };
        match NonNull::new(raw) {
            Some(raw) => {
                let handle = Self { raw, subsystem: PhantomData };
                socket::close_on_exec(handle.as_fd())
                    .map_err(|source| Error::from_system(opening, source))?;
                Ok(handle)
            }
            None if bits == 0 => Err(Error::last(opening)),
            None => Err(Error::last(subscribing)),
        }
    }

    /// Waits for events and answers, and passes each to `callback`, until it returns
    /// [`Next::Stop`] or, on a non-blocking socket, nothing is waiting.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Groups, Handle, Next};
    /// let mut first = None;
    /// Handle::open(Groups::NEW)?.catch(|_, entry| {
    ///     first = entry.original();
    ///     Next::Stop
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `recv`: `EAGAIN` if nothing is waiting, `ENOBUFS` if events were lost.
    ///
    /// # Panics
    /// If `callback` panics: the panic continues after the C library has returned.
    pub fn catch(&mut self, mut callback: impl FnMut(EventKind, &S::Object) -> Next) -> Result<(), Error> {
        self.catch_messages(|_, kind, entry| callback(kind, entry))
    }

    /// As [`catch`](Self::catch), with the netlink message from which the object
    /// was read (`nfct_callback_register2`, `nfexp_callback_register2`).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Groups, Handle, Next};
    /// Handle::open(Groups::ALL)?.catch_messages(|message, kind, _| {
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
    /// If `callback` panics: the panic continues after the C library has returned.
    pub fn catch_messages(
        &mut self,
        callback: impl FnMut(&Message<'_>, EventKind, &S::Object) -> Next,
    ) -> Result<(), Error> {
        let doing = S::LIBRARY.receiving;
        let (result, error) = self.with_callback(callback, Stop::Now, doing, |raw| {
            // SAFETY: the handle is live, and `with_callback` has registered the
            // trampoline with a state that outlives this call.
            unsafe { (S::LIBRARY.catch)(raw) }
        })?;
        if result < 0 { Err(Error::from_io(doing, error)) } else { Ok(()) }
    }

    /// Sends a request, waits for the answer, and passes each object of it to
    /// `callback`. After [`Next::Stop`] or a panic the rest of the answer is
    /// discarded, so the handle can be used for another request.
    ///
    /// A handle that listens to groups also passes on the events that arrive
    /// meanwhile.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Groups, Handle, Next, Request};
    /// let mut count = 0;
    /// Handle::open(Groups::NONE)?.query(Request::Dump(Family::Ipv6), |_, _| {
    ///     count += 1;
    ///     Next::Continue
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN; `EEXIST`, `ENOENT` and the
    /// other errors of the kernel for one object; `EMSGSIZE` for an entry that is
    /// too large for the library; [`Error::Library`] for a zone or a selected flush if
    /// the library is older than 1.1.0; [`Error::Invalid`] for a condition that no
    /// release of the library supports, and for an expectation without a tuple that the
    /// request needs.
    ///
    /// # Panics
    /// If `callback` panics: the panic continues after the C library has returned.
    pub fn query(
        &mut self,
        request: S::Request<'_>,
        callback: impl FnMut(EventKind, &S::Object) -> Next,
    ) -> Result<(), Error> {
        self.query_until(Stop::AtTheEnd, request, callback)
    }

    /// Sends a request without waiting: [`catch`](Self::catch) gets the answer.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Groups, Handle, Next, Request};
    /// let mut handle = Handle::open(Groups::NONE)?;
    /// handle.send(Request::Dump(Family::Any))?;
    /// handle.catch(|_, entry| {
    ///     println!("{:?}", entry.original());
    ///     Next::Continue
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `send`, and those of [`query`](Self::query) about the request itself.
    pub fn send(&mut self, request: S::Request<'_>) -> Result<(), Error> {
        let Prepared { doing, number, argument, .. } = S::prepare(request)?;
        let data = argument.as_ptr();
        // SAFETY: the handle is live; `data` is of the kind that this query
        // reads, and outlives this call.
        let result = unsafe { (S::LIBRARY.send)(self.raw.as_ptr(), number, data) };
        if result < 0 { Err(Error::last(doing)) } else { Ok(()) }
    }

    /// Runs a query until the first stop. The rest of the answer stays in the socket, so
    /// this consumes the handle.
    pub(super) fn query_once(
        mut self,
        request: S::Request<'_>,
        mut callback: impl FnMut(&S::Object) -> Next,
    ) -> Result<(), Error> {
        self.query_until(Stop::Now, request, |_, object| callback(object))
    }

    fn query_until(
        &mut self,
        stop: Stop,
        request: S::Request<'_>,
        mut callback: impl FnMut(EventKind, &S::Object) -> Next,
    ) -> Result<(), Error> {
        let Prepared { doing, number, argument, refused } = S::prepare(request)?;
        let callback = |_: &Message<'_>, kind, object: &S::Object| callback(kind, object);
        let (result, error) = self.with_callback(callback, stop, doing, |raw| {
            let data = argument.as_ptr();
            // SAFETY: the handle is live; `data` is of the kind that this query
            // reads, and it and the trampoline's state outlive this call.
            unsafe { (S::LIBRARY.query)(raw, number, data) }
        })?;
        if result < 0 { Err(refused(error)) } else { Ok(()) }
    }

    /// Runs `call` with a callback registered. Returns its result and `errno`. A stop is
    /// not a failure.
    fn with_callback(
        &mut self,
        mut callback: impl FnMut(&Message<'_>, EventKind, &S::Object) -> Next,
        stop: Stop,
        doing: &'static str,
        call: impl FnOnce(*mut sys::nfct_handle) -> c_int,
    ) -> Result<(c_int, io::Error), Error> {
        let mut state = CallbackState::new(&mut callback, stop);
        let data = (&raw mut state).cast::<c_void>();
        let raw = self.raw.as_ptr();
        // SAFETY: the handle is live; `data` points to `state`, which stays in
        // place until the callback is unregistered below.
        if unsafe { (S::LIBRARY.register)(raw, sys::NFCT_T_ALL, Some(trampoline::<S>), data) } < 0 {
            return Err(Error::last(doing));
        }
        let result = call(raw);
        let error = io::Error::last_os_error();
        // SAFETY: the handle is live and has a callback registered.
        unsafe { (S::LIBRARY.unregister)(raw) };
        Ok((state.finish(result), error))
    }
}

impl<S: Subsystem> AsFd for LibraryHandle<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the handle is live.
        let fd = unsafe { sys::nfct_fd(self.raw.as_ptr()) };
        // SAFETY: the descriptor is the open socket of the handle, which only
        // dropping the handle closes, and the borrow ends before that.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl<S: Subsystem> Drop for LibraryHandle<S> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and never used again. An error is ignored: there is no remedy.
        unsafe { sys::nfct_close(self.raw.as_ptr()) };
    }
}

/// The function that the C library calls for each object.
///
/// # Safety
/// `data` is null or points to a live [`CallbackState`] of this subsystem that
/// nothing else refers to; `object` is null or a live object; `header` is null or
/// begins a live message of the length that it names.
unsafe extern "C" fn trampoline<S: Subsystem>(
    header: *const sys::nlmsghdr,
    kind: sys::nf_conntrack_msg_type,
    object: *mut S::Raw,
    data: *mut c_void,
) -> c_int {
    // SAFETY: `with_callback` registered `data` as its live CallbackState, and
    // nothing else refers to it while the library runs.
    let Some(state) = (unsafe { data.cast::<CallbackState<'_, S::Object>>().as_mut() }) else {
        return sys::NFCT_CB_FAILURE;
    };
    let Some(object) = NonNull::new(object) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library's own message; the reference does not leave this function.
    let Some(message) = (unsafe { message_at(header) }) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library passes a live object that it frees only after the
    // callback returns, and the reference does not leave this function.
    let object = unsafe { S::lend(object) };
    state.run(&message, EventKind::from_library(kind), object)
}

#[cfg(test)]
pub(crate) mod tests;
