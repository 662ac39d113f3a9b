//! The C library's expectation object: built by hand to be sent to the kernel,
//! or lent to a callback.

use std::borrow::Borrow;
use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::fmt;
use std::marker::PhantomPinned;
use std::ops::Deref;
use std::ptr::NonNull;
use std::time::Duration;

use libc::{c_char, c_void};
use nfct_sys as sys;

use super::expectation::{ExpectFlags, ExpectNat, Expectation, check_function, check_helper};
use crate::conntrack::output::printed;
use crate::conntrack::{Compare, Conntrack, ConntrackRef, Output};
use crate::direction::Direction;
use crate::error::{Error, out_of_memory};
use crate::tuple::Tuple;
use crate::wire::Messages;

/// What an expectation of the library may hold (`enum nf_expect_attr`).
///
/// ```
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Expect, ExpectAttribute};
///
/// let mut expect = Expect::new()?;
/// expect.set_zone(7);
/// assert!(expect.is_set(ExpectAttribute::Zone));
/// expect.unset(ExpectAttribute::Zone);
/// assert_eq!(expect.zone(), None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ExpectAttribute {
    /// The original tuple of the connection that it belongs to.
    Master = sys::ATTR_EXP_MASTER,
    /// The tuple of the expected connection.
    Expected = sys::ATTR_EXP_EXPECTED,
    /// Which bits of it count.
    Mask = sys::ATTR_EXP_MASK,
    /// Seconds until the kernel expects it no longer.
    Timeout = sys::ATTR_EXP_TIMEOUT,
    /// Conntrack zone.
    Zone = sys::ATTR_EXP_ZONE,
    /// What kind of expectation it is.
    Flags = sys::ATTR_EXP_FLAGS,
    /// The helper of the expected connection.
    Helper = sys::ATTR_EXP_HELPER_NAME,
    /// Which of its helper's policies holds.
    Class = sys::ATTR_EXP_CLASS,
    /// What NAT makes of the expected connection's own end.
    NatTuple = sys::ATTR_EXP_NAT_TUPLE,
    /// The master's direction in which the expected connection runs.
    NatDirection = sys::ATTR_EXP_NAT_DIR,
    /// What the kernel runs when the expected connection comes.
    Function = sys::ATTR_EXP_FN,
}

impl ExpectAttribute {
    /// All of them.
    ///
    /// ```
    /// let expect = nfct::Expect::new()?;
    /// assert!(nfct::ExpectAttribute::ALL.iter().all(|attribute| !expect.is_set(*attribute)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub const ALL: [ExpectAttribute; sys::ATTR_EXP_MAX as usize] = {
        use ExpectAttribute::*;
        [Master, Expected, Mask, Timeout, Zone, Flags, Helper, Class, NatTuple, NatDirection, Function]
    };
}

/// An expectation of the library that someone else owns: lent to a callback of
/// [`ExpectHandle`](crate::ExpectHandle), or by an [`Expect`].
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{ExpectGroups, ExpectHandle, ExpectRef, ExpectRequest, Family, Next};
///
/// let mut found = Vec::new();
/// let mut handle = ExpectHandle::open(ExpectGroups::NONE)?;
/// handle.query(ExpectRequest::Dump(Family::Any), |_, expect: &ExpectRef| {
///     found.extend(expect.to_expectation());
///     Next::Continue
/// })?;
/// # Ok(())
/// # }
/// ```
#[repr(transparent)]
pub struct ExpectRef {
    _opaque: UnsafeCell<[u8; 0]>,
    _pinned: PhantomPinned,
}

impl ExpectRef {
    /// # Safety
    /// `raw` is a live expectation of the library and stays so for `'a`.
    pub(super) unsafe fn from_ptr<'a>(raw: NonNull<sys::nf_expect>) -> &'a Self {
        // SAFETY: the caller vouches for the object; this type has no size and
        // no alignment of its own, and only its address is ever used.
        unsafe { raw.cast::<Self>().as_ref() }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::nf_expect {
        self._opaque.get().cast::<sys::nf_expect>()
    }

    /// The original tuple of the connection that it belongs to.
    ///
    /// ```
    /// # use nfct::{Expect, Layer4, Protocol, Tuple};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let tuple = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 1, dst: 21 }, zone: 0 };
    /// let mut expect = Expect::new()?;
    /// assert_eq!(expect.master(), None);
    /// expect.set_master(&tuple)?;
    /// assert_eq!(expect.master(), Some(tuple));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn master(&self) -> Option<Tuple> {
        self.tuple(ExpectAttribute::Master)
    }

