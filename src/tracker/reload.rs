//! Putting another configuration into force while the table stays.

use nfct::Error;

use super::{Settings, Tracker};

impl Tracker {
    /// Puts other settings into force. The table stays; another filter drops
    /// what it doesn't want and has the kernel's table read for what it does,
    /// another key gets its index before this returns.
    ///
    /// # Errors
    /// When the event socket refuses its new options; nothing is changed then.
    pub fn reload(&self, settings: Settings) -> Result<(), Error> {
        let old = self.lock().settings.clone();
        if settings == old {
            return Ok(());
        }
        if settings.filter != old.filter {
            // Takes the kernel some time. What the old program held back, the
            // dump brings in.
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
            self.disturb(&mut state);
        }
        state.table.set_del_delay(settings.del_delay);
        state.table.set_key(settings.key);
        state.settings = settings;
        self.requests.soon();
        drop(state);
        while self.lock().table.build_index() {}
        if other_filter {
            self.in_slices(|state, slot, now| {
                state.table.retain(slot, now, |mapping| filter.matches_mapping(mapping))
            });
        }
        Ok(())
    }
}
