//! Timers of services (spec 04 §4.7).

use std::collections::BTreeMap;

use harrier_ringbuf::IdMap;

/// All timers, by deadline and, for equal ones, by the order in which they were set.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_deadline: BTreeMap<TimerKey, i64>,
    by_id: IdMap<i64, TimerKey>,
    /// Timers whose events the log already has, although their service has not set them yet (replay).
    expired: IdMap<i64, u32>,
    next: u64,
}

/// Deadline, and the order in which timers were set.
pub(super) type TimerKey = (i64, u64);

impl Timers {
    /// Sets a timer, or sets it anew.
    pub(super) fn schedule(&mut self, correlation_id: i64, deadline: i64) {
        if let Some(count) = self.expired.get_mut(&correlation_id) {
            *count -= 1;
            if *count == 0 {
                self.expired.remove(&correlation_id);
            }
            return;
        }
        self.cancel(correlation_id);
        let key = (deadline, self.next);
        self.next += 1;
        self.by_deadline.insert(key, correlation_id);
        self.by_id.insert(correlation_id, key);
    }

    /// Takes a timer back; false when it was not set.
    pub(super) fn cancel(&mut self, correlation_id: i64) -> bool {
        let Some(key) = self.by_id.remove(&correlation_id) else { return false };
        self.by_deadline.remove(&key);
        true
    }

    /// The timer that is due first at `time`.
    #[inline]
    pub(super) fn due(&self, time: i64) -> Option<i64> {
        let ((deadline, _), correlation_id) = self.by_deadline.first_key_value()?;
        (*deadline <= time).then_some(*correlation_id)
    }

    /// The log says that a timer has fired.
    pub(super) fn on_event(&mut self, correlation_id: i64) {
        if !self.cancel(correlation_id) {
            *self.expired.entry(correlation_id).or_default() += 1;
        }
    }

    /// When the next timer is due.
    pub(super) fn next_deadline(&self) -> Option<i64> {
        self.by_deadline.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// The timer behind a key, with its own key: for a walk over all of them.
    pub(super) fn after(&self, key: Option<TimerKey>) -> Option<(TimerKey, i64)> {
        let begin = match key {
            Some(key) => std::ops::Bound::Excluded(key),
            None => std::ops::Bound::Unbounded,
        };
        let next = self.by_deadline.range((begin, std::ops::Bound::Unbounded)).next();
        next.map(|(key, correlation_id)| (*key, *correlation_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_once_in_the_order_of_their_deadlines() {
        let mut timers = Timers::default();
        timers.schedule(1, 30);
        timers.schedule(2, 10);
        timers.schedule(1, 20);
        assert_eq!(timers.due(9), None);
        let first = timers.after(None).unwrap();
        assert_eq!((first.1, timers.after(Some(first.0)).unwrap().1), (2, 1));
        let mut fired = Vec::new();
        while let Some(id) = timers.due(100) {
            timers.cancel(id);
            fired.push(id);
        }
        assert_eq!(fired, [2, 1]);
        assert_eq!(timers.after(None), None);
    }

    #[test]
    fn an_event_before_its_timer_swallows_it_once() {
        let mut timers = Timers::default();
        timers.on_event(7);
        timers.schedule(7, 1);
        assert_eq!(timers.due(9), None);
        timers.schedule(7, 1);
        assert_eq!(timers.due(9), Some(7));
    }
}
