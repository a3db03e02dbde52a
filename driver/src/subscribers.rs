//! Subscribers of one stream: their positions, and the tether that lets a slow one hold the stream back (spec 02
//! §3.11).

use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::position::FRAME_ALIGNMENT;

/// Times that an untethered subscriber stays in each state, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UntetheredTimeouts {
    pub(crate) window_limit_ns: i64,
    pub(crate) linger_ns: i64,
    pub(crate) resting_ns: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tether {
    Active,
    Linger,
    Resting,
}

/// One subscriber of a stream.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) registration_id: i64,
    pub(crate) position: AtomicCounter,
    is_tethered: bool,
    rejoins: bool,
    state: Tether,
    last_change_ns: i64,
    /// Position at the last check of a stream that has ended.
    seen_position: i64,
}

/// Change of the state of an untethered subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TetherChange {
    /// The subscriber fell behind, so its image is unavailable.
    Unavailable { registration_id: i64 },
    /// The subscriber may go on at `join_position`. Its image is available again with the same counter.
    Available { registration_id: i64, counter_id: i32, join_position: i64 },
    /// The subscriber does not come back, so its counter can be freed.
    Removed { registration_id: i64, counter_id: i32 },
}

/// All subscribers of one stream.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    list: Vec<Subscriber>,
}

impl Subscribers {
    /// Adds a subscriber whose position counter already holds the join position.
    pub(crate) fn add(
        &mut self,
        registration_id: i64,
        position: AtomicCounter,
        is_tethered: bool,
        rejoins: bool,
        now_ns: i64,
    ) {
        let state = Tether::Active;
        self.list.push(Subscriber {
            registration_id,
            position,
            is_tethered,
            rejoins,
            state,
            last_change_ns: now_ns,
            seen_position: i64::MIN,
        });
    }

    /// Removes and returns the subscriber of a subscription.
    pub(crate) fn remove(&mut self, registration_id: i64) -> Option<Subscriber> {
        let index = self.list.iter().position(|one| one.registration_id == registration_id)?;
        Some(self.list.remove(index))
    }

    /// Removes and returns all subscribers.
    pub(crate) fn drain(&mut self) -> Vec<Subscriber> {
        std::mem::take(&mut self.list)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscriber> {
        self.list.iter()
    }

    pub(crate) fn contains(&self, registration_id: i64) -> bool {
        self.list.iter().any(|one| one.registration_id == registration_id)
    }

    /// True when there are no subscribers, not even resting ones.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True when at least one position counts.
    pub(crate) fn has_working(&self) -> bool {
        self.list.iter().any(Subscriber::is_working)
    }

    /// Returns the lowest and the highest of the positions that count.
    #[inline]
    pub(crate) fn min_max(&self) -> Option<(i64, i64)> {
        let mut bounds: Option<(i64, i64)> = None;
        for one in &self.list {
            if one.is_working() {
                // Clients write these counters. A client that leaves the frame alignment must not take the stream with
                // it.
                let position = one.position.get() & !(FRAME_ALIGNMENT as i64 - 1);
                bounds = Some(match bounds {
                    Some((min, max)) => (min.min(position), max.max(position)),
                    None => (position, position),
                });
            }
        }
        bounds
    }

    /// True when all subscribers that have an image have reached `position`. A subscriber that was told that its image
    /// is gone cannot read on, although its position still counts for the window.
    pub(crate) fn have_reached(&self, position: i64) -> bool {
        self.list.iter().filter(|one| one.is_active()).all(|one| one.position.get() >= position)
    }

    /// Position at which a late subscriber joins: the lowest of `position` and all positions that count.
    pub(crate) fn join_position(&self, position: i64) -> i64 {
        self.min_max().map_or(position, |(min, _)| min.min(position))
    }

    /// Moves untethered subscribers between their states. A subscriber below `window_limit` is too slow. A rested one
    /// goes on at `join_position`, unless a tethered one has not come that far (spec 02 §3.11).
    pub(crate) fn check_untethered(
        &mut self,
        window_limit: i64,
        join_position: i64,
        timeouts: &UntetheredTimeouts,
        now_ns: i64,
        changes: &mut Vec<TetherChange>,
    ) {
        // Other untethered subscribers do not count: two that are both too slow would hold each other back.
        let tethered = self.list.iter().filter(|one| one.is_tethered).map(|one| one.position.get());
        let join_position = tethered.fold(join_position, i64::min);
        self.list.retain_mut(|one| {
            if one.is_tethered {
                return true;
            }
            let (registration_id, counter_id) = (one.registration_id, one.position.id());
            let age_ns = now_ns - one.last_change_ns;
            match one.state {
                Tether::Active if one.position.get() > window_limit || is_planted(Bug::LaggardHoldsBack) => {
                    one.last_change_ns = now_ns;
                }
                Tether::Active if age_ns >= timeouts.window_limit_ns => {
                    one.enter(Tether::Linger, now_ns);
                    changes.push(TetherChange::Unavailable { registration_id });
                }
                Tether::Linger if age_ns >= timeouts.linger_ns => {
                    if !one.rejoins {
                        changes.push(TetherChange::Removed { registration_id, counter_id });
                        return false;
                    }
                    one.enter(Tether::Resting, now_ns);
                }
                Tether::Resting if age_ns >= timeouts.resting_ns => {
                    one.position.set_ordered(join_position);
                    one.enter(Tether::Active, now_ns);
                    changes.push(TetherChange::Available { registration_id, counter_id, join_position });
                }
                _ => {}
            }
            true
        });
    }

    /// Removes untethered subscribers that do not read a stream that has ended at `end`. Otherwise they would keep the
    /// stream and block its session for ever. A subscriber that reads on may take any time.
    pub(crate) fn check_ended(
        &mut self,
        end: i64,
        timeouts: &UntetheredTimeouts,
        now_ns: i64,
        changes: &mut Vec<TetherChange>,
    ) {
        for one in self.list.iter_mut().filter(|one| !one.is_tethered && one.is_active()) {
            let position = one.position.get();
            if position != one.seen_position || position >= end {
                one.seen_position = position;
                one.last_change_ns = now_ns;
            } else if now_ns - one.last_change_ns >= timeouts.window_limit_ns {
                one.enter(Tether::Linger, now_ns);
                changes.push(TetherChange::Unavailable { registration_id: one.registration_id });
            }
        }
    }
}

impl Subscriber {
    fn is_working(&self) -> bool {
        self.state != Tether::Resting
    }

