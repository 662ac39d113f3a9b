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
use crate::dump_filter::DumpFilter;
use crate::error::Error;
use crate::events::{EventKind, Groups};
use crate::message::MessageRoom;
use crate::selection::{Family, Selection};
use crate::socket;
use crate::wire::{Message, Messages};

/// Whether a callback wants more.
///
/// ```no_run
/// use nfct::{Family, Groups, Handle, Next};
/// let mut left = 3;
/// Handle::open(Groups::NONE)?.dump(Family::Any, |entry| {
///     println!("{entry}");
///     left -= 1;
///     if left > 0 { Next::Continue } else { Next::Stop }
/// })?;
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on with the next entry.
    Continue,
    /// That was enough.
    Stop,
}

/// What the C library may ask of the kernel (`enum nf_conntrack_query`).
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Family, Groups, Handle, Next, Request, Selection};
///
/// let mut handle = Handle::open(Groups::NONE)?;
/// let marked = Selection::from(Family::Ipv4).mark(7, u32::MAX);
/// handle.query(Request::DumpFilter(marked), |_, entry| {
///     println!("{:?}", entry.original());
///     Next::Continue
/// })?;
/// handle.query(Request::Flush, |_, _| Next::Continue)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub enum Request<'a> {
    /// Make it; `EEXIST` where it is there (`NFCT_Q_CREATE`).
    Create(&'a ConntrackRef),
    /// Change it; `ENOENT` where it is not there (`NFCT_Q_UPDATE`).
    Update(&'a ConntrackRef),
    /// Make it or, where it is there, change it (`NFCT_Q_CREATE_UPDATE`).
    CreateOrUpdate(&'a ConntrackRef),
    /// Remove it (`NFCT_Q_DESTROY`).
    Delete(&'a ConntrackRef),
    /// Hand out the one with this original tuple (`NFCT_Q_GET`).
    Get(&'a ConntrackRef),
    /// Remove all, of both families: the library's request makes the kernel
    /// ignore which one is meant (`NFCT_Q_FLUSH`).
    Flush,
    /// Remove what is selected (`NFCT_Q_FLUSH_FILTER`), with a library from 1.1.0
    /// on. A kernel that does not know a condition removes more;
    /// [`Query::flush`](crate::Query::flush) never does, and takes any library.
    FlushFilter(Selection),
    /// Hand out all (`NFCT_Q_DUMP`).
    Dump(Family),
    /// Hand out all and set their counters to 0 (`NFCT_Q_DUMP_RESET`).
    DumpReset(Family),
    /// Hand out what is selected (`NFCT_Q_DUMP_FILTER`). A kernel that does not
    /// know a condition hands out more; [`Query::dump`](crate::Query::dump)
    /// never does.
    DumpFilter(Selection),
    /// Hand out what is selected and set its counters to 0
    /// (`NFCT_Q_DUMP_FILTER_RESET`).
    DumpFilterReset(Selection),
}

/// What the library's query reads from its pointer.
enum Argument<'a> {
    Entry(&'a ConntrackRef),
    Family(u32),
    Filter(DumpFilter),
}

impl<'a> Request<'a> {
    fn doing(&self) -> &'static str {
        match self {
            Request::Create(_) => "making a conntrack entry",
            Request::Update(_) => "changing a conntrack entry",
            Request::CreateOrUpdate(_) => "making or changing a conntrack entry",
            Request::Delete(_) => "removing a conntrack entry",
            Request::Get(_) => "asking for one conntrack entry",
            Request::Flush | Request::FlushFilter(_) => "emptying the conntrack table",
            Request::Dump(_)
            | Request::DumpReset(_)
            | Request::DumpFilter(_)
            | Request::DumpFilterReset(_) => "reading all conntrack entries",
        }
    }

    /// The library's number of it, and what that reads.
    fn prepare(self) -> Result<(u32, Argument<'a>), Error> {
        let doing = self.doing();
        let entry = |number, entry| Self::check(entry, doing).map(|()| (number, Argument::Entry(entry)));
        let family = |number, family: Family| Ok((number, Argument::Family(family.number().into())));
        let filter = |number, selection: Selection| {
            DumpFilter::new(&selection, doing).map(|filter| (number, Argument::Filter(filter)))
        };
        match self {
            Request::Create(named) => entry(sys::NFCT_Q_CREATE, named),
            Request::Update(named) => entry(sys::NFCT_Q_UPDATE, named),
            Request::CreateOrUpdate(named) => entry(sys::NFCT_Q_CREATE_UPDATE, named),
            Request::Delete(named) => entry(sys::NFCT_Q_DESTROY, named),
            Request::Get(named) => entry(sys::NFCT_Q_GET, named),
            Request::Flush => family(sys::NFCT_Q_FLUSH, Family::Any),
            Request::FlushFilter(selection) => DumpFilter::for_flush(&selection, doing)
                .map(|filter| (sys::NFCT_Q_FLUSH_FILTER, Argument::Filter(filter))),
            Request::Dump(of) => family(sys::NFCT_Q_DUMP, of),
            Request::DumpReset(of) => family(sys::NFCT_Q_DUMP_RESET, of),
            Request::DumpFilter(selection) => filter(sys::NFCT_Q_DUMP_FILTER, selection),
            Request::DumpFilterReset(selection) => filter(sys::NFCT_Q_DUMP_FILTER_RESET, selection),
        }
    }

    /// The library writes an entry into 4 KiB on its stack without a look at
    /// its size: one that is larger must not come there.
    fn check(entry: &ConntrackRef, doing: &'static str) -> Result<(), Error> {
        const ROOM: usize = 4096;
        let mut room = MessageRoom::new();
        let length = room.write(entry, sys::IPCTNL_MSG_CT_NEW, 0, 0, doing)?.len();
        if length <= ROOM {
            return Ok(());
        }
        Err(Error::from_entry_request(doing, std::io::Error::from_raw_os_error(libc::EMSGSIZE)))
    }
}

/// A connection to the kernel's conntrack, opened by the C library, whose
/// callbacks it makes safe. It belongs to the network namespace of the thread
/// that opened it.
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
    /// ```no_run
    /// let handle = nfct::Handle::open(nfct::Groups::NONE)?;
    /// # Ok::<_, nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN when there are groups,
    /// [`Error::Unsupported`] without netlink's netfilter protocol.
    pub fn open(groups: Groups) -> Result<Self, Error> {
        // SAFETY: takes two integers; NULL is an error, checked next.
        let raw = unsafe { sys::nfct_open(sys::NFNL_SUBSYS_CTNETLINK as u8, groups.bits()) };
        match NonNull::new(raw) {
            Some(raw) => {
                let handle = Self { raw };
                socket::close_on_exec(handle.as_fd())
                    .map_err(|source| Error::from_system("opening a conntrack socket", source))?;
                Ok(handle)
            }
            None if groups.is_empty() => Err(Error::last("opening a conntrack socket")),
            None => Err(Error::last("subscribing to conntrack events")),
        }
    }

    /// Waits for events and answers and hands each to `callback`, until it says
    /// [`Next::Stop`] or, on a socket that does not block, nothing is left.
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
    /// What `recv` says: `EAGAIN` when nothing is left, `ENOBUFS` when the
    /// kernel dropped events.
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn catch(&mut self, mut callback: impl FnMut(EventKind, &ConntrackRef) -> Next) -> Result<(), Error> {
        self.catch_messages(|_, kind, entry| callback(kind, entry))
    }

    /// As [`catch`](Self::catch), with the netlink message that the entry was
    /// read from (`nfct_callback_register2`).
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
    /// With what `callback` panicked with, after the C library has returned.
    pub fn catch_messages(
        &mut self,
        callback: impl FnMut(&Message<'_>, EventKind, &ConntrackRef) -> Next,
    ) -> Result<(), Error> {
        let doing = "receiving conntrack events";
        let (result, error) = self.with_callback(callback, Stop::Now, doing, |raw| {
            // SAFETY: the handle is live, and `with_callback` has registered the
            // trampoline with a state that outlives this call.
            unsafe { sys::nfct_catch(raw) }
        })?;
        if result < 0 { Err(Error::from_io(doing, error)) } else { Ok(()) }
    }

    /// Asks the kernel, waits for the answer, and hands each entry of it to
    /// `callback`. After [`Next::Stop`] or a panic the rest of the answer is
    /// read away, so that the handle can be used for another question.
    ///
    /// On a handle that listens to groups, events that come meanwhile are handed
    /// out too.
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
    /// [`Error::Permission`] without CAP_NET_ADMIN; of one entry `EEXIST`,
    /// `ENOENT` and what else the kernel says of it, and `EMSGSIZE` for one that
    /// is too large for the library; [`Error::Library`] for a zone or a selected
    /// flush where the library is older than 1.1.0, and [`Error::Invalid`] for conditions that
    /// it does not know at all.
    ///
    /// # Panics
    /// With what `callback` panicked with, after the C library has returned.
    pub fn query(
        &mut self,
        request: Request<'_>,
        mut callback: impl FnMut(EventKind, &ConntrackRef) -> Next,
    ) -> Result<(), Error> {
        let (number, argument) = request.prepare()?;
        let callback = |_: &Message<'_>, kind, entry: &ConntrackRef| callback(kind, entry);
        let (result, error) = self.with_callback(callback, Stop::AtTheEnd, request.doing(), |raw| {
            let data = argument.as_ptr();
            // SAFETY: the handle is live; `data` is of the kind that this query
            // reads, and it and the trampoline's state outlive this call.
            unsafe { sys::nfct_query(raw, number, data) }
        })?;
        match argument {
            _ if result >= 0 => Ok(()),
            Argument::Entry(_) => Err(Error::from_entry_request(request.doing(), error)),
            _ => Err(Error::from_plain_request(request.doing(), error)),
        }
    }

    /// Asks without waiting: [`catch`](Self::catch) gets the answer.
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
    /// What `send` says, and what [`query`](Self::query) says of the request itself.
    pub fn send(&mut self, request: Request<'_>) -> Result<(), Error> {
        let (number, argument) = request.prepare()?;
        let data = argument.as_ptr();
        // SAFETY: the handle is live, and `data` is of the kind that this query
        // reads, and outlives this call.
        let result = unsafe { sys::nfct_send(self.raw.as_ptr(), number, data) };
        if result < 0 { Err(Error::last(request.doing())) } else { Ok(()) }
    }

    /// Hands each entry of the kernel's table to `callback`, until it says
    /// [`Next::Stop`]. The handle is used up: what a stopped dump leaves unread
    /// goes with it, at no cost.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Family, Groups, Handle, Next};
    /// let mut any = None;
    /// Handle::open(Groups::NONE)?.dump(Family::Any, |entry| {
    ///     any = entry.original();
    ///     Next::Stop
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
    pub fn dump(
        mut self,
        family: Family,
        mut callback: impl FnMut(&ConntrackRef) -> Next,
    ) -> Result<(), Error> {
        let doing = "reading all conntrack entries";
        let family = u32::from(family.number());
        let callback = |_: &Message<'_>, _, entry: &ConntrackRef| callback(entry);
        let (result, error) = self.with_callback(callback, Stop::Now, doing, |raw| {
            // SAFETY: the handle is live; NFCT_Q_DUMP reads a u32 from the
            // pointer, and the trampoline's state outlives this call.
            unsafe { sys::nfct_query(raw, sys::NFCT_Q_DUMP, (&raw const family).cast::<c_void>()) }
        })?;
        if result < 0 { Err(Error::from_plain_request(doing, error)) } else { Ok(()) }
    }

    /// Runs `call` with a callback registered; returns what it returned, and
    /// `errno`. To be stopped is no failure.
    fn with_callback(
        &mut self,
        mut callback: impl FnMut(&Message<'_>, EventKind, &ConntrackRef) -> Next,
        stop: Stop,
        doing: &'static str,
        call: impl FnOnce(*mut sys::nfct_handle) -> c_int,
    ) -> Result<(c_int, std::io::Error), Error> {
        let mut state = CallbackState::new(&mut callback, stop);
        let data = (&raw mut state).cast::<c_void>();
        let raw = self.raw.as_ptr();
        // SAFETY: the handle is live; `data` points to `state`, which stays in
        // place until the callback is unregistered below.
        if unsafe { sys::nfct_callback_register2(raw, sys::NFCT_T_ALL, Some(trampoline), data) } < 0 {
            return Err(Error::last(doing));
        }
        let result = call(raw);
        let error = std::io::Error::last_os_error();
        // SAFETY: the handle is live and has a callback registered.
        unsafe { sys::nfct_callback_unregister2(raw) };
        Ok((state.finish(result), error))
    }
}

impl Argument<'_> {
    fn as_ptr(&self) -> *const c_void {
        match self {
            Argument::Entry(entry) => entry.as_ptr().cast_const().cast::<c_void>(),
            Argument::Family(family) => (&raw const *family).cast::<c_void>(),
            Argument::Filter(filter) => filter.as_ptr().cast::<c_void>(),
        }
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

/// When a callback that wants no more is obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The C loop ends; what is unread stays in the socket.
    Now,
    /// The C loop goes on to the end of the answer, without the callback.
    AtTheEnd,
}

/// What a trampoline finds behind the library's `data` pointer; `T` is what the
/// callback is lent.
pub(crate) struct CallbackState<'a, T> {
    callback: &'a mut dyn FnMut(&Message<'_>, EventKind, &T) -> Next,
    stop: Stop,
    panic: Option<Box<dyn Any + Send>>,
    stopped: bool,
}

impl<'a, T> CallbackState<'a, T> {
    pub(crate) fn new(callback: &'a mut dyn FnMut(&Message<'_>, EventKind, &T) -> Next, stop: Stop) -> Self {
        Self { callback, stop, panic: None, stopped: false }
    }

    /// When the C function has returned: resumes a panic; otherwise what it
    /// returned, where to be stopped is no failure.
    pub(crate) fn finish(self, result: c_int) -> c_int {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
        if self.stopped && self.stop == Stop::Now { result.max(0) } else { result }
    }

    /// Runs the callback, and says what the library is to do.
    pub(crate) fn run(&mut self, message: &Message<'_>, kind: EventKind, entry: &T) -> c_int {
        if !self.stopped {
            match catch_unwind(AssertUnwindSafe(|| (self.callback)(message, kind, entry))) {
                Ok(Next::Continue) => {}
                Ok(Next::Stop) => self.stopped = true,
                Err(panic) => {
                    self.panic = Some(panic);
                    self.stopped = true;
                }
            }
        }
        let verdict =
            if self.stopped && self.stop == Stop::Now { sys::NFCT_CB_STOP } else { sys::NFCT_CB_CONTINUE };
        verdict as c_int
    }
}

/// Called by the C library for each entry.
///
/// # Safety
/// `data` is null or points to a live [`CallbackState`] that nothing else
/// refers to; `entry` is null or a live object; `header` is null or begins a
/// live message of the length that it says.
unsafe extern "C" fn trampoline(
    header: *const sys::nlmsghdr,
    kind: sys::nf_conntrack_msg_type,
    entry: *mut sys::nf_conntrack,
    data: *mut c_void,
) -> c_int {
    // SAFETY: `with_callback` registered `data` as its live CallbackState, and
    // nothing else refers to it while the library runs.
    let Some(state) = (unsafe { data.cast::<CallbackState<'_, ConntrackRef>>().as_mut() }) else {
        return sys::NFCT_CB_FAILURE;
    };
    let Some(entry) = NonNull::new(entry) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library's own message, which does not leave this function.
    let Some(message) = (unsafe { message_at(header) }) else { return sys::NFCT_CB_CONTINUE as c_int };
    // SAFETY: the library passes a live object that it frees only after the
    // callback returns, and the reference does not leave this function.
    let entry = unsafe { ConntrackRef::from_ptr(entry) };
    state.run(&message, EventKind::from_library(kind), entry)
}

/// The message that the library hands to a callback.
///
/// # Safety
/// `header` is null or begins a live message of the length that it says, which
/// lives as long as `'a`.
pub(crate) unsafe fn message_at<'a>(header: *const sys::nlmsghdr) -> Option<Message<'a>> {
    // SAFETY: a live header or null; the reference ends with the statement.
    let length = (unsafe { header.as_ref() })?.nlmsg_len as usize;
    // SAFETY: the library has checked that the message is whole before it read
    // it; it stays in its buffer until the callback returns.
    let bytes = unsafe { std::slice::from_raw_parts(header.cast::<u8>(), length) };
    Messages::new(bytes).next()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::Conntrack;

    fn call(
        callback: &mut dyn FnMut(&Message<'_>, EventKind, &ConntrackRef) -> Next,
        stop: Stop,
        entry: *mut sys::nf_conntrack,
    ) -> (c_int, bool) {
        let mut state = CallbackState::new(callback, stop);
        let header = sys::nlmsghdr {
            nlmsg_len: size_of::<sys::nlmsghdr>() as u32,
            nlmsg_type: 0x100,
            nlmsg_flags: 0,
            nlmsg_seq: 7,
            nlmsg_pid: 0,
        };
        // SAFETY: a live header without a payload, a live state, and an object of the library or null.
        let answer = unsafe { trampoline(&header, sys::NFCT_T_NEW, entry, (&raw mut state).cast()) };
        (answer, state.panic.is_some())
    }

    #[test]
    fn a_panic_in_a_callback_stops_the_c_loop_and_does_not_cross_it() {
        const STOP: c_int = sys::NFCT_CB_STOP as c_int;
        const CONTINUE: c_int = sys::NFCT_CB_CONTINUE as c_int;
        let entry = Conntrack::new().unwrap();
        for (stop, verdict) in [(Stop::Now, STOP), (Stop::AtTheEnd, CONTINUE)] {
            let mut seen = 0;
            let answer = call(
                &mut |message, kind, _| {
                    assert_eq!((message.sequence, kind), (7, EventKind::New));
                    seen += 1;
                    panic!("in the callback")
                },
                stop,
                entry.as_ptr(),
            );
            assert_eq!((answer, seen), ((verdict, true), 1));
            let go_on = &mut |_: &Message<'_>, _, _: &ConntrackRef| Next::Continue;
            assert_eq!(call(go_on, stop, entry.as_ptr()), (CONTINUE, false));
            let enough = &mut |_: &Message<'_>, _, _: &ConntrackRef| Next::Stop;
            assert_eq!(call(enough, stop, entry.as_ptr()), (verdict, false));
        }
    }

    #[test]
    fn null_pointers_from_c_reach_no_callback() {
        let mut called = false;
        let (answer, _) = call(
            &mut |_, _, _| {
                called = true;
                Next::Continue
            },
            Stop::Now,
            std::ptr::null_mut(),
        );
        assert_eq!(answer, sys::NFCT_CB_CONTINUE as c_int);
        assert!(!called);
        let entry = Conntrack::new().unwrap();
        let null = std::ptr::null();
        // SAFETY: a live object, no header and no state.
        let answer = unsafe { trampoline(null, sys::NFCT_T_NEW, entry.as_ptr(), std::ptr::null_mut()) };
        assert_eq!(answer, sys::NFCT_CB_FAILURE);
    }

    #[test]
    fn a_handle_may_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Handle>();
    }
}
