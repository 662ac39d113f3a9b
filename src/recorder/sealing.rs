//! The thread that makes segments, merges them and removes old ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nathistory::{Keeper, Reader};

use super::translate::millis;
use crate::clock::Clock;
use crate::stats::Stats;

/// The time between two looks for work.
const REST: Duration = Duration::from_secs(1);
/// The time until the next attempt after one has failed.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Does what is due until the daemon stops.
pub(super) fn run(
    mut keeper: Keeper,
    reader: &Reader,
    clock: &Arc<dyn Clock>,
    stats: &Arc<Stats>,
    stopping: &AtomicBool,
) {
    let mut is_failing = false;
    while !stopping.load(Ordering::Relaxed) {
        let rest = match keeper.run_due(millis(clock.now().wall)) {
            Ok(has_more) => {
                if std::mem::take(&mut is_failing) {
                    log::info!("the history's segments are made again");
                }
                if has_more { Duration::ZERO } else { REST }
            }
            Err(error) => {
                stats.history.write_errors.increment();
                if !std::mem::replace(&mut is_failing, true) {
                    log::error!("the history's segments cannot be made, trying again: {error}");
                }
                RETRY_PAUSE
            }
        };
        measure(reader, stats);
        std::thread::park_timeout(rest);
    }
}

/// Counts segments and bytes, for metrics.
fn measure(reader: &Reader, stats: &Stats) {
    let figures = reader.figures();
    stats.history.segments.store(figures.segments as u64, Ordering::Relaxed);
    stats.history.bytes_on_disk.store(figures.segment_bytes + figures.log_bytes, Ordering::Relaxed);
}
