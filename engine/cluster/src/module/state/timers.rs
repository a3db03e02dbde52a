//! Timers of services (spec 04 §4.7).

use std::collections::BTreeMap;

use harrier_ringbuf::IdMap;

/// Deadline of a timer, and a number that orders equal deadlines by the time at which the timers were set.
pub(in crate::module) type TimerKey = (i64, u64);

/// All timers that are set.
#[derive(Debug, Default)]
pub(in crate::module) struct Timers {
    by_deadline: BTreeMap<TimerKey, i64>,
    by_id: IdMap<i64, TimerKey>,
    /// Counts for each id the events that were read from the log before the service set the timer.
    expired: IdMap<i64, u32>,
    next: u64,
}

impl Timers {
    /// Sets a timer, or gives a timer that is set another deadline.
    pub(super) fn schedule(&mut self, correlation_id: i64, deadline: i64) {
        if let Some(count) = self.expired.get_mut(&correlation_id) {
            *count -= 1;
            if *count == 0 {
                self.expired.remove(&correlation_id);
            }
            return;
        }
        self.remove(correlation_id);
        let key = (deadline, self.next);
        self.next += 1;
        self.insert(correlation_id, key);
    }

    fn insert(&mut self, correlation_id: i64, key: TimerKey) {
        self.by_deadline.insert(key, correlation_id);
        self.by_id.insert(correlation_id, key);
    }

    /// Removes a timer; returns its key, or `None` when it was not set.
    pub(super) fn remove(&mut self, correlation_id: i64) -> Option<TimerKey> {
        let key = self.by_id.remove(&correlation_id)?;
        self.by_deadline.remove(&key);
        Some(key)
    }

    /// Sets a timer again whose event was rolled back, unless its service has set it since.
    pub(super) fn restore(&mut self, correlation_id: i64, key: TimerKey) {
        if !self.by_id.contains_key(&correlation_id) {
            self.insert(correlation_id, key);
        }
    }

    /// Takes note of an event that was read from the log. An event whose timer is not set yet cancels the next call of
    /// [`schedule`](Self::schedule) for that id, because the service is behind the log.
    pub(super) fn on_read(&mut self, correlation_id: i64) {
        if self.remove(correlation_id).is_none() {
            *self.expired.entry(correlation_id).or_default() += 1;
        }
    }

    /// Returns the timer with the earliest deadline if it is due at `time`.
    #[inline]
    pub(in crate::module) fn due(&self, time: i64) -> Option<i64> {
        let ((deadline, _), correlation_id) = self.by_deadline.first_key_value()?;
        (*deadline <= time).then_some(*correlation_id)
    }

    /// Returns the earliest deadline.
    pub(in crate::module) fn next_deadline(&self) -> Option<i64> {
        self.by_deadline.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Returns the timer that follows a key in the order of deadlines, with its own key; the first one for `None`.
    pub(in crate::module) fn after(&self, key: Option<TimerKey>) -> Option<(TimerKey, i64)> {
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
            timers.remove(id);
            fired.push(id);
        }
        assert_eq!(fired, [2, 1]);
        assert_eq!(timers.after(None), None);
    }

    #[test]
    fn an_event_before_its_timer_cancels_one_schedule() {
        let mut timers = Timers::default();
        timers.on_read(7);
        timers.schedule(7, 1);
        assert_eq!(timers.due(9), None);
        timers.schedule(7, 1);
        assert_eq!(timers.due(9), Some(7));
    }

    #[test]
    fn a_restored_timer_keeps_its_place_and_yields_to_a_newer_one() {
        let mut timers = Timers::default();
        timers.schedule(1, 5);
        timers.schedule(2, 5);
        let key = timers.remove(1).unwrap();
        timers.restore(1, key);
        assert_eq!(timers.due(5), Some(1));
        let key = timers.remove(1).unwrap();
        timers.schedule(1, 9);
        timers.restore(1, key);
        assert_eq!((timers.due(5), timers.after(None).unwrap().1), (Some(2), 2));
        timers.remove(2);
        assert_eq!(timers.next_deadline(), Some(9));
    }
}