    /// The tuple of the expected connection, as far as [`mask`](Self::mask) asks.
    ///
    /// ```
    /// # use nfct::{Expect, Layer4, Protocol, Tuple};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let tuple = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 0, dst: 50000 }, zone: 0 };
    /// let mut expect = Expect::new()?;
    /// expect.set_expected(&tuple)?;
    /// assert_eq!(expect.expected(), Some(tuple));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn expected(&self) -> Option<Tuple> {
        self.tuple(ExpectAttribute::Expected)
    }

    /// Which bits of the expected tuple count.
    ///
    /// ```
    /// # use nfct::{Expect, Layer4, Protocol, Tuple};
    /// # let ip = "255.255.255.255".parse().unwrap();
    /// # let mask = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 0, dst: 0xffff }, zone: 0 };
    /// let mut expect = Expect::new()?;
    /// expect.set_mask(&mask)?;
    /// assert_eq!(expect.mask(), Some(mask));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn mask(&self) -> Option<Tuple> {
        self.tuple(ExpectAttribute::Mask)
    }

    /// How the expected connection is to be translated.
    ///
    /// ```
    /// # use nfct::{Expect, Layer4, Protocol, Tuple};
    /// use nfct::{Direction, ExpectNat};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let tuple = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 50000, dst: 0 }, zone: 0 };
    /// let mut expect = Expect::new()?;
    /// let nat = ExpectNat { tuple, direction: Direction::Reply };
    /// expect.set_nat(&nat)?;
    /// assert_eq!(expect.nat(), Some(nat));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn nat(&self) -> Option<ExpectNat> {
        let tuple = self.tuple(ExpectAttribute::NatTuple)?;
        let direction = match self.get_u32(ExpectAttribute::NatDirection) {
            None | Some(0) => Direction::Original,
            Some(_) => Direction::Reply,
        };
        Some(ExpectNat { tuple, direction })
    }

    /// How long the kernel still expects it, in whole seconds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_timeout(Duration::from_secs(300));
    /// assert_eq!(expect.timeout(), Some(Duration::from_secs(300)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn timeout(&self) -> Option<Duration> {
        self.get_u32(ExpectAttribute::Timeout).map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Conntrack zone, where one was set.
    ///
    /// ```
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_zone(7);
    /// assert_eq!(expect.zone(), Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn zone(&self) -> Option<u16> {
        let set = self.is_set(ExpectAttribute::Zone);
        // SAFETY: a live expectation, and its attribute of sixteen bits.
        set.then(|| unsafe { sys::nfexp_get_attr_u16(self.as_ptr(), sys::ATTR_EXP_ZONE) })
    }

    /// What kind of expectation it is.
    ///
    /// ```
    /// # use nfct::ExpectFlags;
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_flags(ExpectFlags::PERMANENT);
    /// assert_eq!(expect.flags(), Some(ExpectFlags::PERMANENT));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn flags(&self) -> Option<ExpectFlags> {
        self.get_u32(ExpectAttribute::Flags).map(ExpectFlags)
    }

    /// Which of its helper's policies holds.
    ///
    /// ```
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_class(1);
    /// assert_eq!(expect.class(), Some(1));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn class(&self) -> Option<u32> {
        self.get_u32(ExpectAttribute::Class)
    }

    /// The helper that reads along in the expected connection.
    ///
    /// ```
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_helper("ftp")?;
    /// assert_eq!(expect.helper().as_deref(), Some("ftp"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn helper(&self) -> Option<String> {
        self.text(ExpectAttribute::Helper)
    }

    /// What the kernel runs when the expected connection comes.
    ///
    /// ```
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_function("nat-follow-master")?;
    /// assert_eq!(expect.function().as_deref(), Some("nat-follow-master"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn function(&self) -> Option<String> {
        self.text(ExpectAttribute::Function)
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

    /// As a plain value, or `None` while one of its three tuples is not set.
    /// What else is not set is `None`, 0 for zone, flags and class.
    ///
    /// ```
    /// # use nfct::{Expect, Expectation, Layer4, Protocol, Tuple};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let tuple = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 1, dst: 21 }, zone: 0 };
    /// let expectation = Expectation::new(tuple, tuple);
    /// let expect = Expect::from_expectation(&expectation)?;
    /// assert_eq!(expect.to_expectation(), Some(expectation));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn to_expectation(&self) -> Option<Expectation> {
        Some(Expectation {
            master: self.master()?,
            expected: self.expected()?,
            mask: self.mask()?,
            nat: self.nat(),
            timeout: self.get_u32(ExpectAttribute::Timeout),
            id: None,
            zone: self.zone().unwrap_or(0),
            flags: self.flags().unwrap_or_default(),
            class: self.class().unwrap_or(0),
            helper: self.helper(),
            function: self.function(),
        })
    }

    /// Whether two expectations are the same; their time-outs never count, and
    /// what is not set in both does not either, but for [`Compare::MASK`] and
    /// [`Compare::STRICT`]. Of `what` the library minds these two.
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

    /// What the library prints of it. Of `output` it minds the format, the kind
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
        // The library refuses only a format that it does not know.
        text.unwrap_or_default()
    }

    fn tuple(&self, attribute: ExpectAttribute) -> Option<Tuple> {
        let raw = self.get(attribute)?.cast::<sys::nf_conntrack>();
        // SAFETY: the library hands out the head of a conntrack object, of which
        // the original tuple alone is there and marked as set; its getters look
        // at those marks first. Nothing but the original tuple is asked for, and
        // the object is not changed while it is borrowed.
        unsafe { ConntrackRef::from_ptr(raw) }.original()
    }

    fn text(&self, attribute: ExpectAttribute) -> Option<String> {
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

    fn get_u32(&self, attribute: ExpectAttribute) -> Option<u32> {
        let set = self.is_set(attribute);
        // SAFETY: a live expectation, and an attribute of 32 bits.
        set.then(|| unsafe { sys::nfexp_get_attr_u32(self.as_ptr(), attribute as u32) })
    }
}

