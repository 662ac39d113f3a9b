//! Objects of the C library that this crate owns. The library's functions free and copy them.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use crate::error::out_of_memory;

/// A type of the library with a function that frees its objects.
///
/// # Safety
/// `DESTROY` frees an object of this type. Two objects share no memory, and reading one does not
/// change it.
pub(crate) unsafe trait Object {
    const DESTROY: unsafe extern "C" fn(*mut Self);
}

/// A type of the library whose objects can be copied.
///
/// # Safety
/// `CLONE` reads a live object, and returns a complete copy or, when memory runs out, NULL.
pub(crate) unsafe trait Cloned: Object {
    const CLONE: unsafe extern "C" fn(*const Self) -> *mut Self;
}

/// Owns an object, and frees it on drop.
pub(crate) struct Owned<T: Object>(NonNull<T>);

// SAFETY: an object shares no memory with another, as `Object` promises.
unsafe impl<T: Object> Send for Owned<T> {}
// SAFETY: reading an object does not change it, as `Object` promises; writing needs a mutable borrow.
unsafe impl<T: Object> Sync for Owned<T> {}

impl<T: Object> Owned<T> {
    /// Takes ownership of an object. Returns `None` for NULL.
    ///
    /// # Safety
    /// `raw` is NULL, or a live object that nothing else frees.
    pub(crate) unsafe fn new(raw: *mut T) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// Leaves it to the caller to free the object.
    pub(crate) fn into_raw(self) -> NonNull<T> {
        ManuallyDrop::new(self).0
    }
}

impl<T: Cloned> Owned<T> {
    /// Copies an object that has another owner.
    ///
    /// # Safety
    /// `raw` is a live object.
    pub(crate) unsafe fn copy_of(raw: *const T) -> Self {
        // SAFETY: the caller vouches for the object; NULL means no memory and is checked next.
        let copy = unsafe { T::CLONE(raw) };
        NonNull::new(copy).map_or_else(|| out_of_memory(), Self)
    }
}

impl<T: Cloned> Clone for Owned<T> {
    fn clone(&self) -> Self {
        // SAFETY: the object is live as long as `self`.
        unsafe { Self::copy_of(self.as_ptr()) }
    }
}

impl<T: Object> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object is live, nothing else frees it, and it is never used again.
        unsafe { T::DESTROY(self.as_ptr()) }
    }
}
