//! The errors of a malformed message.

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
    /// The size of an attribute is not that of its type.
    #[error("attribute {0} has the wrong size")]
    Size(u16),
    /// A tuple lacks an address or its protocol, or has addresses of two families.
    #[error("attribute {0} is not a complete tuple")]
    Tuple(u16),
    /// A tuple that every entry or expectation has is missing.
    #[error("a tuple is missing")]
    NoTuple,
    /// The kernel's answer is about another tuple than the query.
    #[error("the answer has another tuple than the query")]
    OtherTuple,
    /// The C library cannot read the message.
    #[error("the C library cannot read the message")]
    Library,
}
