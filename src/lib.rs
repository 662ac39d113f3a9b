//! pynatconnd: which inside host is behind a NAT gateway's public address and
//! port?
//!
//! The kernel's NAT mappings flow in one direction, through the floors of this
//! crate, each of which uses only those below it:
//!
//! ```text
//! 6  daemon, supervisor           wires it up; signals, exit codes; systemd
//! 5  http                         listener, limits, one file a family of routes
//! 4  tracker                      keeps the table equal to the kernel
//! 3  table                        the mappings and their indexes, behind a mutex
//! 2  tuples, mapping, filter,     a connection's two tuples; one mapping and its lifetime; what is
//!    question                     tracked; what a lookup asks for
//! 1  config, acl, stats, logging, clock, proc, error
//! 0  the crates nfct and nfct-sys
//! ```
//!
//! A good order to read them in: [`mapping`] is what it is all about, [`table`]
//! holds many of them, [`tracker`] keeps them true, [`http`] answers from them,
//! and [`daemon`] puts it together. `doc/EXACTNESS.md` says why the answers are
//! exact, `doc/HTTP.md` what they are, `doc/OPERATIONS.md` how to run it, and
//! `CONTRIBUTING.md` where to add what.
#![forbid(unsafe_code)]

pub mod acl;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod error;
pub mod filter;
pub mod http;
pub mod logging;
pub mod mapping;
pub mod proc;
pub mod question;
pub mod stats;
pub mod supervisor;
pub mod table;
pub mod tracker;
pub mod tuples;
