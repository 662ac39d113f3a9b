//! What every source can do.

use std::io;

use crate::outlet::Outlet;

/// Follows what a system says of addresses.
pub trait Source: Send {
    /// Its name in answers, metrics and log lines, such as `dnsmasq`.
    fn name(&self) -> &'static str;

    /// Where it is, for log lines: a path, for instance.
    fn place(&self) -> String;

    /// Follows it until an error, or until the outlet is stopped.
    ///
    /// # Errors
    /// What hindered it, so that an operator knows what to mend; [`Stopped`](crate::Stopped) if the outlet was stopped.
    fn follow(&mut self, outlet: &Outlet) -> io::Result<()>;
}
