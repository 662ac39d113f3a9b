//! Expectations: connections that the kernel expects because of another connection.
//!
//! A helper reads the protocol of a connection, the master (FTP's control connection,
//! SIP), and creates an expectation for the data connection. When the data connection
//! begins, the kernel assigns it to the master, applies NAT, and treats it as `related`.
//!
//! The modules mirror those of connections: [`Expectation`] is a plain value,
//! [`Query`](crate::Query) has the queries, [`ExpectEvents`] the events. [`Expect`]
//! is the C library's object, [`ExpectHandle`] the interface with callbacks.

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
