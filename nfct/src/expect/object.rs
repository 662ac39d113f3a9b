//! The C library's expectation object, owned or lent: attributes by the kind of their value, comparison
//! and printing.

use std::borrow::Borrow;
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::fmt;
use std::marker::PhantomPinned;
use std::ops::Deref;
use std::ptr::NonNull;

use libc::{c_char, c_void};
use nfct_sys as sys;

use super::attribute::ExpectAttribute;
use crate::conntrack::{Compare, Conntrack, ConntrackRef, Output, printed};
use crate::error::Error;
use crate::owned::{Cloned, Object, Owned};
use crate::tuple::Tuple;

/// A borrowed expectation of the library: an [`Expect`] lends one, and a callback of
/// [`ExpectHandle`](crate::ExpectHandle) gets one.
///
/// ```no_run
/// use nfct::{ExpectGroups, ExpectHandle, ExpectRef, ExpectRequest, Family, Next};
///
/// let mut found = Vec::new();
/// let mut handle = ExpectHandle::open(ExpectGroups::NONE)?;
/// handle.query(ExpectRequest::Dump(Family::Any), |_, expect: &ExpectRef| {
///     found.extend(expect.to_expectation());
///     Next::Continue
/// })?;
/// # Ok::<(), nfct::Error>(())
/// ```
#[repr(transparent)]
pub struct ExpectRef {
    _opaque: UnsafeCell<[u8; 0]>,
    _pinned: PhantomPinned,
}

/// An expectation of the library that this program owns.
///
/// ```
/// use nfct::{Expect, Tuple};
///
/// let control = Tuple::tcp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 21));
/// let data = Tuple::tcp(([192, 168, 7, 2], 0), ([198, 51, 100, 1], 50000));
/// let mut expect = Expect::new()?;
/// expect.set_master(&control)?.set_expected(&data)?.set_helper("ftp")?;
/// assert_eq!(expect.expected(), Some(data));
/// # Ok::<(), nfct::Error>(())
/// ```
pub struct Expect {
    raw: Owned<sys::nf_expect>,
}

// SAFETY: `nfexp_destroy` frees what `nfexp_new` and `nfexp_clone` return. Expectations share no memory,
// and the library's getters do not write.
unsafe impl Object for sys::nf_expect {
    const DESTROY: unsafe extern "C" fn(*mut Self) = sys::nfexp_destroy;
}

// SAFETY: `nfexp_clone` only reads, and returns NULL when memory runs out.
unsafe impl Cloned for sys::nf_expect {
    const CLONE: unsafe extern "C" fn(*const Self) -> *mut Self = sys::nfexp_clone;
}

impl ExpectRef {
    /// # Safety
    /// `raw` is a live expectation of the library and stays so for `'a`.
    pub(super) unsafe fn from_ptr<'a>(raw: NonNull<sys::nf_expect>) -> &'a Self {
        // SAFETY: the caller vouches for the object; this type has no size and no alignment of its own,
        // and only its address is ever used.
        unsafe { raw.cast::<Self>().as_ref() }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::nf_expect {
        self._opaque.get().cast::<sys::nf_expect>()
    }

    /// Whether an attribute is set.
    ///
    /// ```
    /// # use nfct::ExpectAttribute;
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_class(0);
    /// assert!(expect.is_set(ExpectAttribute::Class) && !expect.is_set(ExpectAttribute::Flags));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_set(&self, attribute: ExpectAttribute) -> bool {
        // SAFETY: a live expectation, and one of its attributes.
        unsafe { sys::nfexp_attr_is_set(self.as_ptr(), attribute as u32) > 0 }
    }

