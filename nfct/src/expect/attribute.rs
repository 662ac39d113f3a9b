//! The attributes of the library's expectation.

use nfct_sys as sys;

/// An attribute of the library's expectation (`enum nf_expect_attr`).
///
/// ```
/// use nfct::{Expect, ExpectAttribute};
///
/// let mut expect = Expect::new()?;
/// expect.set_zone(7);
/// assert!(expect.is_set(ExpectAttribute::Zone));
/// expect.unset(ExpectAttribute::Zone);
/// assert_eq!(expect.zone(), None);
/// # Ok::<(), nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum ExpectAttribute {
    /// The original tuple of the master, the connection to which the expectation belongs.
    Master = sys::ATTR_EXP_MASTER,
    /// The tuple of the expected connection.
    Expected = sys::ATTR_EXP_EXPECTED,
    /// Which bits of the expected tuple count.
    Mask = sys::ATTR_EXP_MASK,
    /// Seconds until the kernel removes the expectation.
    Timeout = sys::ATTR_EXP_TIMEOUT,
    /// Conntrack zone.
    Zone = sys::ATTR_EXP_ZONE,
    /// The kind of expectation.
    Flags = sys::ATTR_EXP_FLAGS,
    /// The helper of the expected connection.
    Helper = sys::ATTR_EXP_HELPER_NAME,
    /// Which of the helper's policies applies.
    Class = sys::ATTR_EXP_CLASS,
    /// The source address and port that NAT gives the expected connection.
    NatTuple = sys::ATTR_EXP_NAT_TUPLE,
    /// The direction of the master in which the expected connection runs.
    NatDirection = sys::ATTR_EXP_NAT_DIR,
    /// The function that the kernel runs when the expected connection arrives.
    Function = sys::ATTR_EXP_FN,
}

impl ExpectAttribute {
    /// All attributes.
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
