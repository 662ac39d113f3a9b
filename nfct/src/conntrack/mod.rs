//! The C library's conntrack object: built by hand to be sent to the kernel,
//! read from a message, or lent to a callback.
//!
//! The library trusts its callers: a getter or setter of the wrong width reads
//! or writes past a value, setting a read-only attribute marks it as set
//! without a value, the helper's data keep the length of the data before them,
//! and two attributes may share memory. Here [`attr`] gives each attribute its
//! type, this module keeps those that share memory apart, `helper_info` keeps
//! the length right, and `parse` reads nothing that would make the library
//! end the process.

pub mod attr;
mod codec;
mod compare;
mod copy;
mod fields;
mod group;
mod helper_info;
mod nat;
pub(crate) mod output;
pub(crate) mod parse;

use std::borrow::Borrow;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomPinned;
use std::ops::Deref;
use std::ptr::NonNull;

use nfct_sys as sys;

use crate::error::{Error, out_of_memory};
use attr::{Attribute, Id};
pub use compare::Compare;
pub use copy::Parts;
pub use fields::Counters;
pub use output::Output;

/// An object of the library that someone else owns.
#[repr(transparent)]
pub struct ConntrackRef {
    _opaque: UnsafeCell<[u8; 0]>,
    _pinned: PhantomPinned,
}

/// An object of the library that is ours.
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
    raw: NonNull<sys::nf_conntrack>,
}

// SAFETY: an object holds its own memory and the library shares none between
// objects; `&self` only reads it and `&mut self` is needed to write. What the
// library prints through memory of its own is guarded by a lock in `output`.
unsafe impl Send for Conntrack {}
// SAFETY: as above: every method that takes `&self` only reads.
unsafe impl Sync for Conntrack {}

impl ConntrackRef {
    /// # Safety
    /// `raw` is a live object of the library and stays so for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(raw: NonNull<sys::nf_conntrack>) -> &'a Self {
        // SAFETY: the caller vouches for the object; this type has no size and
        // no alignment of its own, and only its address is ever used.
        unsafe { raw.cast::<Self>().as_ref() }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::nf_conntrack {
        self._opaque.get().cast::<sys::nf_conntrack>()
    }

    /// The value of an attribute, or `None` where it is not set.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let entry = Conntrack::new()?;
    /// assert_eq!(entry.get(attr::ORIG_COUNTER_BYTES), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn get<T>(&self, attribute: Attribute<T>) -> Option<T> {
        (attribute.read)(self, attribute.id())
    }

    /// Whether an attribute is set; never one that the installed library does not know.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let mut entry = Conntrack::new()?;
    /// assert!(!entry.is_set(attr::MARK));
    /// assert!(entry.set_mark(0).is_set(attr::MARK));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_set(&self, attribute: impl Into<Id>) -> bool {
        // SAFETY: a live object; an attribute past the library's last is refused.
        unsafe { sys::nfct_attr_is_set(self.as_ptr(), attribute.into().number()) > 0 }
    }

    /// Whether all of these attributes are set.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let mut entry = Conntrack::new()?;
    /// entry.set_mark(7);
    /// assert!(entry.are_set(&[attr::MARK.id()]));
    /// assert!(!entry.are_set(&[attr::MARK.id(), attr::ZONE.id()]));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn are_set(&self, attributes: &[Id]) -> bool {
        let Ok(count) = libc::c_int::try_from(attributes.len()) else { return false };
        let numbers = attributes.as_ptr().cast::<sys::nf_conntrack_attr>();
        // SAFETY: a live object and `count` numbers, which is all that an Id is; unknown ones are refused.
        unsafe { sys::nfct_attr_is_set_array(self.as_ptr(), numbers, count) > 0 }
    }

    /// The attributes that are set.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let mut entry = Conntrack::new()?;
    /// entry.set_mark(7);
    /// assert!(entry.attributes().eq([attr::MARK.id()]));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn attributes(&self) -> impl Iterator<Item = Id> + '_ {
        attr::all().filter(|id| self.is_set(*id))
    }

    /// Whether the installed library knows an attribute.
    fn knows(&self, id: Id) -> bool {
        // SAFETY: a live object; an attribute past the library's last is refused.
        unsafe { sys::nfct_attr_is_set(self.as_ptr(), id.number()) >= 0 }
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
        NonNull::new(raw).map(|raw| Self { raw }).ok_or_else(|| Error::last("making a conntrack object"))
    }

    /// Sets an attribute.
    ///
    /// Where two attributes can't hold for one entry, and lie in the same
    /// memory, the one that was set first is forgotten: addresses of IPv4 and
    /// IPv6, ports and ICMP details, the states of TCP, SCTP and DCCP.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let mut entry = Conntrack::new()?;
    /// entry.set(attr::ZONE, 5)?.set(attr::HELPER_NAME, "ftp".to_owned())?;
    /// let error = entry.set(attr::USE, 1).unwrap_err();
    /// assert_eq!(error.to_string(), "setting ATTR_USE: it is read-only: the kernel alone sets it");
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for what the kernel alone sets, [`Error::Library`]
    /// for what the installed library does not know, [`Error::Invalid`] for a
    /// value that is too long.
    pub fn set<T>(&mut self, attribute: Attribute<T>, value: T) -> Result<&mut Self, Error> {
        let id = attribute.id();
        if !self.knows(id) {
            return Err(Error::Library { doing: "setting an attribute", needs: "1.1.1", lacks: id.name() });
        }
        if id.is_read_only() {
            return Err(Error::ReadOnly { attribute: id.name() });
        }
        self.make_room_for(id);
        (attribute.write)(self, id, value)?;
        self.settle(id);
        Ok(self)
    }

    /// Sets an attribute that every library knows, that can be set, and that
    /// takes every value of its type: all but texts and a helper's data.
    fn put<T>(&mut self, attribute: Attribute<T>, value: T) -> &mut Self {
        self.make_room_for(attribute.id());
        // Such a value is never refused.
        let _ = (attribute.write)(self, attribute.id(), value);
        self.settle(attribute.id());
        self
    }

    /// Forgets an attribute.
    ///
    /// The library writes tuples into messages whole: a port that was
    /// forgotten, of a tuple whose protocol has ports, with the value it had.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let mut entry = Conntrack::new()?;
    /// entry.set_mark(7).unset(attr::MARK);
    /// assert_eq!(entry.mark(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn unset(&mut self, attribute: impl Into<Id>) -> &mut Self {
        let id = attribute.into();
        if id == attr::HELPER_INFO.id() {
            self.forget_helper_info();
        } else {
            // SAFETY: a live object that is borrowed for writing; an unknown attribute is refused.
            unsafe { sys::nfct_attr_unset(self.as_ptr(), id.number()) };
        }
        self
    }

    /// Forgets what lies in the memory that `id` is about to be written to.
    fn make_room_for(&mut self, id: Id) {
        for group in SHARED {
            let mine = group.iter().position(|alternative| alternative.contains(&id));
            for (at, alternative) in group.iter().enumerate() {
                if mine.is_some_and(|mine| mine != at) {
                    for other in *alternative {
                        self.unset(*other);
                    }
                }
            }
        }
    }

    /// Does again what the library derives from an attribute only while another one is set: the type
    /// of an ICMP answer, which depends on the network protocol.
    fn settle(&mut self, id: Id) {
        if id == attr::ORIG_L3PROTO.id() {
            if let Some(kind) = self.get(attr::ICMP_TYPE) {
                self.put(attr::ICMP_TYPE, kind);
            }
        }
    }
}

