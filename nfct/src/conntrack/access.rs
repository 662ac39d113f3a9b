//! Reading, setting and unsetting one attribute.

use std::fmt;

use nfct_sys as sys;

use super::attr::{self, Attribute, Id};
use super::object::{Conntrack, ConntrackRef};
use crate::error::Error;

impl ConntrackRef {
    /// The value of an attribute, or `None` if it is not set.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let entry = Conntrack::new()?;
    /// assert_eq!(entry.get(attr::ORIG_COUNTER_BYTES), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn get<T>(&self, attribute: Attribute<T>) -> Option<T> {
        attribute.read(self)
    }

    /// Whether an attribute is set; `false` for one that the installed library does not know.
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
        self.has(attribute.into().number())
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
        // SAFETY: a live object and `count` numbers: an Id is one number. The library rejects unknown ones.
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
}

impl Conntrack {
    /// Sets an attribute.
    ///
    /// Some attributes share memory and exclude each other: addresses of IPv4 and IPv6, ports
    /// and ICMP details, the states of TCP, SCTP and DCCP. Setting one of them unsets the other.
    ///
    /// ```
    /// use nfct::{Conntrack, attr};
    ///
    /// let mut entry = Conntrack::new()?;
    /// entry.set(attr::ZONE, 5)?.set(attr::HELPER_NAME, "ftp".to_owned())?;
    /// let error = entry.set(attr::USE, 1).unwrap_err();
    /// assert_eq!(error.to_string(), "setting ATTR_USE: it is read-only: only the kernel sets it");
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for an attribute that only the kernel sets, [`Error::Library`] for one that the
    /// installed library does not know, [`Error::Invalid`] for a value that is too long.
    pub fn set<T>(&mut self, attribute: Attribute<T>, value: T) -> Result<&mut Self, Error> {
        let id = attribute.id();
        if !self.knows(id.number()) {
            return Err(Error::Library { doing: "setting an attribute", needs: "1.1.1", lacks: id.name() });
        }
        if id.is_read_only() {
            return Err(Error::ReadOnly { attribute: id.name() });
        }
        if id == attr::HELPER_INFO.id() {
            let mut with_info = self.without_helper_info();
            attribute.write(&mut with_info, value)?;
            *self = with_info;
            return Ok(self);
        }
        self.unset_overlapping(id.number());
        attribute.write(self, value)?;
        self.refresh_derived(id.number());
        Ok(self)
    }

    /// Sets an attribute that every release of the library knows and that accepts every value of its type:
    /// any settable attribute except text and a helper's data.
    pub(super) fn put<T>(&mut self, attribute: Attribute<T>, value: T) -> &mut Self {
        self.unset_overlapping(attribute.id().number());
        // Such a value is never rejected.
        let _ = attribute.write(self, value);
        self.refresh_derived(attribute.id().number());
        self
    }

    /// Unsets an attribute.
    ///
    /// The library always writes complete tuples into messages. If the protocol has ports, it writes a port
    /// that was unset with its old value.
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
            *self = self.without_helper_info();
        } else {
            self.clear(id.number());
        }
        self
    }
}

/// The attributes that are set, with their values.
impl fmt::Debug for ConntrackRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(attr::show(self)).finish()
    }
}

impl fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
