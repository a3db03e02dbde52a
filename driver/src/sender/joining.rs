//! Receivers that join a stream whose sender follows only spies (spec 02 §2.4, §2.6).
//!
//! With `ssc` the sender follows its spies as fast as they read. Meanwhile a joining receiver creates an image and
//! answers the SETUP with a status message for the SETUP's position. The sender refuses that message when it has
//! advanced by more than half a term since. While a receiver joins, the sender therefore advances by at most half a
//! term.

use super::publication::SETUP_INTERVAL_NS;

/// Longest time between two SETUPs of one series, ns.
const SERIES_NS: i64 = 2 * SETUP_INTERVAL_NS;

/// State of the receivers that are joining.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// Time at which a receiver last asked for a SETUP or was refused for being too late, ns.
    heard_ns: Option<i64>,
    setup_ns: i64,
    setup_position: i64,
    /// Position of the previous SETUP, whose status message may still arrive.
    awaited_position: i64,
}

impl Joining {
    /// Notes a frame of a receiver that has not joined yet.
    pub(super) fn on_heard(&mut self, now_ns: i64) {
        self.heard_ns = Some(now_ns);
    }

    /// Notes that a SETUP is sent.
    pub(super) fn on_setup(&mut self, position: i64, now_ns: i64) {
        let is_first = now_ns > self.setup_ns + SERIES_NS;
        self.awaited_position = if is_first { position } else { self.setup_position };
        (self.setup_position, self.setup_ns) = (position, now_ns);
    }

    /// Returns the position up to which the sender may follow its spies; `None` while no receiver joins. A receiver
    /// that was silent for `timeout_ns` has given up.
    pub(super) fn limit(&self, half_term: i64, timeout_ns: i64, now_ns: i64) -> Option<i64> {
        let is_joining = self.heard_ns.is_some_and(|heard_ns| now_ns - heard_ns <= timeout_ns);
        (is_joining && now_ns <= self.setup_ns + SERIES_NS).then_some(self.awaited_position + half_term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn each_setup_has_an_interval_to_be_answered_in() {
        let mut joining = Joining::default();
        joining.on_setup(640, 1_000 * MS);
        assert_eq!(joining.limit(1_000, 500 * MS, 1_000 * MS), None, "nobody is there");
        joining.on_heard(1_001 * MS);
        assert_eq!(joining.limit(1_000, 500 * MS, 1_001 * MS), Some(1_640));
        joining.on_setup(1_280, 1_101 * MS);
        assert_eq!(joining.limit(1_000, 500 * MS, 1_200 * MS), Some(1_640));
        joining.on_setup(1_600, 1_202 * MS);
        assert_eq!(joining.limit(1_000, 500 * MS, 1_202 * MS), Some(2_280));
        assert_eq!(joining.limit(1_000, 500 * MS, 1_402 * MS), Some(2_280));
        assert_eq!(joining.limit(1_000, 500 * MS, 1_403 * MS), None, "no SETUP is under way");
    }

    #[test]
    fn who_is_silent_is_not_waited_for() {
        let mut joining = Joining::default();
        joining.on_heard(1_000 * MS);
        for step in 0..7 {
            let now_ns = (1_000 + 100 * step) * MS;
            joining.on_setup(0, now_ns);
            assert_eq!(joining.limit(1_000, 500 * MS, now_ns).is_some(), step <= 5);
        }
    }
}
