//! Notices that somebody has set the wall clock.

use nathistory::{Gap, Reason};

use super::translate::millis;
use crate::clock::Stamp;

/// Smaller changes, in milliseconds, are not worth a gap.
const MIN_STEP: i64 = 5;

/// Compares both clocks.
#[derive(Debug)]
pub(super) struct ClockSteps {
    last: Stamp,
    /// How far the wall clock was ahead of the monotonic one when it was last set.
    ahead: i64,
}

impl ClockSteps {
    pub(super) fn new(now: Stamp) -> Self {
        Self { last: now, ahead: ahead(now) }
    }

    /// The gap of which the times are not known, if the wall clock was set since the last call.
    pub(super) fn check(&mut self, now: Stamp) -> Option<Gap> {
        let last = std::mem::replace(&mut self.last, now);
        let step = ahead(now) - self.ahead;
        if step.abs() < MIN_STEP {
            return None;
        }
        self.ahead = ahead(now);
        // Times that the clock has skipped, or those that it shows twice, and those since the last call.
        let (before, after) = (millis(last.wall), millis(now.wall));
        let from = before.min(before.saturating_add(step));
        let to = after.max(after.saturating_sub(step));
        let detail = format!("the wall clock was set by {:+.3} s", step as f64 / 1000.0);
        Some(Gap { from, to: Some(to), reason: Reason::ClockStepped, detail: Some(detail) })
    }
}

fn ahead(stamp: Stamp) -> i64 {
    millis(stamp.wall) - millis(stamp.monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_becomes_a_gap_with_its_size() {
        let at = |monotonic: u64, wall: u64| Stamp { monotonic, wall };
        let mut steps = ClockSteps::new(at(1_000, 50_000));
        assert_eq!(steps.check(at(1_100, 50_100)), None);
        // The clock drifts by little; that is not forgotten.
        assert_eq!(steps.check(at(1_200, 50_203)), None);
        assert!(steps.check(at(1_300, 50_305)).is_some());
        let back = steps.check(at(1_400, 40_405)).unwrap();
        assert_eq!((back.from, back.to), (40_305, Some(50_405)));
        assert_eq!(back.detail.as_deref(), Some("the wall clock was set by -10.000 s"));
        let forth = steps.check(at(1_500, 3_640_505)).unwrap();
        assert_eq!((forth.from, forth.to), (40_405, Some(3_640_505)));
        assert_eq!(steps.check(at(1_600, 3_640_605)), None);
    }
}
