//! Memory whose words are loom's.
//!
//! Words are declared before the model's threads start; an access to an undeclared word is a mistake of the model and
//! panics. A 64-bit access to a pair of 32-bit words is two accesses, which allows more than real memory does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use harrier_ringbuf::Region;
use loom::sync::atomic::{AtomicI32, AtomicI64, Ordering};

#[derive(Clone)]
enum Word {
    Int(Arc<AtomicI32>),
    Long(Arc<AtomicI64>),
}

type Words = Arc<Mutex<BTreeMap<usize, Word>>>;

#[derive(Clone)]
pub struct ShadowRegion {
    words: Words,
    offset: usize,
    length: usize,
}

impl ShadowRegion {
    pub fn new(length: usize) -> Self {
        Self { words: Words::default(), offset: 0, length }
    }

    /// Declares 32-bit words.
    pub fn words_32(&self, range: Range<usize>) {
        let mut words = self.words.lock().unwrap();
        for at in range.step_by(4) {
            words.insert(self.offset + at, Word::Int(Arc::new(AtomicI32::new(0))));
        }
    }

    /// Declares 64-bit words.
    pub fn words_64(&self, range: Range<usize>) {
        let mut words = self.words.lock().unwrap();
        for at in range.step_by(8) {
            words.insert(self.offset + at, Word::Long(Arc::new(AtomicI64::new(0))));
        }
    }

    fn find(&self, offset: usize) -> Option<Word> {
        assert!(offset < self.length);
        self.words.lock().unwrap().get(&(self.offset + offset)).cloned()
    }

    fn word(&self, offset: usize) -> Word {
        self.find(offset).unwrap_or_else(|| panic!("word {} is not declared", self.offset + offset))
    }

    /// One byte of a 32-bit word; the last of a word's bytes stores it.
    fn put_byte(&self, offset: usize, byte: u8) {
        let word = self.int(offset & !3);
        let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
        bytes[offset & 3] = byte;
        word.store(i32::from_le_bytes(bytes), Ordering::Relaxed);
    }

    fn int(&self, offset: usize) -> Arc<AtomicI32> {
        match self.word(offset) {
            Word::Int(word) => word,
            Word::Long(_) => panic!("32-bit access to the 64-bit word {offset}"),
        }
    }

    fn long(&self, offset: usize) -> Arc<AtomicI64> {
        match self.word(offset) {
            Word::Long(word) => word,
            Word::Int(_) => panic!("atomic 64-bit access to the 32-bit words {offset}"),
        }
    }
}

/// Returns the ordering of a part of a split access.
fn load_order(order: Ordering) -> Ordering {
    if order == Ordering::Release { Ordering::Relaxed } else { order }
}

impl Region for ShadowRegion {
    fn capacity(&self) -> usize {
        self.length
    }

    fn load_i32(&self, offset: usize, order: Ordering) -> i32 {
        self.int(offset).load(load_order(order))
    }

    fn store_i32(&self, offset: usize, value: i32, order: Ordering) {
        self.int(offset).store(value, order);
    }

    fn load_i64(&self, offset: usize, order: Ordering) -> i64 {
        match self.word(offset) {
            Word::Long(word) => word.load(order),
            Word::Int(low) => {
                let low = low.load(order) as u32;
                let high = self.int(offset + 4).load(order);
                i64::from(high) << 32 | i64::from(low)
            }
        }
    }

    fn store_i64(&self, offset: usize, value: i64, order: Ordering) {
        match self.word(offset) {
            Word::Long(word) => word.store(value, order),
            Word::Int(low) => {
                self.int(offset + 4).store((value >> 32) as i32, order);
                low.store(value as i32, order);
            }
        }
    }

    fn compare_and_set_i64(&self, offset: usize, current: i64, new: i64) -> bool {
        self.long(offset).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn compare_and_set_i32(&self, offset: usize, current: i32, new: i32) -> bool {
        self.int(offset).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn fetch_add_i64(&self, offset: usize, delta: i64) -> i64 {
        self.long(offset).fetch_add(delta, Ordering::AcqRel)
    }

    fn fetch_add_i32(&self, offset: usize, delta: i32) -> i32 {
        self.int(offset).fetch_add(delta, Ordering::AcqRel)
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        if let (Ok(long), Some(Word::Long(word))) = (bytes.try_into(), self.find(offset)) {
            return word.store(i64::from_le_bytes(long), Ordering::Relaxed);
        }
        for (index, byte) in bytes.iter().enumerate() {
            self.put_byte(offset + index, *byte);
        }
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        for (index, chunk) in bytes.chunks_mut(4).enumerate() {
            let word = self.load_i32(offset + 4 * index, Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    fn zero(&self, offset: usize, length: usize) {
        for at in (offset..offset + length).step_by(4) {
            self.store_i32(at, 0, Ordering::Relaxed);
        }
    }

    fn slice(&self, offset: usize, length: usize) -> Self {
        assert!(offset + length <= self.length);
        Self { words: self.words.clone(), offset: self.offset + offset, length }
    }
}
