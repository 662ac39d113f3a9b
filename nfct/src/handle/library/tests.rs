//! The trampoline as C calls it. The tests are generic: each subsystem runs them
//! with an object of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

fn header() -> sys::nlmsghdr {
    let nlmsg_len = size_of::<sys::nlmsghdr>() as u32;
    sys::nlmsghdr { nlmsg_len, nlmsg_type: 0x100, nlmsg_flags: 0, nlmsg_seq: 7, nlmsg_pid: 0 }
}

type Closure<'a, S> = &'a mut dyn FnMut(&Message<'_>, EventKind, &<S as Subsystem>::Object) -> Next;

/// The trampoline's verdict, and whether it has caught a panic.
fn call<S: Subsystem>(callback: Closure<'_, S>, stop: Stop, object: *mut S::Raw) -> (c_int, bool) {
    let mut state = CallbackState::new(callback, stop);
    let header = header();
    // SAFETY: a live header without a payload, a live state, and an object of the library or null.
    let verdict = unsafe { trampoline::<S>(&header, sys::NFCT_T_NEW, object, (&raw mut state).cast()) };
    (verdict, state.has_panicked())
}

/// A panic in a callback stops the C loop, does not cross it, and continues after it.
pub(crate) fn a_panic_stays_on_the_rust_side<S: Subsystem>(object: *mut S::Raw) {
    const STOP: c_int = sys::NFCT_CB_STOP as c_int;
    const CONTINUE: c_int = sys::NFCT_CB_CONTINUE as c_int;
    for (stop, verdict) in [(Stop::Now, STOP), (Stop::AtTheEnd, CONTINUE)] {
        let mut seen = 0;
        let panics: Closure<'_, S> = &mut |message, kind, _| {
            assert_eq!((message.sequence, kind), (7, EventKind::New));
            seen += 1;
            panic!("in the callback")
        };
        assert_eq!(call::<S>(panics, stop, object), (verdict, true));
        assert_eq!(seen, 1);
        assert_eq!(call::<S>(&mut |_, _, _| Next::Continue, stop, object), (CONTINUE, false));
        assert_eq!(call::<S>(&mut |_, _, _| Next::Stop, stop, object), (verdict, false));
    }
    let panics: Closure<'_, S> = &mut |_, _, _| panic!("in the callback");
    let mut state = CallbackState::new(panics, Stop::Now);
    let header = header();
    // SAFETY: a live header, object and state.
    let verdict = unsafe { trampoline::<S>(&header, sys::NFCT_T_NEW, object, (&raw mut state).cast()) };
    assert_eq!(verdict, STOP);
    let result = catch_unwind(AssertUnwindSafe(|| state.finish(0)));
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&"in the callback"));
}

/// A stop is not a failure of the C function. Any other result is returned unchanged.
pub(crate) fn a_stop_is_no_failure<S: Subsystem>(object: *mut S::Raw) {
    for (next, result) in [(Next::Continue, -1), (Next::Stop, 0)] {
        let mut callback = |_: &Message<'_>, _: EventKind, _: &S::Object| next;
        let mut state = CallbackState::new(&mut callback, Stop::Now);
        let header = header();
        // SAFETY: a live header, object and state.
        unsafe { trampoline::<S>(&header, sys::NFCT_T_NEW, object, (&raw mut state).cast()) };
        assert_eq!(state.finish(-1), result);
    }
}

/// Null pointers from C reach no callback.
pub(crate) fn null_pointers_reach_no_callback<S: Subsystem>(object: *mut S::Raw) {
    let mut called = false;
    let mut callback = |_: &Message<'_>, _: EventKind, _: &S::Object| {
        called = true;
        Next::Continue
    };
    let (verdict, _) = call::<S>(&mut callback, Stop::Now, std::ptr::null_mut());
    assert_eq!(verdict, sys::NFCT_CB_CONTINUE as c_int);
    let mut state = CallbackState::new(&mut callback, Stop::Now);
    // SAFETY: no header, a live object and a live state.
    let verdict =
        unsafe { trampoline::<S>(std::ptr::null(), sys::NFCT_T_NEW, object, (&raw mut state).cast()) };
    assert_eq!(verdict, sys::NFCT_CB_CONTINUE as c_int);
    assert!(!called);
    let header = header();
    // SAFETY: a live header and object, and no state.
    let verdict = unsafe { trampoline::<S>(&header, sys::NFCT_T_NEW, object, std::ptr::null_mut()) };
    assert_eq!(verdict, sys::NFCT_CB_FAILURE);
}

/// A handle may move to another thread.
pub(crate) fn a_handle_may_move<S: Subsystem>() {
    fn is_send<T: Send>() {}
    is_send::<LibraryHandle<S>>();
}
