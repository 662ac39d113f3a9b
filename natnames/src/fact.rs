//! A claim with its time.

use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::host::Host;
use crate::time::Millis;

/// A moment that is known to lie in this span, its ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// It was not before.
    pub earliest: Millis,
    /// It was not later.
    pub latest: Millis,
}

impl Span {
    /// A moment that is known exactly.
    pub fn exactly(at: Millis) -> Self {
        Self { earliest: at, latest: at }
    }
}

/// Who had an address, from when, until when, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The address, or a network.
    pub net: IpNetwork,
    /// Who had it.
    pub host: Arc<Host>,
    /// The number of the source.
    pub source: u8,
    /// When it began.
    pub began: Span,
    /// When that was learnt.
    pub learnt: Millis,
    /// When it ended; `None` if the source has not said so.
    pub ended: Option<Span>,
    /// When it ends, unless it is renewed.
    pub until: Option<Millis>,
}

impl Fact {
    /// Whether this held at a moment: certainly, or possibly. `None` if it did not.
    pub(crate) fn holds(&self, at: Millis) -> Option<bool> {
        let end = self.end();
        if at < self.began.earliest || at >= end.latest {
            return None;
        }
        Some(at >= self.began.latest && at < end.earliest)
    }

    /// When it ended or will, as far as its source has said.
    pub fn end(&self) -> Span {
        let until = self.until.unwrap_or(Millis::MAX);
        self.ended.map_or(Span::exactly(until), |ended| Span {
            earliest: ended.earliest.min(until),
            latest: ended.latest.min(until),
        })
    }

    /// Whether it held, or can have held, at some moment from `from` to `to`.
    pub(crate) fn touches(&self, from: Millis, to: Millis) -> bool {
        self.began.earliest <= to && self.end().latest > from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_certainly_between_its_spans_only() {
        let fact = |ended, until| Fact {
            net: "192.168.7.23/32".parse().unwrap(),
            host: Arc::default(),
            source: 0,
            began: Span { earliest: 100, latest: 110 },
            learnt: 110,
            ended,
            until,
        };
        let open = fact(None, None);
        assert_eq!(
            [99, 100, 109, 110, 1 << 50].map(|at| open.holds(at)),
            [None, Some(false), Some(false), Some(true), Some(true)]
        );
        let ended = fact(Some(Span { earliest: 200, latest: 220 }), Some(300));
        assert_eq!(
            [199, 200, 219, 220].map(|at| ended.holds(at)),
            [Some(true), Some(false), Some(false), None]
        );
        let lease = fact(None, Some(300));
        assert_eq!([299, 300].map(|at| lease.holds(at)), [Some(true), None]);
        assert!(
            lease.touches(0, 100)
                && lease.touches(299, 500)
                && !lease.touches(300, 500)
                && !lease.touches(0, 99)
        );
    }
}
