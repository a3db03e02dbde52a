//! Pins: entities that keep leases from expiring.

use super::{Index, Name, Slots, hash};

/// End of a list.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Pin {
    entity: Name,
    lease_slot: u32,
    next: u32,
    previous: u32,
}

/// All pins. The pins of an application form a list that begins at its lease.
pub(super) struct Pins {
    slots: Slots,
    index: Index,
    pins: Box<[Pin]>,
}

fn hash_of(lease_slot: usize, entity: &str) -> u32 {
    hash(lease_slot as u64 + 1, entity.as_bytes())
}

impl Pins {
    pub(super) fn new(limit: usize) -> Self {
        let none = Pin { entity: Name::EMPTY, lease_slot: NONE, next: NONE, previous: NONE };
        Self {
            slots: Slots::new(limit),
            index: Index::new(limit),
            pins: vec![none; limit].into_boxed_slice(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.slots.len() == self.slots.limit()
    }

    pub(super) fn find(&self, lease_slot: usize, entity: &str) -> Option<usize> {
        self.index.find(hash_of(lease_slot, entity), |pin| {
            let entry = &self.pins[pin];
            entry.lease_slot as usize == lease_slot && entry.entity.as_bytes() == entity.as_bytes()
        })
    }

    /// Adds a pin at the front of its lease's list; returns the list's new beginning.
    pub(super) fn add(&mut self, lease_slot: usize, entity: &str, first: u32) -> Option<u32> {
        let pin = self.slots.take()?;
        self.put(pin, lease_slot, entity, first);
        Some(pin as u32)
    }

    /// Works as [`add`](Self::add), at a certain index; returns `None` when that is taken or beyond the limit.
    pub(super) fn add_at(&mut self, pin: usize, lease_slot: usize, entity: &str, first: u32) -> Option<u32> {
        if !self.slots.take_at(pin) {
            return None;
        }
        self.put(pin, lease_slot, entity, first);
        Some(pin as u32)
    }

    fn put(&mut self, pin: usize, lease_slot: usize, entity: &str, first: u32) {
        let entry = &mut self.pins[pin];
        entry.entity.set(entity);
        (entry.lease_slot, entry.next, entry.previous) = (lease_slot as u32, first, NONE);
        if let Some(next) = self.pins.get_mut(first as usize) {
            next.previous = pin as u32;
        }
        self.index.insert(hash_of(lease_slot, entity), pin);
    }

    /// Removes a pin from its lease's list; returns the list's new beginning.
    pub(super) fn remove(&mut self, lease_slot: usize, pin: usize, first: u32) -> u32 {
        let entry = self.pins[pin];
        self.index.remove(hash_of(lease_slot, entry.entity.as_str()), pin);
        if let Some(next) = self.pins.get_mut(entry.next as usize) {
            next.previous = entry.previous;
        }
        self.slots.give_back(pin);
        match self.pins.get_mut(entry.previous as usize) {
            Some(previous) => {
                previous.next = entry.next;
                first
            }
            None => entry.next,
        }
    }

    /// Pins from an index on: index, slot of the lease, entity.
    pub(super) fn from(&self, from: usize) -> impl Iterator<Item = (usize, usize, &str)> {
        self.slots.taken_from(from).map(|pin| {
            let entry = &self.pins[pin];
            (pin, entry.lease_slot as usize, entry.entity.as_str())
        })
    }
}
