//! Every attribute of the library's conntrack object, each with the type of its value.
//!
//! An attribute is a constant here, named as in the C header without `ATTR_`. Its type parameter is what
//! [`get`](crate::ConntrackRef::get) returns and [`set`](crate::Conntrack::set) takes, so no value of a
//! wrong type or size can be passed. `table` has the constants, `codec` reads and writes their
//! values, `group` has the attributes that are set and read together.
//!
//! ```
//! use nfct::{Conntrack, TcpState, attr};
//!
//! let mut entry = Conntrack::new()?;
//! entry.set(attr::MARK, 7)?.set(attr::TCP_STATE, TcpState::Established)?;
//! assert_eq!(entry.get(attr::MARK), Some(7));
//! assert_eq!(entry.get(attr::TIMEOUT), None);
//! let set: Vec<_> = entry.attributes().map(|id| id.name()).collect();
//! assert_eq!(set, ["ATTR_TCP_STATE", "ATTR_MARK"]);
//! # Ok::<(), nfct::Error>(())
//! ```

mod codec;
mod group;
mod table;

pub use group::{Group, Icmp, Pair};
pub use table::*;
