//! A throw-away NAT gateway for tests and benchmarks: three network namespaces with the kernel's own routing,
//! NAT and connection tracking between them.
//!
//! ```text
//!     client                      gateway                        server
//!   192.168.7.2.. eth0 --- inside       outside --- eth0 198.51.100.1..
//!     fd00:7::2.. |   192.168.7.1        100.64.2.1..    | 2001:db8::1
//!                 |     fd00:7::1        2001:db8::2     |
//! ```
//!
//! | module | what it has | what it uses |
//! | --- | --- | --- |
//! | `wait` | the patience of all waiting, [`StopOnDrop`] | |
//! | `netns` | network namespaces, and programs in them | |
//! | `local` | what runs in the namespace of the calling thread | |
//! | `gateway` | [`Lab`]: the namespaces, their links, addresses and rules | `netns`, `wait` |
//! | `requirements` | what the machine lacks for a lab | `gateway`, `netns` |
//! | [`traffic`] | TCP and UDP connections through the gateway | `gateway`, `wait` |
//! | [`http`] | a strict HTTP client | `netns`, `traffic`, `wait` |
//! | `daemon` | [`Daemon`]: pynatconnd in a namespace | `netns`, `wait` |
//! | [`flows`] | conntrack entries made without a packet | `http` |
//! | [`samples`] | entries for the tests of `nfct` | |
//!
//! A lab needs root. A test begins with
//!
//! ```no_run
//! # const CONFIG: &str = "";
//! use lab::{DaemonBinary, Lab};
//!
//! // env!("CARGO_BIN_EXE_pynatconnd") in a test or benchmark of the daemon's package.
//! const DAEMON: DaemonBinary = DaemonBinary::at("target/debug/pynatconnd");
//!
//! if !lab::require() {
//!     return;
//! }
//! let lab = Lab::builder().build();
//! let daemon = DAEMON.start(lab.gateway(), CONFIG);
//! ```

mod daemon;
pub mod flows;
mod gateway;
pub mod http;
mod local;
mod netns;
mod requirements;
pub mod samples;
pub mod traffic;
mod wait;

pub use daemon::{Daemon, DaemonBinary, DaemonBuilder};
pub use gateway::{Lab, LabBuilder, MASQUERADE, MASQUERADE6, PREFIX};
pub use local::{in_fresh_namespace, ip, nft};
pub use netns::{Netns, NetnsCommand, remove_own, remove_stale};
pub use requirements::{require, requirements};
pub use wait::{PATIENCE, StopOnDrop, wait_until, wait_within};
