//! Puts another filter into force: at the start, by a reload, or because the addresses of an
//! interface have changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nfct::Error;

use super::filtering::Filtering;
use super::shared::Tracker;
use crate::filter::Filter;

impl Tracker {
    /// Puts another filter into force. Mappings that it does not accept are removed, and a dump
    /// is requested to add connections that it accepts.
    ///
    /// # Errors
    /// When the event socket does not accept it; the old filter stays in force then.
    pub(super) fn change_filter(&self, filtering: &mut Filtering, filter: &Arc<Filter>) -> Result<(), Error> {
        let mut state = self.lock();
        if state.settings.filter == *filter {
            return Ok(());
        }
        // From the first step to the last one, the table is not complete.
        state.changes_filter = true;
        self.update_complete(&mut state);
        drop(state);
        let attached = self.attach_filter(filtering, filter);
        let mut state = self.lock();
        if let Err(error) = attached {
            state.changes_filter = false;
            self.update_complete(&mut state);
            return Err(error);
        }
        state.settings.filter = Arc::clone(filter);
        // A dump that has begun before may lack connections that the new filter accepts.
        self.invalidate(&mut state);
        // What the old filter held back and has closed is not known.
        state.know_closed_from(self.clock.now(), false);
        drop(state);
        self.in_slices(|state, cursor, now| state.table.retain(cursor, now, |tuples| filter.matches(tuples)));
        let mut state = self.lock();
        state.changes_filter = false;
        self.update_complete(&mut state);
        Ok(())
    }

    /// Lets the kernel check a filter. Without the lock, because this takes the kernel some
    /// time.
    pub(super) fn attach_filter(&self, filtering: &mut Filtering, filter: &Filter) -> Result<(), Error> {
        let unchecked = filter.kernel_filter().attach_what_fits(&self.socket)?;
        filtering.note_unchecked(unchecked);
        self.has_interfaces.store(filter.interfaces().next().is_some(), Ordering::SeqCst);
        Ok(())
    }
}
