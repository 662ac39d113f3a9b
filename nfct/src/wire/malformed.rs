//! What can be wrong with a message.

/// What is wrong with a message.
///
/// ```
/// use nfct::wire::{Malformed, Messages};
/// assert_eq!(Messages::new(&[1, 2, 3]).next(), Some(Err(Malformed::Length)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A length field points past the end, or is smaller than its own header.
    #[error("a length field does not fit the message")]
    Length,
    /// An attribute's payload is not of the size its type has.
    #[error("attribute {0} has the wrong size")]
    Size(u16),
    /// A tuple lacks an address or its protocol, or mixes families.
    #[error("attribute {0} is not a complete tuple")]
    Tuple(u16),
    /// An entry without one of its two tuples.
    #[error("an entry without both tuples")]
    NoTuple,
    /// The C library cannot read it.
    #[error("the C library cannot read it")]
    Library,
}
