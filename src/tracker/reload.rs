//! Putting another configuration into force; the table stays.

use nfct::Error;

use super::settings::Settings;
use super::shared::Tracker;
use crate::filter::Filter;

impl Tracker {
    /// The conditions in force.
    pub fn filter(&self) -> Filter {
        self.lock().settings.filter.clone()
    }

    /// Puts other settings into force. The table stays. Another filter removes the
    /// mappings that it does not accept, and requests a dump to add connections that
    /// it accepts. The index for another key is built before this returns.
    ///
    /// # Errors
    /// When the event socket does not accept its new options; nothing changes
    /// then.
    pub fn reload(&self, settings: Settings) -> Result<(), Error> {
        let old = self.lock().settings.clone();
        if settings == old {
            return Ok(());
        }
        if settings.filter != old.filter {
            // Without the lock, because this takes the kernel some time. The dump
            // adds what the old socket filter held back.
            settings.filter.kernel_filter().attach(&self.socket)?;
        }
        let mut state = self.lock();
        let filter = settings.filter.clone();
        let other_filter = filter != state.settings.filter;
        state.events.set_reliable(settings.netlink.reliable)?;
        if settings.netlink.receive_buffer != state.settings.netlink.receive_buffer {
            state.receive_buffer = state.events.set_receive_buffer(settings.netlink.receive_buffer.0)?;
        }
        if other_filter {
            self.invalidate(&mut state);
        }
        if other_filter || settings.del_delay > state.settings.del_delay {
            // What the old filter held back and has closed is not known, nor what was removed already.
            state.know_closed_from(self.clock.now(), false);
        }
        state.table.set_del_delay(settings.del_delay);
        state.table.set_limits(settings.limits);
        state.table.set_key(settings.key);
        state.settings = settings;
        self.dump_request.set();
        drop(state);
        while self.lock().table.build_index() {}
        if other_filter {
            self.in_slices(|state, cursor, now| {
                state.table.retain(cursor, now, |tuples| filter.matches(tuples))
            });
        }
        Ok(())
    }
}
