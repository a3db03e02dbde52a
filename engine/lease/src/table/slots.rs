//! Slots and the index that finds them: their memory is allocated once, and their order is the same on every replica.

/// Set of taken slots. The lowest free slot is taken first, so that slots follow from the state alone.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    /// A bit for each slot; set when it is free.
    free: Box<[u64]>,
    /// A bit for each word of `free` that is not 0.
    summary: Box<[u64]>,
    limit: usize,
    taken: usize,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        let mut free = vec![u64::MAX; limit.div_ceil(64)].into_boxed_slice();
        if let (Some(last), 1..) = (free.last_mut(), limit % 64) {
            *last = (1 << (limit % 64)) - 1;
        }
        let mut summary = vec![u64::MAX; free.len().div_ceil(64)].into_boxed_slice();
        if let (Some(last), 1..) = (summary.last_mut(), free.len() % 64) {
            *last = (1 << (free.len() % 64)) - 1;
        }
        Self { free, summary, limit, taken: 0 }
    }

    /// Number of taken slots.
    pub(crate) fn len(&self) -> usize {
        self.taken
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn is_taken(&self, slot: usize) -> bool {
        slot < self.limit && self.free[slot / 64] & (1 << (slot % 64)) == 0
    }

    /// Takes the lowest free slot.
    pub(crate) fn take(&mut self) -> Option<usize> {
        let outer = self.summary.iter().position(|word| *word != 0)?;
        let word = outer * 64 + self.summary[outer].trailing_zeros() as usize;
        let slot = word * 64 + self.free[word].trailing_zeros() as usize;
        self.occupy(slot);
        Some(slot)
    }

    /// Takes a certain slot; returns false when it is taken or beyond the limit.
    pub(crate) fn take_at(&mut self, slot: usize) -> bool {
        if slot >= self.limit || self.is_taken(slot) {
            return false;
        }
        self.occupy(slot);
        true
    }

    fn occupy(&mut self, slot: usize) {
        let word = slot / 64;
        self.free[word] &= !(1 << (slot % 64));
        if self.free[word] == 0 {
            self.summary[word / 64] &= !(1 << (word % 64));
        }
        self.taken += 1;
    }

    pub(crate) fn give_back(&mut self, slot: usize) {
        debug_assert!(self.is_taken(slot));
        let word = slot / 64;
        self.free[word] |= 1 << (slot % 64);
        self.summary[word / 64] |= 1 << (word % 64);
        self.taken -= 1;
    }

    /// Returns the taken slots from a slot on, ascending.
    pub(crate) fn taken_from(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        let first = from / 64;
        self.free.iter().enumerate().skip(first).flat_map(move |(index, word)| {
            let in_range = (self.limit - index * 64).min(64);
            let mut taken = !word & (u64::MAX >> (64 - in_range));
            if index == first {
                taken &= u64::MAX << (from % 64);
            }
            std::iter::from_fn(move || {
                (taken != 0).then(|| {
                    let bit = taken.trailing_zeros() as usize;
                    taken &= taken - 1;
                    index * 64 + bit
                })
            })
        })
    }
}

/// Hashes bytes, with the same result in every process.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u32 {
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * 0x9E37_79B9_7F4A_7C15_u128;
        (product as u64) ^ ((product >> 64) as u64)
    };
    let mut state = fold(seed ^ 0x6C65_6173_6573, bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        state = fold(state, chunk.try_into().map_or(0, u64::from_le_bytes));
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let state = fold(fold(state, u64::from_le_bytes(last)), 0x5851_F42D_4C95_7F2D);
    (state ^ (state >> 32)) as u32
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    /// Slot + 1; 0 when the entry is free.
    slot: u32,
}

/// Finds slots by the hash of their contents, with open addressing, at most half full.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    entries: Box<[Entry]>,
}

impl Index {
    pub(crate) fn new(limit: usize) -> Self {
        let length = (2 * limit).next_power_of_two();
        Self { entries: vec![Entry { hash: 0, slot: 0 }; length].into_boxed_slice() }
    }

    fn mask(&self) -> usize {
        self.entries.len() - 1
    }

    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut at = hash as usize & self.mask();
        loop {
            let entry = self.entries[at];
            if entry.slot == 0 {
                return None;
            }
            let slot = entry.slot as usize - 1;
            if entry.hash == hash && is_it(slot) {
                return Some(slot);
            }
            at = (at + 1) & self.mask();
        }
    }

    pub(crate) fn insert(&mut self, hash: u32, slot: usize) {
        let mut at = hash as usize & self.mask();
        while self.entries[at].slot != 0 {
            at = (at + 1) & self.mask();
        }
        self.entries[at] = Entry { hash, slot: slot as u32 + 1 };
    }

    /// Removes a slot; entries that were pushed behind it move up.
    pub(crate) fn remove(&mut self, hash: u32, slot: usize) {
        let mask = self.mask();
        let mut hole = hash as usize & mask;
        while self.entries[hole].slot != slot as u32 + 1 {
            if self.entries[hole].slot == 0 {
                return;
            }
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.entries[at];
            if entry.slot == 0 {
                break;
            }
            let home = entry.hash as usize & mask;
            // The entry moves up unless its home lies behind the hole.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.entries[hole] = entry;
                hole = at;
            }
        }
        self.entries[hole] = Entry { hash: 0, slot: 0 };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_free_slot_is_taken() {
        for limit in [1, 63, 64, 65, 130, 5_000] {
            let mut slots = Slots::new(limit);
            assert!((0..limit).all(|slot| slots.take() == Some(slot)), "{limit}");
            assert_eq!((slots.take(), slots.len()), (None, limit));
            assert_eq!(slots.taken_from(0).count(), limit);
            slots.give_back(limit / 2);
            assert!(!slots.is_taken(limit / 2));
            assert_eq!(slots.taken_from(0).count(), limit - 1);
            assert_eq!(slots.take(), Some(limit / 2));
            assert!(!slots.take_at(limit) && !slots.take_at(0));
            assert_eq!(slots.taken_from(limit - 1).collect::<Vec<_>>(), [limit - 1]);
            assert_eq!(slots.taken_from(limit).count(), 0);
        }
    }

    proptest! {
        #[test]
        fn an_index_is_a_map(steps in proptest::collection::vec((0_u32..6, 0_usize..32, any::<bool>()), 0..400)) {
            let mut index = Index::new(32);
            let mut model = BTreeMap::new();
            for (hash, slot, is_insert) in steps {
                // There are few hashes, so most of them collide.
                let hash = hash.wrapping_mul(0x4000_0001);
                if is_insert {
                    model.entry(slot).or_insert_with(|| {
                        index.insert(hash, slot);
                        hash
                    });
                } else if let Some(hash) = model.remove(&slot) {
                    index.remove(hash, slot);
                }
                for slot in 0..32 {
                    let found = model.get(&slot).and_then(|hash| index.find(*hash, |candidate| candidate == slot));
                    prop_assert_eq!(found.is_some(), model.contains_key(&slot));
                }
            }
        }
    }
}
