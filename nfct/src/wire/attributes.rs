//! Netlink attributes: iteration, and the numbers in them.

use crate::malformed::Malformed;

/// Size of `struct nlattr`.
pub(super) const ATTRIBUTE: usize = 4;
/// The upper bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;
/// The flag of an attribute that contains attributes.
pub(super) const NESTED: u16 = 0x8000;

/// Iterates over the attributes of a payload: type without flags, and value.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Fewer bytes than a header are padding.
        let (header, after) = self.rest.split_first_chunk::<ATTRIBUTE>()?;
        // A length that is smaller than the header becomes one that does not fit either.
        let [length, kind] = halves(*header);
        let length = usize::from(length).wrapping_sub(ATTRIBUTE);
        let kind = kind & TYPE_MASK;
        match after.get(..length) {
            Some(value) => {
                self.rest = &after[align(length).min(after.len())..];
                Some(Ok((kind, value)))
            }
            None => {
                self.rest = &[];
                Some(Err(Malformed::Length))
            }
        }
    }
}

/// Messages and attributes begin at multiples of four bytes.
pub(super) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Both numbers of a header, with one load.
#[inline]
fn halves(header: [u8; 4]) -> [u16; 2] {
    let word = u32::from_ne_bytes(header);
    let [low, high] = [word as u16, (word >> 16) as u16];
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

pub(super) fn u16_ne(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_ne(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn byte(kind: u16, value: &[u8]) -> Result<u8, Malformed> {
    match value {
        [byte] => Ok(*byte),
        _ => Err(Malformed::Size(kind)),
    }
}

pub(crate) fn u16_be(kind: u16, value: &[u8]) -> Result<u16, Malformed> {
    value.try_into().map(u16::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

pub(crate) fn u32_be(kind: u16, value: &[u8]) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

pub(crate) fn u64_be(kind: u16, value: &[u8]) -> Result<u64, Malformed> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| Malformed::Size(kind))
}