/// As `conntrack -L expect` prints it.
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

impl fmt::Debug for ExpectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expect")
            .field("expected", &self.expected())
            .field("mask", &self.mask())
            .field("master", &self.master())
            .field("nat", &self.nat())
            .field("timeout", &self.timeout())
            .field("zone", &self.zone())
            .field("flags", &self.flags())
            .field("class", &self.class())
            .field("helper", &self.helper())
            .field("function", &self.function())
            .finish()
    }
}

/// An expectation of the library that is ours.
///
/// ```
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Expect, Layer4, Protocol, Tuple};
///
/// let tcp = |sport, dport| Tuple {
///     src: "192.168.7.2".parse().unwrap(),
///     dst: "198.51.100.1".parse().unwrap(),
///     protocol: Protocol::Tcp,
///     layer4: Layer4::Ports { src: sport, dst: dport },
///     zone: 0,
/// };
/// let mut expect = Expect::new()?;
/// expect.set_master(&tcp(40001, 21))?.set_expected(&tcp(0, 50000))?.set_helper("ftp")?;
/// assert_eq!(expect.expected(), Some(tcp(0, 50000)));
/// # Ok(())
/// # }
/// ```
pub struct Expect {
    raw: NonNull<sys::nf_expect>,
}

// SAFETY: an expectation holds its own memory and the library shares none
// between objects; `&self` only reads it and `&mut self` is needed to write.
unsafe impl Send for Expect {}
// SAFETY: as above: every method that takes `&self` only reads.
unsafe impl Sync for Expect {}

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
        NonNull::new(raw).map(|raw| Self { raw }).ok_or_else(|| Error::last("making an expectation object"))
    }

    /// The library's object of a plain value.
    ///
    /// ```
    /// # use nfct::{Expect, Expectation, Layer4, Protocol, Tuple};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let tuple = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 1, dst: 21 }, zone: 0 };
    /// let expect = Expect::from_expectation(&Expectation::new(tuple, tuple))?;
    /// assert_eq!(expect.master(), Some(tuple));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] where the library can't hold a name.
    pub fn from_expectation(expectation: &Expectation) -> Result<Self, Error> {
        let mut expect = Self::new()?;
        expect.set_master(&expectation.master)?;
        expect.set_expected(&expectation.expected)?.set_mask(&expectation.mask)?;
        expect.set_flags(expectation.flags).set_class(expectation.class);
        if let Some(nat) = &expectation.nat {
            expect.set_nat(nat)?;
        }
        if let Some(timeout) = expectation.time_left() {
            expect.set_timeout(timeout);
        }
        if expectation.zone != 0 {
            expect.set_zone(expectation.zone);
        }
        if let Some(helper) = &expectation.helper {
            expect.set_helper(helper)?;
        }
        if let Some(function) = &expectation.function {
            expect.set_function(function)?;
        }
        Ok(expect)
    }

    /// Sets the connection that it belongs to; see [`master`](ExpectRef::master).
    ///
    /// ```
    /// # use nfct::{Layer4, Protocol, Tuple};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let control = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 1, dst: 21 }, zone: 0 };
    /// nfct::Expect::new()?.set_master(&control)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn set_master(&mut self, tuple: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::Master, tuple)
    }

    /// Sets what the expected connection has; see [`expected`](ExpectRef::expected).
    ///
    /// ```
    /// # use nfct::{Layer4, Protocol, Tuple};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let data = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 0, dst: 50000 }, zone: 0 };
    /// nfct::Expect::new()?.set_expected(&data)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn set_expected(&mut self, tuple: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::Expected, tuple)
    }

    /// Sets which bits of that count; see [`mask`](ExpectRef::mask).
    ///
    /// ```
    /// # use nfct::{Layer4, Protocol, Tuple};
    /// # let ip = "255.255.255.255".parse().unwrap();
    /// # let mask = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 0, dst: 0xffff }, zone: 0 };
    /// nfct::Expect::new()?.set_mask(&mask)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn set_mask(&mut self, tuple: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::Mask, tuple)
    }

    /// Sets how the expected connection is to be translated. The C library does
    /// not send it to the kernel; [`Query::create_expectation`](crate::Query::create_expectation) does.
    ///
    /// ```
    /// # use nfct::{Direction, ExpectNat, Layer4, Protocol, Tuple};
    /// # let ip = "192.0.2.1".parse().unwrap();
    /// # let inside = Tuple { src: ip, dst: ip, protocol: Protocol::Tcp, layer4: Layer4::Ports { src: 50000, dst: 0 }, zone: 0 };
    /// nfct::Expect::new()?.set_nat(&ExpectNat { tuple: inside, direction: Direction::Reply })?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn set_nat(&mut self, nat: &ExpectNat) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::NatTuple, &nat.tuple)?;
        // The header says eight bits, the library reads 32.
        Ok(self.set_u32(ExpectAttribute::NatDirection, u32::from(nat.direction == Direction::Reply)))
    }

    /// Sets how long it is expected, in whole seconds.
    ///
    /// ```
    /// nfct::Expect::new()?.set_timeout(std::time::Duration::from_secs(60));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.set_u32(ExpectAttribute::Timeout, u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX))
    }

    /// Sets the conntrack zone.
    ///
    /// ```
    /// nfct::Expect::new()?.set_zone(7);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_zone(&mut self, zone: u16) -> &mut Self {
        // SAFETY: a live expectation that is borrowed for writing, and its
        // attribute of sixteen bits.
        unsafe { sys::nfexp_set_attr_u16(self.as_ptr(), sys::ATTR_EXP_ZONE, zone) };
        self
    }

    /// Sets what kind of expectation it is.
    ///
    /// ```
    /// nfct::Expect::new()?.set_flags(nfct::ExpectFlags::PERMANENT);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_flags(&mut self, flags: ExpectFlags) -> &mut Self {
        self.set_u32(ExpectAttribute::Flags, flags.0)
    }

    /// Sets which of its helper's policies holds. The C library does not send
    /// it to the kernel; [`Query::create_expectation`](crate::Query::create_expectation) does.
    ///
    /// ```
    /// nfct::Expect::new()?.set_class(1);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_class(&mut self, class: u32) -> &mut Self {
        self.set_u32(ExpectAttribute::Class, class)
    }

    /// Sets the helper that reads along in the expected connection.
    ///
    /// ```
    /// let mut expect = nfct::Expect::new()?;
    /// expect.set_helper("ftp")?;
    /// let error = expect.set_helper("a name that is too long").err().unwrap();
    /// assert!(error.to_string().contains("1 to 15 bytes"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is empty, has a zero byte in it, or is
    /// longer than 15 bytes: the library would cut it.
    pub fn set_helper(&mut self, name: &str) -> Result<&mut Self, Error> {
        check_helper("naming an expectation's helper", name)?;
        Ok(self.set_text(ExpectAttribute::Helper, name))
    }

    /// Sets what the kernel runs when the expected connection comes. The C
    /// library does not send it to the kernel;
    /// [`Query::create_expectation`](crate::Query::create_expectation) does.
    ///
    /// ```
    /// nfct::Expect::new()?.set_function("nat-follow-master")?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is empty, has a zero byte in it, or is
    /// longer than 23 bytes: the library would cut it.
    pub fn set_function(&mut self, name: &str) -> Result<&mut Self, Error> {
        check_function("naming an expectation's function", name)?;
        Ok(self.set_text(ExpectAttribute::Function, name))
    }

    /// Takes an attribute away.
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

    fn set_tuple(&mut self, attribute: ExpectAttribute, tuple: &Tuple) -> Result<&mut Self, Error> {
        let mut object = Conntrack::new()?;
        object.set_original_tuple(&Tuple { zone: 0, ..*tuple });
        // SAFETY: a live expectation that is borrowed for writing; the library
        // copies the head of a live conntrack object, which holds nothing but
        // the original tuple.
        unsafe { sys::nfexp_set_attr(self.as_ptr(), attribute as u32, object.as_ptr().cast::<c_void>()) };
        Ok(self)
    }

    fn set_u32(&mut self, attribute: ExpectAttribute, value: u32) -> &mut Self {
        // SAFETY: a live expectation that is borrowed for writing, and an
        // attribute that the library reads 32 bits for.
        unsafe { sys::nfexp_set_attr_u32(self.as_ptr(), attribute as u32, value) };
        self
    }

    fn set_text(&mut self, attribute: ExpectAttribute, text: &str) -> &mut Self {
        let text = [text.as_bytes(), &[0]].concat();
        // SAFETY: a live expectation that is borrowed for writing; the library
        // copies the string up to the zero byte that was put at its end.
        unsafe { sys::nfexp_set_attr(self.as_ptr(), attribute as u32, text.as_ptr().cast::<c_void>()) };
        self
    }

    /// What the library makes of one netlink message, header included.
    ///
    /// The library ends the process over a message whose lengths do not fit. So
    /// the message is read by this crate first, and the library gets what was
    /// understood of it.
    ///
    /// ```
    /// let error = nfct::Expect::parse(&[255; 20]).err().unwrap();
    /// assert!(error.to_string().contains("length"), "{error}");
    /// ```
    ///
    /// # Errors
    /// [`Error::Malformed`] where it is no whole expectation, [`Error::Invalid`]
    /// where the library can't hold a name.
    pub fn parse(message: &[u8]) -> Result<Self, Error> {
        const DOING: &str = "reading an expectation message";
        let malformed = |source| Error::Malformed { doing: DOING, source };
        let message = Messages::new(message).next().unwrap_or(Err(crate::wire::Malformed::Length));
        let expectation = message.and_then(|message| message.expectation()).map_err(malformed)?;
        expectation.check(DOING)?;
        let message = expectation.to_message();
        // The library expects a header aligned to four bytes.
        let words: Vec<u32> = message
            .chunks_exact(4)
            .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        let expect = Self::new()?;
        // SAFETY: an aligned, whole message that this crate wrote just now, and
        // a live expectation to fill.
        let result =
            unsafe { sys::nfexp_nlmsg_parse(words.as_ptr().cast::<sys::nlmsghdr>(), expect.raw.as_ptr()) };
        if result < 0 { Err(Error::last(DOING)) } else { Ok(expect) }
    }
}

impl Deref for Expect {
    type Target = ExpectRef;

    fn deref(&self) -> &ExpectRef {
        // SAFETY: the expectation is live as long as `self` is.
        unsafe { ExpectRef::from_ptr(self.raw) }
    }
}

impl Borrow<ExpectRef> for Expect {
    fn borrow(&self) -> &ExpectRef {
        self
    }
}

/// A whole copy, to keep what a callback was lent.
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
        // SAFETY: a live expectation, which is only read; NULL means no memory
        // and is checked next.
        let raw = unsafe { sys::nfexp_clone(self.as_ptr()) };
        NonNull::new(raw).map_or_else(|| out_of_memory(), |raw| Expect { raw })
    }
}

impl Clone for Expect {
    fn clone(&self) -> Self {
        (**self).to_owned()
    }
}

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Drop for Expect {
    fn drop(&mut self) {
        // SAFETY: the expectation came from the library and is never used again.
        unsafe { sys::nfexp_destroy(self.raw.as_ptr()) }
    }
}
