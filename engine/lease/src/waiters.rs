//! Sessions that wait for the end of a tenure (spec 05 L7).

use crate::table::{Index, Slots, hash};

/// End of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Waiter {
    session_id: i64,
    correlation_id: i64,
    lease_slot: u32,
    next: u32,
    previous: u32,
}

/// A wait of a session for the end of a tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) session_id: i64,
    pub(crate) correlation_id: i64,
    pub(crate) lease_slot: usize,
}

/// All waits. The waits for a lease form a list that begins at its slot; when its tenure ends, all of them are
/// removed.
pub(crate) struct Waiters {
    slots: Slots,
    index: Index,
    waiters: Box<[Waiter]>,
    /// First waiter of each lease's slot.
    first: Box<[u32]>,
}

fn hash_of(session_id: i64, correlation_id: i64) -> u32 {
    hash(session_id as u64, &correlation_id.to_le_bytes())
}

impl Waiters {
    pub(crate) fn new(limit: usize, max_leases: usize) -> Self {
        let none = Waiter { session_id: 0, correlation_id: 0, lease_slot: NONE, next: NONE, previous: NONE };
        Self {
            slots: Slots::new(limit),
            index: Index::new(limit),
            waiters: vec![none; limit].into_boxed_slice(),
            first: vec![NONE; max_leases].into_boxed_slice(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    fn find(&self, session_id: i64, correlation_id: i64) -> Option<usize> {
        self.index.find(hash_of(session_id, correlation_id), |waiter| {
            let entry = &self.waiters[waiter];
            entry.session_id == session_id && entry.correlation_id == correlation_id
        })
    }

    /// Registers a wait. A wait that is registered already waits for the new lease from now on. Returns false when
    /// there is no room.
    pub(crate) fn add(&mut self, wait: Wait) -> bool {
        self.cancel(wait.session_id, wait.correlation_id);
        let Some(waiter) = self.slots.take() else { return false };
        self.put(waiter, wait);
        true
    }

    /// Works as [`add`](Self::add), at a certain index and only when the wait is not registered.
    pub(crate) fn add_at(&mut self, waiter: usize, wait: Wait) -> Result<(), &'static str> {
        if self.find(wait.session_id, wait.correlation_id).is_some() {
            return Err("it is there already");
        }
        if !self.slots.take_at(waiter) {
            return Err("its index is taken or beyond max_waiters");
        }
        self.put(waiter, wait);
        Ok(())
    }

    fn put(&mut self, waiter: usize, wait: Wait) {
        let next = self.first[wait.lease_slot];
        self.waiters[waiter] = Waiter {
            session_id: wait.session_id,
            correlation_id: wait.correlation_id,
            lease_slot: wait.lease_slot as u32,
            next,
            previous: NONE,
        };
        if let Some(next) = self.waiters.get_mut(next as usize) {
            next.previous = waiter as u32;
        }
        self.first[wait.lease_slot] = waiter as u32;
        self.index.insert(hash_of(wait.session_id, wait.correlation_id), waiter);
    }

    fn remove(&mut self, waiter: usize) {
        let entry = self.waiters[waiter];
        self.index.remove(hash_of(entry.session_id, entry.correlation_id), waiter);
        if let Some(next) = self.waiters.get_mut(entry.next as usize) {
            next.previous = entry.previous;
        }
        match self.waiters.get_mut(entry.previous as usize) {
            Some(previous) => previous.next = entry.next,
            None => self.first[entry.lease_slot as usize] = entry.next,
        }
        self.slots.give_back(waiter);
    }

    /// Cancels a wait.
    pub(crate) fn cancel(&mut self, session_id: i64, correlation_id: i64) {
        if let Some(waiter) = self.find(session_id, correlation_id) {
            self.remove(waiter);
        }
    }

    /// A session has ended: removes its waits.
    pub(crate) fn on_session_close(&mut self, session_id: i64) {
        let mut from = 0;
        while let Some(waiter) = self.next_from(from) {
            if self.waiters[waiter].session_id == session_id {
                self.remove(waiter);
            }
            from = waiter + 1;
        }
    }

    fn next_from(&self, from: usize) -> Option<usize> {
        if from >= self.slots.limit() { None } else { self.slots.taken_from(from).next() }
    }

    /// Removes and returns the next wait for a lease's slot.
    pub(crate) fn pop(&mut self, lease_slot: usize) -> Option<Wait> {
        let waiter = self.first[lease_slot];
        let entry = *self.waiters.get(waiter as usize)?;
        self.remove(waiter as usize);
        Some(Wait { session_id: entry.session_id, correlation_id: entry.correlation_id, lease_slot })
    }

    /// All waits by index.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, Wait)> + '_ {
        self.slots.taken_from(0).map(|waiter| {
            let entry = &self.waiters[waiter];
            let lease_slot = entry.lease_slot as usize;
            (waiter, Wait { session_id: entry.session_id, correlation_id: entry.correlation_id, lease_slot })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_are_a_map(steps in proptest::collection::vec((0_u8..5, 0_i64..4, 0_i64..4, 0_usize..3), 0..200)) {
            let mut waiters = Waiters::new(6, 3);
            let mut model = BTreeMap::new();
            for (kind, session_id, correlation_id, lease_slot) in steps {
                match kind {
                    0..=1 => {
                        let is_there = model.contains_key(&(session_id, correlation_id));
                        let has_room = is_there || model.len() < 6;
                        let is_added = waiters.add(Wait { session_id, correlation_id, lease_slot });
                        prop_assert_eq!(is_added, has_room);
                        if has_room {
                            model.insert((session_id, correlation_id), lease_slot);
                        }
                    }
                    2 => {
                        waiters.cancel(session_id, correlation_id);
                        model.remove(&(session_id, correlation_id));
                    }
                    3 => {
                        waiters.on_session_close(session_id);
                        model.retain(|wait, _| wait.0 != session_id);
                    }
                    _ => while let Some(wait) = waiters.pop(lease_slot) {
                        let removed = model.remove(&(wait.session_id, wait.correlation_id));
                        prop_assert_eq!(removed, Some(lease_slot));
                    },
                }
                let all: BTreeMap<_, _> = waiters
                    .all()
                    .map(|(_, waiter)| ((waiter.session_id, waiter.correlation_id), waiter.lease_slot))
                    .collect();
                prop_assert_eq!(&all, &model);
                prop_assert_eq!(waiters.len(), model.len());
            }
        }
    }
}
