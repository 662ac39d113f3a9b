//! The library's conntrack object, owned or lent, with its attributes by number.
//!
//! Nothing here checks types: `access` adds them, and handles attributes that share memory.

use std::borrow::Borrow;
use std::cell::UnsafeCell;
use std::marker::PhantomPinned;
use std::ops::Deref;
use std::ptr::NonNull;

use libc::c_void;
use nfct_sys as sys;

use crate::error::Error;
use crate::owned::{Cloned, Object, Owned};

/// A borrowed object of the library: a [`Conntrack`] lends one, and a callback of
/// [`Handle`](crate::Handle) gets one.
#[repr(transparent)]
pub struct ConntrackRef {
    _opaque: UnsafeCell<[u8; 0]>,
    _pinned: PhantomPinned,
}

/// An object of the library that this program owns.
///
/// ```
/// use std::time::Duration;
/// use nfct::{Conntrack, Status, TcpState, attr};
///
/// let mut entry = Conntrack::new()?;
/// entry.set_timeout(Duration::from_secs(300)).set_tcp_state(TcpState::Established);
/// entry.set(attr::STATUS, Status::ASSURED)?;
/// assert_eq!(entry.timeout(), Some(Duration::from_secs(300)));
/// # Ok::<(), nfct::Error>(())
/// ```
pub struct Conntrack {
    raw: Owned<sys::nf_conntrack>,
}

// SAFETY: `nfct_destroy` frees what `nfct_new` and `nfct_clone` return. Objects share no memory, and the
// library's getters do not write. What it prints through memory of its own is guarded by a lock in `output`.
unsafe impl Object for sys::nf_conntrack {
    const DESTROY: unsafe extern "C" fn(*mut Self) = sys::nfct_destroy;
}

// SAFETY: `nfct_clone` only reads, and returns NULL when memory runs out.
unsafe impl Cloned for sys::nf_conntrack {
    const CLONE: unsafe extern "C" fn(*const Self) -> *mut Self = sys::nfct_clone;
}

impl ConntrackRef {
    /// # Safety
    /// `raw` is a live object of the library and stays so for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(raw: NonNull<sys::nf_conntrack>) -> &'a Self {
        // SAFETY: the caller vouches for the object; this type has no size and no alignment of its own,
        // and only its address is ever used.
        unsafe { raw.cast::<Self>().as_ref() }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::nf_conntrack {
        self._opaque.get().cast::<sys::nf_conntrack>()
    }

    /// Whether an attribute is set.
    pub(super) fn has(&self, number: u32) -> bool {
        // SAFETY: a live object; the library rejects a number past its last attribute.
        unsafe { sys::nfct_attr_is_set(self.as_ptr(), number) > 0 }
    }

    /// Whether the installed library knows an attribute.
    pub(super) fn knows(&self, number: u32) -> bool {
        // SAFETY: a live object; the library rejects a number past its last attribute.
        unsafe { sys::nfct_attr_is_set(self.as_ptr(), number) >= 0 }
    }

    /// The address of an attribute's value in the object. `None` if it is not set.
    pub(super) fn pointer(&self, number: u32) -> Option<NonNull<c_void>> {
        // SAFETY: a live object; NULL when the attribute is not set, or not known.
        let value = unsafe { sys::nfct_get_attr(self.as_ptr(), number) };
        NonNull::new(value.cast_mut())
    }
}

impl Conntrack {
    /// An empty object.
    ///
    /// ```
    /// assert_eq!(nfct::Conntrack::new()?.attributes().count(), 0);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn new() -> Result<Self, Error> {
        // SAFETY: takes nothing; NULL means no memory and is checked next.
        let raw = unsafe { sys::nfct_new() };
        // SAFETY: NULL, or a new object that nothing else refers to.
        let raw = unsafe { Owned::new(raw) };
        raw.map(|raw| Self { raw }).ok_or_else(|| Error::last("creating a conntrack object"))
    }

    /// Makes the library copy an attribute's value from `value`, or take over a bitmask.
    ///
    /// # Safety
    /// `value` points to a value of the attribute's kind: a number of its width, 16 bytes of an IPv6 address, a
    /// C string, or a bitmask that nothing else frees.
    pub(super) unsafe fn set_pointer(&mut self, number: u32, value: *const c_void) {
        // SAFETY: a live object that is borrowed for writing; the caller vouches for the value.
        unsafe { sys::nfct_set_attr(self.as_ptr(), number, value) }
    }

    /// Marks an attribute as not set.
    pub(super) fn clear(&mut self, number: u32) {
        // SAFETY: a live object that is borrowed for writing; the library rejects an unknown attribute.
        unsafe { sys::nfct_attr_unset(self.as_ptr(), number) };
    }

    /// Makes the library read attributes of a message into this object.
    ///
    /// # Safety
    /// The attributes are inside `attributes`, and have the sizes that the parser expects.
    ///
    /// # Errors
    /// The library's error.
    pub(super) unsafe fn read_attributes(
        &mut self,
        attributes: &[u8],
        family: u8,
        doing: &'static str,
    ) -> Result<(), Error> {
        let aligned = aligned(attributes);
        let start = aligned.as_ptr().cast::<c_void>();
        // SAFETY: that many bytes, aligned to four, for which the caller vouches, and a live object that is
        // borrowed for writing.
        let result =
            unsafe { sys::nfct_payload_parse(start, attributes.len(), family.into(), self.as_ptr()) };
        if result < 0 { Err(Error::last(doing)) } else { Ok(()) }
    }
}

/// A copy aligned to four bytes, as the library expects a message.
fn aligned(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| {
        let mut padded = [0; 4];
        padded[..bytes.len()].copy_from_slice(bytes);
        u32::from_ne_bytes(padded)
    };
    bytes.chunks(4).map(word).collect()
}

impl Deref for Conntrack {
    type Target = ConntrackRef;

    fn deref(&self) -> &ConntrackRef {
        let raw: *mut ConntrackRef = self.raw.as_ptr().cast();
        // SAFETY: the object is live as long as `self` is; this type has no size and no alignment of its
        // own, and only its address is ever used.
        unsafe { &*raw }
    }
}

impl Clone for Conntrack {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone() }
    }
}

impl Borrow<ConntrackRef> for Conntrack {
    fn borrow(&self) -> &ConntrackRef {
        self
    }
}

/// A complete copy, to keep an object that was lent to a callback.
///
/// ```
/// let mut entry = nfct::Conntrack::new()?;
/// entry.set_mark(7);
/// let lent: &nfct::ConntrackRef = &entry;
/// assert_eq!(lent.to_owned().mark(), Some(7));
/// # Ok::<(), nfct::Error>(())
/// ```
impl ToOwned for ConntrackRef {
    type Owned = Conntrack;

    fn to_owned(&self) -> Conntrack {
        // SAFETY: a live object.
        Conntrack { raw: unsafe { Owned::copy_of(self.as_ptr()) } }
    }
}
