//! The daemon under test.

use lab::DaemonBinary;

pub(crate) const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));
