//! What is due next.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::catalog::SegmentFile;
use crate::disk::Lock;
use crate::error::Error;
use crate::keeper::retention::{Retention, oldest_due};
use crate::keeper::{merge, seal};
use crate::log::log_name;
use crate::removal::Removal;
use crate::segment::{Segment, Written};
use crate::state::Shared;
use crate::time::Millis;

/// Makes segments of what the writer froze, merges those of an hour and of a day, and removes old ones. There is
/// one, which can have a thread of its own: the writer and readers never wait for its disk.
pub struct Keeper {
    shared: Arc<Shared>,
    retention: Retention,
    /// The name and the hash of the newest segment.
    newest: Option<(String, String)>,
    /// Files that no new question uses. Each is removed when the last question that can use it has ended.
    doomed: Vec<Arc<SegmentFile>>,
    /// Logs of which segments were made, and that could not be removed.
    done_logs: BTreeSet<String>,
    /// Segments that cannot be merged, because they are damaged.
    unmergeable: BTreeSet<String>,
    _lock: Arc<Lock>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>, retention: Retention, lock: Arc<Lock>) -> Self {
        Self {
            shared,
            retention,
            newest: None,
            doomed: Vec::new(),
            done_logs: BTreeSet::new(),
            unmergeable: BTreeSet::new(),
            _lock: lock,
        }
    }

    /// Does one thing that is due. Returns whether there was one: then more can be due.
    ///
    /// # Errors
    /// Those of the disk, and `Damaged` if a segment that is to be merged is not what was written. It can be
    /// called again, later.
    pub fn run_due(&mut self, now: Millis) -> Result<bool, Error> {
        self.remove_doomed()?;
        let made = match self.seal_oldest() {
            Ok(false) => self.merge_due(),
            other => other,
        };
        match made {
            Ok(true) => Ok(true),
            Ok(false) => self.retire_oldest(now),
            // If the disk is full, removing makes room.
            Err(error) => {
                if self.retire_oldest(now)? {
                    Ok(true)
                } else {
                    Err(error)
                }
            }
        }
    }

    fn seal_oldest(&mut self) -> Result<bool, Error> {
        let (frozen, newest) = {
            let state = self.shared.read();
            let Some(frozen) = state.frozen.first() else { return Ok(false) };
            (Arc::clone(frozen), state.catalog.last().cloned())
        };
        let previous = match newest {
            Some(newest) => self.hash_of(&newest)?,
            None => None,
        };
        let written = seal::seal(&*self.shared.disk, &self.shared.gateway, &frozen, previous)?;
        let file = added(&written)?;
        {
            // In one step, so that readers find each mapping once.
            let mut state = self.shared.write();
            state.catalog = Arc::new(state.catalog.with(file));
            state.frozen.retain(|other| other.number != frozen.number);
        }
        self.newest = Some((written.name, written.hash));
        self.done_logs.insert(log_name(frozen.number));
        self.remove_done_logs()?;
        Ok(true)
    }

    /// The hash of the newest segment; `None` if it is damaged, so that the chain does not confirm it.
    fn hash_of(&self, newest: &SegmentFile) -> Result<Option<String>, Error> {
        if let Some((_, hash)) = self.newest.as_ref().filter(|(name, _)| *name == newest.file) {
            return Ok(Some(hash.clone()));
        }
        let verified = Segment::open(&*self.shared.disk, &newest.file).and_then(|segment| {
            segment.verify()?;
            segment.hash()
        });
        match verified {
            Ok(hash) => Ok(Some(hash)),
            Err(error) if error.is_of_one_file() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn merge_due(&mut self) -> Result<bool, Error> {
        let catalog = Arc::clone(&self.shared.read().catalog);
        let Some(inputs) = merge::due(&catalog, &self.unmergeable) else { return Ok(false) };
        let disk = Arc::clone(&self.shared.disk);
        // What is frozen does not wait until a whole day is merged.
        let mut between = || {
            while self.seal_oldest()? {}
            Ok(())
        };
        let merged = match merge::merge(&*disk, &catalog, inputs, &mut between) {
            Ok(merged) => merged,
            Err(merge::Failed { error, damaged }) => {
                self.unmergeable.extend(damaged);
                return Err(error);
            }
        };
        let Some(written) = merged else {
            // The name of the gateway changed in between.
            self.unmergeable.insert(inputs[0].file.clone());
            return Ok(true);
        };
        let file = added(&written)?;
        let mut state = self.shared.write();
        let next = Arc::new(state.catalog.with(file));
        let (first, last) = (written.info.first, written.info.last);
        let inputs = catalog.segments().iter();
        let inputs = inputs.filter(|input| input.name.first >= first && input.name.last <= last);
        self.doomed.extend(inputs.cloned());
        state.catalog = next;
        drop(state);
        drop(catalog);
        self.remove_doomed()?;
        Ok(true)
    }

    fn retire_oldest(&mut self, now: Millis) -> Result<bool, Error> {
        let oldest = {
            let state = self.shared.read();
            let logs = state.log_bytes + state.frozen.iter().map(|frozen| frozen.log_bytes).sum::<u64>();
            oldest_due(&state.catalog, logs, &self.retention, now).cloned()
        };
        let Some(oldest) = oldest else { return Ok(false) };
        let is_it =
            |removal: &Removal| (removal.first, removal.last) == (oldest.name.first, oldest.name.last);
        let (is_logged, is_wanted) = {
            let removals = self.shared.removals();
            (removals.logged.iter().any(is_it), removals.wanted.iter().any(is_it))
        };
        if is_logged {
            let mut state = self.shared.write();
            state.catalog = Arc::new(state.catalog.without(&oldest.file));
            drop(state);
            self.shared.removals().logged.retain(|removal| !is_it(removal));
            self.doomed.push(oldest);
            self.remove_doomed()?;
            return Ok(true);
        }
        if !is_wanted {
            // One that is damaged has none.
            let hashes = match Segment::open(&*self.shared.disk, &oldest.file) {
                Ok(segment) => match segment.hash() {
                    Ok(hash) => [hash].into_iter().chain(segment.info().stands_for.clone()).collect(),
                    Err(error) if error.is_of_one_file() => Vec::new(),
                    Err(error) => return Err(error),
                },
                Err(_) => Vec::new(),
            };
            let name = &oldest.name;
            let (first, last, from, to) = (name.first, name.last, name.from, name.to);
            self.shared.removals().wanted.push(Removal { first, last, from, to, hashes, at: now });
        }
        Ok(false)
    }

    fn remove_doomed(&mut self) -> Result<(), Error> {
        let mut doomed = std::mem::take(&mut self.doomed).into_iter();
        let mut removed = Ok(());
        let mut names = 0;
        for file in doomed.by_ref() {
            // No catalog has it any more, so nobody can get another reference.
            if Arc::strong_count(&file) > 1 {
                self.doomed.push(file);
                continue;
            }
            self.shared.close_segment(&file.file);
            removed = self.remove(&file.file);
            if removed.is_err() {
                self.doomed.push(file);
                break;
            }
            names += 1;
        }
        self.doomed.extend(doomed);
        removed?;
        self.remove_done_logs()?;
        if names > 0 {
            let synced = self.shared.disk.sync_names();
            synced.map_err(|error| Error::io(format!("syncing {}", self.shared.disk.name()), error))?;
        }
        Ok(())
    }

    fn remove_done_logs(&mut self) -> Result<(), Error> {
        while let Some(name) = self.done_logs.first().cloned() {
            self.remove(&name)?;
            self.done_logs.remove(&name);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        match self.shared.disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}/{name}", self.shared.disk.name()), error))
            }
            _ => Ok(()),
        }
    }
}

fn added(written: &Written) -> Result<Arc<SegmentFile>, Error> {
    let file = SegmentFile::new(&written.name, written.bytes);
    file.map(Arc::new).ok_or_else(|| Error::damaged(&written.name, "its name is not that of a segment"))
}
