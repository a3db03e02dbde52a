//! The cluster's clock (spec 04 §4.13): the calendar time of the start plus the monotonic time since then, and never less
//! than the greatest timestamp in the log.

use std::fmt;
use std::sync::Arc;

use harrier_ringbuf::{Clock, Now};

use crate::codec::TimeUnit;

impl TimeUnit {
    /// Number of nanoseconds in one unit.
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
    /// Stamps messages with the time of `clock`.
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

/// A member's clock in the unit of the cluster.
#[derive(Debug)]
pub(super) struct ClusterClock {
    unit: TimeUnit,
    base_epoch_ns: i64,
    base_ns: i64,
}

impl ClusterClock {
    pub(super) fn new(now: &Now, unit: TimeUnit) -> Self {
        let base_epoch_ns = now.epoch_ms.saturating_mul(1_000_000);
        Self { unit, base_epoch_ns, base_ns: now.ns }
    }

    pub(super) fn unit(&self) -> TimeUnit {
        self.unit
    }

    /// Returns the present cluster time; `logged` is the greatest timestamp in the log.
    #[inline]
    pub(super) fn time(&self, now: &Now, logged: i64) -> i64 {
        ((self.base_epoch_ns + (now.ns - self.base_ns)) / self.unit.nanos()).max(logged)
    }

    /// Returns the time until a deadline of the cluster's clock, ns.
    pub(super) fn until_ns(&self, deadline: i64, now: &Now, logged: i64) -> i64 {
        deadline.saturating_sub(self.time(now, logged)).max(0).saturating_mul(self.unit.nanos())
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
        let clock = ClusterClock::new(&at(0, 1_000), TimeUnit::Millis);
        assert_eq!(clock.time(&at(5_000_000, 0), i64::MIN), 1_005);
        assert_eq!(clock.time(&at(6_000_000, 0), 2_000), 2_000);
        assert_eq!(clock.time(&at(1_500_000_000, 0), 2_000), 2_500);
    }

    #[test]
    fn time_counts_in_its_unit() {
        let clock = ClusterClock::new(&at(500, 1_000), TimeUnit::Nanos);
        assert_eq!(clock.time(&at(503, 0), 0), 1_000_000_003);
        assert_eq!(clock.until_ns(1_000_000_010, &at(503, 0), 0), 7);
        let clock = ClusterClock::new(&at(500, 1_000), TimeUnit::Micros);
        assert_eq!(clock.time(&at(2_500, 0), 0), 1_000_002);
        assert_eq!(clock.until_ns(1_000_010, &at(2_500, 0), 0), 8_000);
        assert_eq!(clock.until_ns(0, &at(2_500, 0), 0), 0);
    }
}