    /// True while the subscriber has an image that its client knows.
    pub(crate) fn is_active(&self) -> bool {
        self.state == Tether::Active
    }

    fn enter(&mut self, state: Tether, now_ns: i64) {
        self.state = state;
        self.last_change_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::AtomicBuffer;
    use harrier_ringbuf::counters::CountersManager;

    fn counters(count: i32) -> Vec<AtomicCounter> {
        let (metadata, values) = (AtomicBuffer::heap(512 * 8), AtomicBuffer::heap(128 * 8));
        let mut manager = CountersManager::new(metadata, values, 0).unwrap();
        (0..count)
            .map(|_| {
                let id = manager.allocate(4, &[], "sub-pos", 0).unwrap();
                manager.counter(id).unwrap()
            })
            .collect()
    }

    #[test]
    fn an_untethered_subscriber_leaves_rests_and_rejoins() {
        let counters = counters(2);
        let timeouts = UntetheredTimeouts { window_limit_ns: 10, linger_ns: 20, resting_ns: 30 };
        let mut subscribers = Subscribers::default();
        subscribers.add(1, counters[0].clone(), true, true, 0);
        subscribers.add(2, counters[1].clone(), false, true, 0);
        counters[0].set_ordered(640);
        let step = |subscribers: &mut Subscribers, now_ns| {
            let mut changes = Vec::new();
            subscribers.check_untethered(100, 640, &timeouts, now_ns, &mut changes);
            changes
        };
        assert_eq!(step(&mut subscribers, 9), []);
        assert_eq!(step(&mut subscribers, 10), [TetherChange::Unavailable { registration_id: 2 }]);
        assert_eq!(subscribers.min_max(), Some((0, 640)));
        assert!(subscribers.have_reached(640), "it has no image that it could read");
        assert_eq!(step(&mut subscribers, 30), []);
        assert_eq!(subscribers.min_max(), Some((640, 640)));
        let back = TetherChange::Available { registration_id: 2, counter_id: 1, join_position: 640 };
        assert_eq!(step(&mut subscribers, 60), [back]);
        assert_eq!(counters[1].get(), 640);
    }

    #[test]
    fn two_that_never_read_do_not_hold_each_other() {
        let counters = counters(3);
        let timeouts = UntetheredTimeouts { window_limit_ns: 10, linger_ns: 20, resting_ns: 30 };
        let mut subscribers = Subscribers::default();
        subscribers.add(1, counters[0].clone(), true, true, 0);
        subscribers.add(2, counters[1].clone(), false, true, 0);
        subscribers.add(3, counters[2].clone(), false, true, 45);
        counters[0].set_ordered(640);
        let mut changes = Vec::new();
        for now_ns in 0..=60 {
            subscribers.check_untethered(100, 640, &timeouts, now_ns, &mut changes);
        }
        assert_eq!((counters[1].get(), counters[2].get()), (640, 0), "{changes:?}");
    }

    #[test]
    fn a_stream_that_has_ended_waits_for_those_that_read_on() {
        let counters = counters(3);
        let timeouts = UntetheredTimeouts { window_limit_ns: 10, linger_ns: 20, resting_ns: 30 };
        let mut subscribers = Subscribers::default();
        subscribers.add(1, counters[0].clone(), true, true, 0);
        subscribers.add(2, counters[1].clone(), false, true, 0);
        subscribers.add(3, counters[2].clone(), false, true, 0);
        let mut changes = Vec::new();
        for now_ns in 100..200 {
            counters[1].set_ordered(now_ns / 5 * 32);
            subscribers.check_ended(6_400, &timeouts, now_ns, &mut changes);
            let is_left_behind = now_ns >= 110;
            assert_eq!(!changes.is_empty(), is_left_behind, "{now_ns}");
        }
        assert_eq!(changes, [TetherChange::Unavailable { registration_id: 3 }]);
        counters[1].set_ordered(6_400);
        assert!(!subscribers.have_reached(6_400), "the tethered one may take its time");
        counters[0].set_ordered(6_400);
        assert!(subscribers.have_reached(6_400));
    }

    #[test]
    fn one_that_does_not_rejoin_is_removed() {
        let counters = counters(1);
        let timeouts = UntetheredTimeouts { window_limit_ns: 10, linger_ns: 20, resting_ns: 30 };
        let mut subscribers = Subscribers::default();
        subscribers.add(1, counters[0].clone(), false, false, 0);
        let mut changes = Vec::new();
        subscribers.check_untethered(100, 0, &timeouts, 10, &mut changes);
        subscribers.check_untethered(100, 0, &timeouts, 30, &mut changes);
        assert_eq!(changes[1], TetherChange::Removed { registration_id: 1, counter_id: 0 });
        assert!(subscribers.is_empty());
    }
}
