//! Putting another configuration into force; the table stays.

use std::sync::Arc;

use log::Level;
use nfct::Error;

use super::settings::Settings;
use super::shared::Tracker;
use crate::filter::Filter;
use crate::table::IndexedBy;

impl Tracker {
    /// The conditions in force.
    pub fn filter(&self) -> Arc<Filter> {
        Arc::clone(&self.lock().settings.filter)
    }

    /// Puts other settings into force. The table stays. Another filter removes the
    /// mappings that it does not accept, and requests a dump to add connections that
    /// it accepts. The index for another key is built before this returns.
    ///
    /// # Errors
    /// When the event socket does not accept its new options; nothing changes
    /// then.
    pub fn reload(&self, settings: Settings) -> Result<(), Error> {
        let mut filtering = self.filtering.lock();
        let (old, receive_buffer) = {
            let state = self.lock();
            (state.settings.clone(), state.receive_buffer)
        };
        let filter = filtering.resolve(&settings.filter)?;
        let settings = Settings { filter, has_recorder: old.has_recorder, ..settings };
        if settings == old {
            return Ok(());
        }
        // The filter comes last: of the options, only its effect cannot be undone, because the
        // events that it held back are missing.
        let changed = self
            .set_options(&settings, &old)
            .and_then(|()| self.change_filter(&mut filtering, &settings.filter));
        if let Err(error) = changed {
            self.restore_options(&old, receive_buffer);
            return Err(error);
        }
        let mut state = self.lock();
        if settings.del_delay > state.settings.del_delay {
            // What was removed already is not known.
            state.know_closed_from(self.clock.now(), false);
        }
        state.table.set_del_delay(settings.del_delay);
        state.table.set_limits(settings.limits);
        state.table.set_key(settings.key);
        let key = settings.key;
        state.settings = settings;
        self.dump_request.set();
        drop(state);
        self.build_index(IndexedBy::key(key));
        let news = filtering.take_news();
        drop(filtering);
        news.log();
        Ok(())
    }

    /// Sets the options of the event socket that differ, except the filter.
    fn set_options(&self, new: &Settings, old: &Settings) -> Result<(), Error> {
        let mut state = self.lock();
        state.events.set_reliable(new.netlink.reliable)?;
        if new.netlink.receive_buffer != old.netlink.receive_buffer {
            state.receive_buffer = state.events.set_receive_buffer(new.netlink.receive_buffer.0)?;
        }
        Ok(())
    }

    /// Restores these options.
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
    }
}
