//! Putting another configuration into force; the table stays.

use std::sync::Arc;

use nfct::Error;

use super::settings::Settings;
use super::shared::Tracker;
use crate::filter::Filter;

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
        let settings = Settings { filter: filtering.resolve(&settings.filter)?, ..settings };
        if settings == self.lock().settings {
            return Ok(());
        }
        self.change_filter(&mut filtering, &settings.filter)?;
        let mut state = self.lock();
        state.events.set_reliable(settings.netlink.reliable)?;
        if settings.netlink.receive_buffer != state.settings.netlink.receive_buffer {
            state.receive_buffer = state.events.set_receive_buffer(settings.netlink.receive_buffer.0)?;
        }
        if settings.del_delay > state.settings.del_delay {
            // What was removed already is not known.
            state.know_closed_from(self.clock.now(), false);
        }
        state.table.set_del_delay(settings.del_delay);
        state.table.set_limits(settings.limits);
        state.table.set_key(settings.key);
        state.settings = settings;
        self.dump_request.set();
        drop(state);
        while self.lock().table.build_index() {}
        let news = filtering.take_news();
        drop(filtering);
        news.log();
        Ok(())
    }
}
