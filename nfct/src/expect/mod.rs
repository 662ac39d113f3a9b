//! Expectations: connections that the kernel expects because of another one.
//!
//! A helper reads along in a connection (FTP's control connection, SIP) and
//! tells the kernel which data connection will come; when it comes, it belongs
//! to its master, goes through the NAT and counts as `related`.
//!
//! The cut is that of connections: [`Expectation`] is a plain value,
//! [`Query`](crate::Query) asks, [`ExpectEvents`] follows; [`Expect`] is the C library's
//! object and [`ExpectHandle`] its way with callbacks.

mod attribute;
mod convert;
mod events;
mod expectation;
mod fields;
mod handle;
mod object;
mod query;

pub use attribute::ExpectAttribute;
pub use events::{ExpectEvent, ExpectEvents, ExpectGroups};
pub use expectation::{ExpectFlags, ExpectNat, Expectation};
pub use handle::{ExpectHandle, ExpectRequest};
pub use object::{Expect, ExpectRef};
