//! Expectations: reading them from the kernel's messages, and writing them into requests.

use nfct_sys as sys;

use super::attributes::{Attributes, u16_be, u32_be};
use super::flow::read_tuple;
use super::message::Message;
use super::request::{MessageWriter, expectation_kind};
use crate::direction::Direction;
use crate::expectation::{ExpectFlags, ExpectNat, Expectation};
use crate::malformed::Malformed;
use crate::tuple::Tuple;

impl Message<'_> {
    /// Reads an expectation.
    ///
    /// ```
    /// use nfct::wire::{Messages, Malformed};
    ///
    /// // A header alone: message 0 of subsystem 2 (expectations), family IPv4.
    /// let mut bytes = [0_u8; 20];
    /// bytes[..4].copy_from_slice(&20_u32.to_ne_bytes());
    /// bytes[4..6].copy_from_slice(&0x200_u16.to_ne_bytes());
    /// bytes[16] = 2;
    /// let message = Messages::new(&bytes).next().unwrap().unwrap();
    /// assert_eq!(message.expectation(), Err(Malformed::NoTuple));
    /// ```
    ///
    /// # Errors
    /// [`Malformed`] if the message is truncated, or lacks a part that every expectation has.
    pub fn expectation(&self) -> Result<Expectation, Malformed> {
        let (mut master, mut expected, mut mask, mut nat) = (None, None, None, None);
        let (mut timeout, mut id, mut zone, mut class) = (None, None, 0, 0);
        let (mut flags, mut helper, mut function) = (ExpectFlags::default(), None, None);
        for attribute in self.attributes()? {
            let (kind, value) = attribute?;
            match u32::from(kind) {
                sys::CTA_EXPECT_MASTER => master = Some(read_tuple(kind, value)?),
                sys::CTA_EXPECT_TUPLE => expected = Some(read_tuple(kind, value)?),
                sys::CTA_EXPECT_MASK => mask = Some(read_tuple(kind, value)?),
                sys::CTA_EXPECT_TIMEOUT => timeout = Some(u32_be(kind, value)?),
                sys::CTA_EXPECT_ID => id = Some(u32_be(kind, value)?),
                sys::CTA_EXPECT_HELP_NAME => helper = Some(text(kind, value)?),
                sys::CTA_EXPECT_ZONE => zone = u16_be(kind, value)?,
                sys::CTA_EXPECT_FLAGS => flags = ExpectFlags(u32_be(kind, value)?),
                sys::CTA_EXPECT_CLASS => class = u32_be(kind, value)?,
                sys::CTA_EXPECT_NAT => nat = read_nat(value)?,
                sys::CTA_EXPECT_FN => function = Some(text(kind, value)?),
                _ => {}
            }
        }
        let (Some(master), Some(expected), Some(mask)) = (master, expected, mask) else {
            return Err(Malformed::NoTuple);
        };
        Ok(Expectation { master, expected, mask, nat, timeout, id, zone, flags, class, helper, function })
    }
}

fn read_nat(value: &[u8]) -> Result<Option<ExpectNat>, Malformed> {
    let (mut tuple, mut direction) = (None, Direction::Original);
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match u32::from(kind) {
            sys::CTA_EXPECT_NAT_TUPLE => tuple = Some(read_tuple(kind, value)?),
            // The kernel reads any number but 0 as the reply direction.
            sys::CTA_EXPECT_NAT_DIR if u32_be(kind, value)? != 0 => direction = Direction::Reply,
            _ => {}
        }
    }
    Ok(tuple.map(|tuple| ExpectNat { tuple, direction }))
}

/// A string, which the kernel ends with a zero byte.
fn text(kind: u16, value: &[u8]) -> Result<String, Malformed> {
    match value.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(String::from_utf8_lossy(text).into_owned()),
        _ => Err(Malformed::Size(kind)),
    }
}