/// Attributes that lie in the same memory: of each row's alternatives one can be set.
const SHARED: &[&[&[Id]]] = {
    use attr::*;
    &[
        &[&[ORIG_IPV4_SRC.id()], &[ORIG_IPV6_SRC.id()]],
        &[&[ORIG_IPV4_DST.id()], &[ORIG_IPV6_DST.id()]],
        &[&[REPL_IPV4_SRC.id()], &[REPL_IPV6_SRC.id()]],
        &[&[REPL_IPV4_DST.id()], &[REPL_IPV6_DST.id()]],
        &[&[MASTER_IPV4_SRC.id()], &[MASTER_IPV6_SRC.id()]],
        &[&[MASTER_IPV4_DST.id()], &[MASTER_IPV6_DST.id()]],
        &[&[SNAT_IPV4.id()], &[SNAT_IPV6.id()]],
        &[&[DNAT_IPV4.id()], &[DNAT_IPV6.id()]],
        &[
            &[ORIG_PORT_SRC.id(), ORIG_PORT_DST.id(), REPL_PORT_SRC.id(), REPL_PORT_DST.id()],
            &[ICMP_TYPE.id(), ICMP_CODE.id(), ICMP_ID.id()],
        ],
        &[
            &[
                TCP_STATE.id(),
                TCP_FLAGS_ORIG.id(),
                TCP_FLAGS_REPL.id(),
                TCP_MASK_ORIG.id(),
                TCP_MASK_REPL.id(),
                TCP_WSCALE_ORIG.id(),
                TCP_WSCALE_REPL.id(),
            ],
            &[SCTP_STATE.id(), SCTP_VTAG_ORIG.id(), SCTP_VTAG_REPL.id()],
            &[DCCP_STATE.id(), DCCP_ROLE.id(), DCCP_HANDSHAKE_SEQ.id()],
        ],
    ]
};

impl Deref for Conntrack {
    type Target = ConntrackRef;

    fn deref(&self) -> &ConntrackRef {
        // SAFETY: the object is live as long as `self` is.
        unsafe { ConntrackRef::from_ptr(self.raw) }
    }
}

impl Borrow<ConntrackRef> for Conntrack {
    fn borrow(&self) -> &ConntrackRef {
        self
    }
}

/// A whole copy, to keep what a callback was lent.
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
        // SAFETY: a live object; NULL means no memory and is checked next.
        let raw = unsafe { sys::nfct_clone(self.as_ptr()) };
        NonNull::new(raw).map_or_else(|| out_of_memory(), |raw| Conntrack { raw })
    }
}

impl Clone for Conntrack {
    fn clone(&self) -> Self {
        (**self).to_owned()
    }
}

/// The attributes that are set, with their values.
impl fmt::Debug for ConntrackRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.attributes().map(|id| (id, self.show(id)))).finish()
    }
}

impl fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        // SAFETY: the object came from the library and is never used again.
        unsafe { sys::nfct_destroy(self.raw.as_ptr()) }
    }
}
