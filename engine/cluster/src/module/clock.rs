//! The cluster's clock (spec 04 §4.13): epoch at start plus what has passed, never behind what the log says.

use harrier_ringbuf::Now;

/// Cluster time in milliseconds.
#[derive(Debug)]
pub(super) struct ClusterClock {
    base_ms: i64,
    base_ns: i64,
    floor_ms: i64,
}

impl ClusterClock {
    pub(super) fn new(now: &Now) -> Self {
        Self { base_ms: now.epoch_ms, base_ns: now.ns, floor_ms: i64::MIN }
    }

    /// The present cluster time.
    pub(super) fn time(&self, now: &Now) -> i64 {
        (self.base_ms + (now.ns - self.base_ns) / 1_000_000).max(self.floor_ms)
    }

    /// A timestamp was read from or written to the log.
    pub(super) fn observe(&mut self, timestamp: i64) {
        self.floor_ms = self.floor_ms.max(timestamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_falls_behind_the_log() {
        let at = |ns, epoch_ms| Now { ns, epoch_ms };
        let mut clock = ClusterClock::new(&at(0, 1_000));
        assert_eq!(clock.time(&at(5_000_000, 0)), 1_005);
        clock.observe(2_000);
        assert_eq!(clock.time(&at(6_000_000, 0)), 2_000);
        assert_eq!(clock.time(&at(1_500_000_000, 0)), 2_500);
    }
}
