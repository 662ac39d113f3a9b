//! Expectations: connections that the kernel expects because of another one.
//!
//! A helper follows the protocol inside a connection (FTP's control connection,
//! SIP) and announces the data connection to the kernel. When it begins, it
//! belongs to its master, passes the NAT and counts as `related`.
//!
//! The modules mirror those of connections: [`Expectation`] is a plain value,
//! [`Query`](crate::Query) has the queries, [`ExpectEvents`] the events. [`Expect`]
//! is the C library's object and [`ExpectHandle`] its interface with callbacks.

mod attribute;
mod convert;
mod events;
mod fields;
mod handle;
mod object;
mod query;

pub use attribute::ExpectAttribute;
pub use events::{ExpectEvent, ExpectEvents};
pub use handle::{ExpectHandle, ExpectRequest, Expectations};
pub use object::{Expect, ExpectRef};
