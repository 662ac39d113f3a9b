//! Conversion of expectation objects from and to plain values and netlink messages.

use nfct_sys as sys;

use super::attribute::ExpectAttribute;
use super::object::{Expect, ExpectRef};
use crate::error::Error;
use crate::expectation::Expectation;
use crate::wire::{Malformed, Messages};

impl ExpectRef {
    /// The expectation as a plain value; `None` if one of its three tuples is not set. Other fields that are
    /// not set become `None`, or 0 for the zone, the flags and the class.
    ///
    /// ```
    /// # use nfct::{Expect, Expectation, Tuple};
    /// # let tuple = Tuple::tcp(([192, 0, 2, 1], 1), ([198, 51, 100, 1], 21));
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
}

impl Expect {
    /// Creates the library's object from a plain value.
    ///
    /// ```
    /// # use nfct::{Expect, Expectation, Tuple};
    /// # let tuple = Tuple::tcp(([192, 0, 2, 1], 1), ([198, 51, 100, 1], 21));
    /// let expect = Expect::from_expectation(&Expectation::new(tuple, tuple))?;
    /// assert_eq!(expect.master(), Some(tuple));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is too long for the library, and for a tuple with addresses of two
    /// families or details of another protocol.
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

    /// Makes the library read one netlink message, header included.
    ///
    /// A message whose lengths do not fit makes the library end the process. So this crate parses the message
    /// first, and gives the library a new message, written from the parsed values.
    ///
    /// ```
    /// let error = nfct::Expect::parse(&[255; 20]).err().unwrap();
    /// assert!(error.to_string().contains("length"), "{error}");
    /// ```
    ///
    /// # Errors
    /// [`Error::Malformed`] if the message is not a complete expectation, [`Error::Invalid`] for a name that is too
    /// long for the library.
    pub fn parse(message: &[u8]) -> Result<Self, Error> {
        const DOING: &str = "reading an expectation message";
        let malformed = |source| Error::Malformed { doing: DOING, source };
        let message = Messages::new(message).next().unwrap_or(Err(Malformed::Length));
        let expectation = message.and_then(|message| message.expectation()).map_err(malformed)?;
        expectation.check(DOING)?;
        let message = expectation.to_message();
        // The library expects a header aligned to four bytes.
        let words: Vec<u32> = message
            .chunks_exact(4)
            .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        let expect = Self::new()?;
        // SAFETY: an aligned and complete message that was written above, and a live expectation to fill.
        let result =
            unsafe { sys::nfexp_nlmsg_parse(words.as_ptr().cast::<sys::nlmsghdr>(), expect.as_ptr()) };
        if result < 0 { Err(Error::last(DOING)) } else { Ok(expect) }
    }
}
