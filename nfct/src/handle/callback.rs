//! Callbacks from C.
//!
//! A panic must not unwind through C. [`CallbackState`], to which the library's `data`
//! pointer points, catches the panic, stops the C loop, and resumes the panic after
//! the C function has returned.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use libc::c_int;
use nfct_sys as sys;

use crate::event::EventKind;
use crate::wire::{Message, Messages};

/// What a callback returns: whether to continue.
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
    /// Continue with the next object.
    Continue,
    /// Stop.
    Stop,
}

/// When the C loop ends after a callback has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// At once. Unread data stays in the socket.
    Now,
    /// At the end of the answer, without calling the callback again.
    AtTheEnd,
}

/// The state to which the library's `data` pointer points. `T` is the type of the
/// object that the callback borrows.
pub(super) struct CallbackState<'a, T> {
    callback: &'a mut dyn FnMut(&Message<'_>, EventKind, &T) -> Next,
    stop: Stop,
    panic: Option<Box<dyn Any + Send>>,
    stopped: bool,
}

impl<'a, T> CallbackState<'a, T> {
    pub(super) fn new(callback: &'a mut dyn FnMut(&Message<'_>, EventKind, &T) -> Next, stop: Stop) -> Self {
        Self { callback, stop, panic: None, stopped: false }
    }

    /// Ends the use of the callback after the C function has returned `result`: resumes
    /// a panic, or returns the result. A stop is success.
    pub(super) fn finish(self, result: c_int) -> c_int {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
        if self.stopped && self.stop == Stop::Now { result.max(0) } else { result }
    }

    /// Runs the callback and returns the verdict for the library.
    pub(super) fn run(&mut self, message: &Message<'_>, kind: EventKind, entry: &T) -> c_int {
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

    #[cfg(test)]
    pub(super) fn has_panicked(&self) -> bool {
        self.panic.is_some()
    }
}

/// The message that the library passes to a callback.
///
/// # Safety
/// `header` is null, or begins a live message of the length that it names. The
/// message lives as long as `'a`.
pub(super) unsafe fn message_at<'a>(header: *const sys::nlmsghdr) -> Option<Message<'a>> {
    // SAFETY: a live header or null; the reference ends with the statement.
    let length = (unsafe { header.as_ref() })?.nlmsg_len as usize;
    // SAFETY: the library has checked that the message is complete before it
    // read it. The message stays in its buffer until the callback returns.
    let bytes = unsafe { std::slice::from_raw_parts(header.cast::<u8>(), length) };
    Messages::new(bytes).next()?.ok()
}