    /// Whether two expectations are equal. Timeouts are ignored. Attributes that are not set in both are
    /// ignored too, except with [`Compare::MASK`] and [`Compare::STRICT`]. The library ignores all other
    /// flags.
    ///
    /// ```
    /// # use nfct::{Compare, Expect};
    /// let (mut a, mut b) = (Expect::new()?, Expect::new()?);
    /// a.set_helper("ftp")?;
    /// assert!(a.compare(&b, Compare::ALL) && !a.compare(&b, Compare::STRICT));
    /// b.set_helper("sip")?;
    /// assert!(!a.compare(&b, Compare::ALL));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn compare(&self, other: &ExpectRef, what: Compare) -> bool {
        // SAFETY: two live expectations, which are only read.
        unsafe { sys::nfexp_cmp(self.as_ptr(), other.as_ptr(), what.bits()) > 0 }
    }

    /// Prints the expectation as the library does. Of the output options the library uses the format, the kind
    /// of event and, in XML, the time.
    ///
    /// ```
    /// # use nfct::{EventKind, Expect, Output};
    /// let mut expect = Expect::new()?;
    /// expect.set_class(1).set_helper("ftp")?;
    /// let text = expect.print(&Output::plain().kind(EventKind::New));
    /// assert_eq!(text, "    [NEW] proto=0 class=1 helper=ftp");
    /// assert!(expect.print(&Output::xml()).contains("<helper-name>ftp</helper-name>"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn print(&self, output: &Output<'_>) -> String {
        let (format, flags, kind) = output.numbers();
        let text = printed(|buffer, size| {
            // SAFETY: `size` bytes to write to, and a live expectation, which is
            // only read.
            unsafe { sys::nfexp_snprintf(buffer, size, self.as_ptr(), kind, format, flags) }
        });
        // The library reports an error only for an unknown format.
        text.unwrap_or_default()
    }

    pub(super) fn tuple(&self, attribute: ExpectAttribute) -> Option<Tuple> {
        let raw = self.get(attribute)?.cast::<sys::nf_conntrack>();
        // SAFETY: the library returns the head of a conntrack object, which has only the original tuple, and
        // marks as set only what it has; the getters check these marks first. Only the original tuple is
        // read, and the object is not changed while it is borrowed.
        unsafe { ConntrackRef::from_ptr(raw) }.original()
    }

    pub(super) fn text(&self, attribute: ExpectAttribute) -> Option<String> {
        let raw = self.get(attribute)?.cast::<c_char>();
        // SAFETY: a string attribute points into the object, which ends it with
        // a zero byte and is not changed while it is borrowed.
        let text = unsafe { CStr::from_ptr(raw.as_ptr()) };
        Some(text.to_string_lossy().into_owned())
    }

    fn get(&self, attribute: ExpectAttribute) -> Option<NonNull<c_void>> {
        // SAFETY: a live expectation; NULL when the attribute is not set.
        let value = unsafe { sys::nfexp_get_attr(self.as_ptr(), attribute as u32) };
        NonNull::new(value.cast_mut())
    }

    pub(super) fn get_u32(&self, attribute: ExpectAttribute) -> Option<u32> {
        let set = self.is_set(attribute);
        // SAFETY: a live expectation, and an attribute of 32 bits.
        set.then(|| unsafe { sys::nfexp_get_attr_u32(self.as_ptr(), attribute as u32) })
    }
}

impl Expect {
    /// An empty expectation.
    ///
    /// ```
    /// assert_eq!(nfct::Expect::new()?.expected(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn new() -> Result<Self, Error> {
        // SAFETY: takes nothing; NULL means no memory and is checked next.
        let raw = unsafe { sys::nfexp_new() };
        // SAFETY: NULL, or a new expectation that nothing else refers to.
        let raw = unsafe { Owned::new(raw) };
        raw.map(|raw| Self { raw }).ok_or_else(|| Error::last("creating an expectation object"))
    }

    /// Unsets an attribute.
    ///
    /// ```
    /// # use nfct::ExpectAttribute;
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_class(1).unset(ExpectAttribute::Class);
    /// assert_eq!(expect.class(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn unset(&mut self, attribute: ExpectAttribute) -> &mut Self {
        // SAFETY: a live expectation that is borrowed for writing, and one of
        // its attributes.
        unsafe { sys::nfexp_attr_unset(self.as_ptr(), attribute as u32) };
        self
    }

    pub(super) fn set_tuple(
        &mut self,
        attribute: ExpectAttribute,
        tuple: &Tuple,
    ) -> Result<&mut Self, Error> {
        let mut object = Conntrack::new()?;
        object.set_original_tuple(tuple)?;
        // SAFETY: a live expectation that is borrowed for writing; the library copies the head of a live
        // conntrack object, which has only the original tuple.
        unsafe { sys::nfexp_set_attr(self.as_ptr(), attribute as u32, object.as_ptr().cast::<c_void>()) };
        Ok(self)
    }

    pub(super) fn set_u32(&mut self, attribute: ExpectAttribute, value: u32) -> &mut Self {
        // SAFETY: a live expectation that is borrowed for writing, and an
        // attribute that the library reads 32 bits for.
        unsafe { sys::nfexp_set_attr_u32(self.as_ptr(), attribute as u32, value) };
        self
    }

    pub(super) fn set_text(&mut self, attribute: ExpectAttribute, text: &str) -> &mut Self {
        let text = [text.as_bytes(), &[0]].concat();
        // SAFETY: a live expectation that is borrowed for writing; the library
        // copies the string up to the zero byte that was put at its end.
        unsafe { sys::nfexp_set_attr(self.as_ptr(), attribute as u32, text.as_ptr().cast::<c_void>()) };
        self
    }
}

/// Writes what `conntrack -L expect` prints.
impl fmt::Display for ExpectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.print(&Output::plain()))
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Deref for Expect {
    type Target = ExpectRef;

    fn deref(&self) -> &ExpectRef {
        let raw: *mut ExpectRef = self.raw.as_ptr().cast();
        // SAFETY: the expectation is live as long as `self` is; this type has no size and no alignment of
        // its own, and only its address is ever used.
        unsafe { &*raw }
    }
}

impl Clone for Expect {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone() }
    }
}

impl Borrow<ExpectRef> for Expect {
    fn borrow(&self) -> &ExpectRef {
        self
    }
}

/// A complete copy, to keep an expectation that was lent to a callback.
///
/// ```
/// let mut expect = nfct::Expect::new()?;
/// expect.set_class(7);
/// let lent: &nfct::ExpectRef = &expect;
/// assert_eq!(lent.to_owned().class(), Some(7));
/// # Ok::<(), nfct::Error>(())
/// ```
impl ToOwned for ExpectRef {
    type Owned = Expect;

    fn to_owned(&self) -> Expect {
        // SAFETY: a live expectation.
        Expect { raw: unsafe { Owned::copy_of(self.as_ptr()) } }
    }
}
