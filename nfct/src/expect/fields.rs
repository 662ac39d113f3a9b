//! The attributes of an expectation object, as methods.

use std::fmt;
use std::time::Duration;

use nfct_sys as sys;

use super::attribute::ExpectAttribute;
use super::object::{Expect, ExpectRef};
use crate::direction::Direction;
use crate::error::Error;
use crate::expectation::{ExpectFlags, ExpectNat, check_function, check_helper};
use crate::tuple::Tuple;

impl ExpectRef {
    /// The original tuple of the master, the connection to which the expectation belongs.
    ///
    /// ```
    /// # use nfct::{Expect, Tuple};
    /// # let tuple = Tuple::tcp(([192, 0, 2, 1], 1), ([198, 51, 100, 1], 21));
    /// let mut expect = Expect::new()?;
    /// assert_eq!(expect.master(), None);
    /// expect.set_master(&tuple)?;
    /// assert_eq!(expect.master(), Some(tuple));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn master(&self) -> Option<Tuple> {
        self.tuple(ExpectAttribute::Master)
    }

    /// The tuple of the expected connection; only the bits in [`mask`](Self::mask) count.
    ///
    /// ```
    /// # use nfct::{Expect, Tuple};
    /// # let tuple = Tuple::tcp(([192, 0, 2, 1], 0), ([198, 51, 100, 1], 50000));
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
    /// # use nfct::{Expect, Tuple};
    /// # let mask = Tuple::tcp(([255; 4], 0), ([255; 4], 0xffff));
    /// let mut expect = Expect::new()?;
    /// expect.set_mask(&mask)?;
    /// assert_eq!(expect.mask(), Some(mask));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn mask(&self) -> Option<Tuple> {
        self.tuple(ExpectAttribute::Mask)
    }

    /// How the kernel translates the expected connection.
    ///
    /// ```
    /// # use nfct::{Expect, Tuple};
    /// use nfct::{Direction, ExpectNat};
    /// # let tuple = Tuple::tcp(([192, 0, 2, 1], 50000), ([198, 51, 100, 1], 0));
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

    /// Time until the kernel removes the expectation, in whole seconds.
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

    /// Conntrack zone, if one is set.
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

    /// The kind of expectation.
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

    /// Which of the helper's policies applies.
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

    /// The helper that inspects the expected connection.
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

    /// The function that the kernel runs when the expected connection arrives.
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
}

impl Expect {
    /// Sets the connection to which the expectation belongs: [`master`](ExpectRef::master).
    ///
    /// ```
    /// # use nfct::Tuple;
    /// # let control = Tuple::tcp(([192, 0, 2, 1], 1), ([198, 51, 100, 1], 21));
    /// nfct::Expect::new()?.set_master(&control)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another protocol.
    pub fn set_master(&mut self, tuple: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::Master, tuple)
    }

    /// Sets the tuple of the expected connection: [`expected`](ExpectRef::expected).
    ///
    /// ```
    /// # use nfct::Tuple;
    /// # let data = Tuple::tcp(([192, 0, 2, 1], 0), ([198, 51, 100, 1], 50000));
    /// nfct::Expect::new()?.set_expected(&data)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another protocol.
    pub fn set_expected(&mut self, tuple: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::Expected, tuple)
    }

    /// Sets which bits of the expected tuple count: [`mask`](ExpectRef::mask).
    ///
    /// ```
    /// # use nfct::Tuple;
    /// # let mask = Tuple::tcp(([255; 4], 0), ([255; 4], 0xffff));
    /// nfct::Expect::new()?.set_mask(&mask)?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another protocol.
    pub fn set_mask(&mut self, tuple: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::Mask, tuple)
    }

    /// Sets how the kernel translates the expected connection. The C library does not send it to the
    /// kernel; [`Query::create_expectation`](crate::Query::create_expectation) does.
    ///
    /// ```
    /// # use nfct::{Direction, ExpectNat, Tuple};
    /// # let inside = Tuple::tcp(([192, 0, 2, 1], 50000), ([198, 51, 100, 1], 0));
    /// nfct::Expect::new()?.set_nat(&ExpectNat { tuple: inside, direction: Direction::Reply })?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another protocol.
    pub fn set_nat(&mut self, nat: &ExpectNat) -> Result<&mut Self, Error> {
        self.set_tuple(ExpectAttribute::NatTuple, &nat.tuple)?;
        // According to the header it has eight bits, but the library reads 32.
        Ok(self.set_u32(ExpectAttribute::NatDirection, u32::from(nat.direction == Direction::Reply)))
    }

    /// Sets the time until the kernel removes the expectation, in whole seconds, at most `u32::MAX`.
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

    /// Sets the kind of expectation.
    ///
    /// ```
    /// nfct::Expect::new()?.set_flags(nfct::ExpectFlags::PERMANENT);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_flags(&mut self, flags: ExpectFlags) -> &mut Self {
        self.set_u32(ExpectAttribute::Flags, flags.0)
    }

    /// Sets which of the helper's policies applies. The C library does not send it to the kernel;
    /// [`Query::create_expectation`](crate::Query::create_expectation) does.
    ///
    /// ```
    /// nfct::Expect::new()?.set_class(1);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_class(&mut self, class: u32) -> &mut Self {
        self.set_u32(ExpectAttribute::Class, class)
    }

    /// Sets the helper that inspects the expected connection.
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
    /// [`Error::Invalid`] for a name that is empty, contains a zero byte, or is longer than 15 bytes: the
    /// library would truncate it.
    pub fn set_helper(&mut self, name: &str) -> Result<&mut Self, Error> {
        check_helper("naming an expectation's helper", name)?;
        Ok(self.set_text(ExpectAttribute::Helper, name))
    }

    /// Sets the function that the kernel runs when the expected connection arrives. The C library does not
    /// send it to the kernel; [`Query::create_expectation`](crate::Query::create_expectation) does.
    ///
    /// ```
    /// nfct::Expect::new()?.set_function("nat-follow-master")?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is empty, contains a zero byte, or is longer than 23 bytes: the
    /// library would truncate it.
    pub fn set_function(&mut self, name: &str) -> Result<&mut Self, Error> {
        check_function("naming an expectation's function", name)?;
        Ok(self.set_text(ExpectAttribute::Function, name))
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

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