/// Adds what identifies an expectation: its tuple, its zone and, if known, its id.
pub(crate) fn name_expectation(request: &mut MessageWriter, expectation: &Expectation) {
    plain_tuple(request, sys::CTA_EXPECT_TUPLE, &expectation.expected);
    write_zone(request, expectation.zone);
    if let Some(id) = expectation.id {
        request.attribute(sys::CTA_EXPECT_ID, &id.to_be_bytes());
    }
}

/// Adds all fields of an expectation except its id, which the kernel assigns.
pub(crate) fn write_expectation(request: &mut MessageWriter, expectation: &Expectation) {
    plain_tuple(request, sys::CTA_EXPECT_MASTER, &expectation.master);
    plain_tuple(request, sys::CTA_EXPECT_TUPLE, &expectation.expected);
    plain_tuple(request, sys::CTA_EXPECT_MASK, &expectation.mask);
    write_zone(request, expectation.zone);
    if let Some(nat) = &expectation.nat {
        request.nested(sys::CTA_EXPECT_NAT, |request| {
            let direction = u32::from(nat.direction == Direction::Reply);
            request.attribute(sys::CTA_EXPECT_NAT_DIR, &direction.to_be_bytes());
            plain_tuple(request, sys::CTA_EXPECT_NAT_TUPLE, &nat.tuple);
        });
    }
    if let Some(timeout) = expectation.timeout {
        request.attribute(sys::CTA_EXPECT_TIMEOUT, &timeout.to_be_bytes());
    }
    request.attribute(sys::CTA_EXPECT_FLAGS, &expectation.flags.0.to_be_bytes());
    request.attribute(sys::CTA_EXPECT_CLASS, &expectation.class.to_be_bytes());
    for (kind, name) in
        [(sys::CTA_EXPECT_HELP_NAME, &expectation.helper), (sys::CTA_EXPECT_FN, &expectation.function)]
    {
        if let Some(name) = name {
            write_text(request, kind, name);
        }
    }
}

/// Adds a string as the kernel expects it, with a zero byte at its end.
pub(crate) fn write_text(request: &mut MessageWriter, kind: u32, text: &str) {
    request.attribute(kind, &[text.as_bytes(), &[0]].concat());
}

/// Adds a tuple of an expectation without its zone, which is in `CTA_EXPECT_ZONE`.
pub(crate) fn plain_tuple(request: &mut MessageWriter, kind: u32, tuple: &Tuple) {
    request.tuple(kind, &Tuple { zone: 0, ..*tuple });
}

/// Adds the zone, if it is not the default one.
pub(crate) fn write_zone(request: &mut MessageWriter, zone: u16) {
    if zone != 0 {
        request.attribute(sys::CTA_EXPECT_ZONE, &zone.to_be_bytes());
    }
}

impl Expectation {
    /// The expectation as a netlink message, as the kernel writes it.
    /// [`Message::expectation`](crate::wire::Message::expectation) and
    /// [`Expect::parse`](crate::Expect::parse) read it back.
    ///
    /// ```
    /// # use nfct::{Expectation, Tuple};
    /// use nfct::wire::Messages;
    /// # let tuple = Tuple::tcp(([192, 0, 2, 1], 40001), ([198, 51, 100, 1], 21));
    /// let expectation = Expectation::new(tuple, tuple);
    /// let bytes = expectation.to_message();
    /// let message = Messages::new(&bytes).next().unwrap()?;
    /// assert_eq!(message.expectation()?, expectation);
    /// # Ok::<(), nfct::wire::Malformed>(())
    /// ```
    pub fn to_message(&self) -> Vec<u8> {
        let kind = expectation_kind(sys::IPCTNL_MSG_EXP_NEW);
        let mut request = MessageWriter::of_kind(kind, 0, 0, self.family().number());
        write_expectation(&mut request, self);
        if let Some(id) = self.id {
            request.attribute(sys::CTA_EXPECT_ID, &id.to_be_bytes());
        }
        request.finish()
    }
}
