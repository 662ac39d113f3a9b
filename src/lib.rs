//! pynatconnd: which inside host uses a public address and port of a NAT gateway?
//!
//! Mappings flow in one direction, from the kernel at the bottom to HTTP clients at
//! the top. Each layer of this crate uses only the layers below it:
//!
//! ```text
//! 7  daemon, supervisor                 wiring, signals, exit statuses; systemd
//! 6  http                               listener, limits, routes
//! 5  recorder, names                    keeps a history of the table; who the inside hosts are
//! 4  tracker                            keeps the table equal to the kernel's
//! 3  table                              the mappings and their indexes
//! 2  tuples, mapping, filter, question, fields
//!                                       a connection's tuples; a mapping and its lifetime;
//!                                       what is tracked; what a lookup searches for, and
//!                                       asks for in addition
//! 1  acl, addresses, audit, cli, clock, config, error, held, logging, proc, stats
//! 0  the crates nfct and nfct-sys, and nathistory and natnames
//! ```
//!
//! Read them in this order: [`mapping`] is what everything is about, [`table`] holds
//! the mappings, [`tracker`] updates them, [`recorder`] keeps their history, [`http`] answers from them, and [`daemon`]
//! connects the parts. `doc/ARCHITECTURE.md` describes the paths of events and
//! lookups and the threads, `doc/EXACTNESS.md` explains why answers are exact,
//! `doc/HTTP.md` describes the routes, `doc/OPERATIONS.md` is for operators, and
//! `CONTRIBUTING.md` explains how to add a configuration key, a route or a metric.
#![forbid(unsafe_code)]

pub mod acl;
pub mod addresses;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod error;
pub mod fields;
pub mod filter;
pub mod held;
pub mod http;
pub mod logging;
pub mod mapping;
pub mod names;
pub mod proc;
pub mod question;
pub mod recorder;
pub mod stats;
pub mod supervisor;
pub mod table;
pub mod tracker;
pub mod tuples;
