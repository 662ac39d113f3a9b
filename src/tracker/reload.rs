//! Putting another configuration into force; the table stays.

use log::Level;
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
        let (old, receive_buffer) = {
            let state = self.lock();
            (state.settings.clone(), state.receive_buffer)
        };
        if settings == old {
            return Ok(());
        }
        if let Err(error) = self.set_options(&settings, &old) {
            self.restore_options(&old, receive_buffer);
            return Err(error);
        }
        // Declared before the lock is taken, so that it is dropped after the release.
        let _old_index;
        let mut state = self.lock();
        let filter = settings.filter.clone();
        let other_filter = filter != state.settings.filter;
        if other_filter {
            self.invalidate(&mut state);
        }
        if other_filter || settings.del_delay > state.settings.del_delay {
            // What the old filter held back and has closed is not known, nor what was removed already.
            state.know_closed_from(self.clock.now(), false);
        }
        state.table.set_del_delay(settings.del_delay);
        state.table.set_limits(settings.limits);
        _old_index = state.table.set_key(settings.key);
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

    /// Sets all options of the event socket that differ. The filter comes last: of the options,
    /// only its effect cannot be undone, because the events that it held back are missing.
    fn set_options(&self, new: &Settings, old: &Settings) -> Result<(), Error> {
        {
            let mut state = self.lock();
            state.events.set_reliable(new.netlink.reliable)?;
            if new.netlink.receive_buffer != old.netlink.receive_buffer {
                state.receive_buffer = state.events.set_receive_buffer(new.netlink.receive_buffer.0)?;
            }
        }
        if new.filter != old.filter {
            {
                // From the next moment on the kernel may hold back what the old filter accepts.
                let mut state = self.lock();
                state.synced = false;
                self.update_complete(&mut state);
            }
            // Without the lock, because this takes the kernel some time. The dump
            // adds what the old socket filter held back.
            new.filter.kernel_filter().attach(&self.socket)?;
        }
        Ok(())
    }

    /// Restores the options before the filter, and has the table read again if it may lack something.
    fn restore_options(&self, old: &Settings, receive_buffer: usize) {
        let mut state = self.lock();
        // The kernel doubles the size that it is given.
        let restored = state
            .events
            .set_reliable(old.netlink.reliable)
            .and_then(|()| state.events.set_receive_buffer(receive_buffer / 2));
        match restored {
            Ok(bytes) => state.receive_buffer = bytes,
            Err(error) => state.log(Level::Warn, error.to_string()),
        }
        if !state.synced {
            self.invalidate(&mut state);
        }
    }
}
