//! The cluster's clock (spec 04 §4.13): epoch at start plus what has passed, never behind what the log says.

use std::fmt;
use std::sync::Arc;

use harrier_ringbuf::{Clock, Now};

use crate::codec::TimeUnit;

impl TimeUnit {
    /// Nanoseconds of one unit.
    pub fn nanos(self) -> i64 {
        match self {
            Self::Millis => 1_000_000,
            Self::Micros => 1_000,
            Self::Nanos => 1,
        }
    }
}

/// The clock that stamps messages.
#[derive(Clone)]
pub struct StampClock(Arc<dyn Clock + Send + Sync>);

impl StampClock {
    /// Stamps by `clock`.
    pub fn new(clock: impl Clock + Send + Sync + 'static) -> Self {
        Self(Arc::new(clock))
    }

    #[inline]
    pub(super) fn now(&self) -> Now {
        self.0.now()
    }
}

impl fmt::Debug for StampClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StampClock")
    }
}

/// Cluster time in a unit.
#[derive(Debug)]
pub(super) struct ClusterClock {
    unit: TimeUnit,
    base_epoch_ns: i64,
    base_ns: i64,
    floor: i64,
}

impl ClusterClock {
    pub(super) fn new(now: &Now, unit: TimeUnit) -> Self {
        let base_epoch_ns = now.epoch_ms.saturating_mul(1_000_000);
        Self { unit, base_epoch_ns, base_ns: now.ns, floor: i64::MIN }
    }

    pub(super) fn unit(&self) -> TimeUnit {
        self.unit
    }

    /// The present cluster time.
    #[inline]
    pub(super) fn time(&self, now: &Now) -> i64 {
        ((self.base_epoch_ns + (now.ns - self.base_ns)) / self.unit.nanos()).max(self.floor)
    }

    /// Time until a deadline of the cluster's clock, ns.
    pub(super) fn until_ns(&self, deadline: i64, now: &Now) -> i64 {
        deadline.saturating_sub(self.time(now)).max(0).saturating_mul(self.unit.nanos())
    }

    /// A timestamp was read from or written to the log.
    #[inline]
    pub(super) fn observe(&mut self, timestamp: i64) {
        self.floor = self.floor.max(timestamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: i64, epoch_ms: i64) -> Now {
        Now { ns, epoch_ms }
    }

    #[test]
    fn time_never_falls_behind_the_log() {
        let mut clock = ClusterClock::new(&at(0, 1_000), TimeUnit::Millis);
        assert_eq!(clock.time(&at(5_000_000, 0)), 1_005);
        clock.observe(2_000);
        assert_eq!(clock.time(&at(6_000_000, 0)), 2_000);
        assert_eq!(clock.time(&at(1_500_000_000, 0)), 2_500);
    }

    #[test]
    fn time_counts_in_its_unit() {
        let clock = ClusterClock::new(&at(500, 1_000), TimeUnit::Nanos);
        assert_eq!(clock.time(&at(503, 0)), 1_000_000_003);
        assert_eq!(clock.until_ns(1_000_000_010, &at(503, 0)), 7);
        let clock = ClusterClock::new(&at(500, 1_000), TimeUnit::Micros);
        assert_eq!(clock.time(&at(2_500, 0)), 1_000_002);
        assert_eq!(clock.until_ns(1_000_010, &at(2_500, 0)), 8_000);
        assert_eq!(clock.until_ns(0, &at(2_500, 0)), 0);
    }
}
