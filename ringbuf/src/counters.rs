//! Counters that every process of a host can see (spec 01 §3.6).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use thiserror::Error;

use crate::{AtomicBuffer, Region, SharedWord};

/// Bytes of a metadata record.
pub const METADATA_LENGTH: usize = 512;
/// Bytes of a value record.
pub const VALUE_LENGTH: usize = 128;
/// Longest key, bytes.
pub const MAX_KEY_LENGTH: usize = 112;
/// Longest label, bytes.
pub const MAX_LABEL_LENGTH: usize = 380;

/// State of a record that was never used.
pub const STATE_UNUSED: i32 = 0;
/// State of a counter.
pub const STATE_ALLOCATED: i32 = 1;
/// State of a record whose counter was freed.
pub const STATE_RECLAIMED: i32 = -1;

const TYPE_ID: usize = 4;
const FREE_FOR_REUSE_DEADLINE: usize = 8;
const KEY: usize = 16;
const LABEL_LENGTH: usize = 128;
const LABEL: usize = 132;

const REGISTRATION_ID: usize = 8;
const OWNER_ID: usize = 16;
const REFERENCE_ID: usize = 24;

/// Reason why an operation on counters was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CountersError {
    /// All counters are in use.
    #[error("unable to allocate counter: all {capacity} are in use; raise aeron.counters.buffer.length")]
    Full {
        /// Number of counters.
        capacity: usize,
    },
    /// No counter has this id.
    #[error("counter {id} is outside 0..{capacity}")]
    Id {
        /// The id.
        id: i32,
        /// Number of counters.
        capacity: usize,
    },
    /// The lengths of the two sections contradict each other.
    #[error("counter metadata of {metadata} bytes for values of {values} bytes")]
    Lengths {
        /// Bytes of metadata.
        metadata: usize,
        /// Bytes of values.
        values: usize,
    },
}

/// Value of one counter. The owner of the counter writes it; everybody may read it.
#[derive(Debug, Clone)]
pub struct AtomicCounter {
    value: SharedWord,
    id: i32,
}

impl AtomicCounter {
    /// Id of the counter.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Loads the value, together with what its writer stored before.
    #[inline(always)]
    pub fn get(&self) -> i64 {
        self.value.load(Ordering::Acquire)
    }

    /// Loads the value, for its only writer.
    #[inline(always)]
    pub fn get_plain(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }

    /// Stores a value that publishes what was stored before.
    #[inline(always)]
    pub fn set_ordered(&self, value: i64) {
        self.value.store(value, Ordering::Release);
    }

    /// Stores a value that publishes nothing else.
    #[inline(always)]
    pub fn set_plain(&self, value: i64) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// Adds one; for a counter with one writer.
    #[inline(always)]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds a number; for a counter with one writer.
    #[inline(always)]
    pub fn add(&self, delta: i64) {
        self.set_ordered(self.get_plain() + delta);
    }

    /// Adds a number, for a counter with many writers; returns the value before.
    #[inline(always)]
    pub fn get_and_add(&self, delta: i64) -> i64 {
        self.value.fetch_add(delta, Ordering::AcqRel)
    }

    /// Replaces one value by another; returns true when it did.
    pub fn compare_and_set(&self, current: i64, new: i64) -> bool {
        self.value.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Raises the value, for a counter with one writer; returns true when it did.
    #[inline(always)]
    pub fn propose_max(&self, value: i64) -> bool {
        let higher = value > self.get_plain();
        if higher {
            self.set_ordered(value);
        }
        higher
    }
}

/// Reads all counters.
#[derive(Debug, Clone)]
pub struct CountersReader {
    metadata: AtomicBuffer,
    values: AtomicBuffer,
    capacity: usize,
}

impl CountersReader {
    /// Creates a reader of the two sections.
    ///
    /// # Errors
    ///
    /// The lengths of the sections contradict each other.
    pub fn new(metadata: AtomicBuffer, values: AtomicBuffer) -> Result<Self, CountersError> {
        let capacity = values.capacity() / VALUE_LENGTH;
        if metadata.capacity() < capacity * METADATA_LENGTH {
            return Err(CountersError::Lengths { metadata: metadata.capacity(), values: values.capacity() });
        }
        Ok(Self { metadata, values, capacity })
    }

    /// Number of counters that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn check(&self, id: i32) -> Result<usize, CountersError> {
        usize::try_from(id)
            .ok()
            .filter(|index| *index < self.capacity)
            .ok_or(CountersError::Id { id, capacity: self.capacity })
    }

    fn meta_int(&self, id: i32, offset: usize, order: Ordering) -> i32 {
        self.check(id).map_or(0, |index| self.metadata.load_i32(index * METADATA_LENGTH + offset, order))
    }

    fn value_long(&self, id: i32, offset: usize) -> i64 {
        self.check(id)
            .map_or(0, |index| self.values.load_i64(index * VALUE_LENGTH + offset, Ordering::Acquire))
    }

    /// Returns a handle to the value of a counter.
    ///
    /// # Errors
    ///
    /// [`CountersError::Id`].
    pub fn counter(&self, id: i32) -> Result<AtomicCounter, CountersError> {
        let index = self.check(id)?;
        Ok(AtomicCounter { value: SharedWord::of(&self.values, index * VALUE_LENGTH), id })
    }

    /// State of a record; 0 for ids outside.
    pub fn state(&self, id: i32) -> i32 {
        self.meta_int(id, 0, Ordering::Acquire)
    }

    /// True for a counter in use.
    pub fn is_allocated(&self, id: i32) -> bool {
        self.state(id) == STATE_ALLOCATED
    }

    /// Type of a counter.
    pub fn type_id(&self, id: i32) -> i32 {
        self.meta_int(id, TYPE_ID, Ordering::Relaxed)
    }

    /// Value of a counter.
    pub fn value(&self, id: i32) -> i64 {
        self.value_long(id, 0)
    }

    /// Registration id of a counter.
    pub fn registration_id(&self, id: i32) -> i64 {
        self.value_long(id, REGISTRATION_ID)
    }

    /// Client that owns a counter.
    pub fn owner_id(&self, id: i32) -> i64 {
        self.value_long(id, OWNER_ID)
    }

    /// Reference id of a counter.
    pub fn reference_id(&self, id: i32) -> i64 {
        self.value_long(id, REFERENCE_ID)
    }

    /// Time at which a freed record may be used again, epoch ms.
    pub fn free_for_reuse_deadline_ms(&self, id: i32) -> i64 {
        self.check(id).map_or(0, |index| {
            self.metadata.load_i64(index * METADATA_LENGTH + FREE_FOR_REUSE_DEADLINE, Ordering::Relaxed)
        })
    }

    /// Key of a counter.
    pub fn key(&self, id: i32) -> [u8; MAX_KEY_LENGTH] {
        let mut key = [0; MAX_KEY_LENGTH];
        if let Ok(index) = self.check(id) {
            self.metadata.copy_out(index * METADATA_LENGTH + KEY, &mut key);
        }
        key
    }

    /// Label of a counter.
    pub fn label(&self, id: i32) -> String {
        let length =
            self.meta_int(id, LABEL_LENGTH, Ordering::Acquire).clamp(0, MAX_LABEL_LENGTH as i32) as usize;
        let mut bytes = vec![0; length];
        if let Ok(index) = self.check(id) {
            self.metadata.copy_out(index * METADATA_LENGTH + LABEL, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Calls `visit` with id, type, key and label of every counter in use.
    pub fn for_each(&self, visit: &mut impl FnMut(i32, i32, &[u8], &str)) {
        for id in 0..self.capacity as i32 {
            match self.state(id) {
                STATE_UNUSED => break,
                STATE_ALLOCATED => visit(id, self.type_id(id), &self.key(id), &self.label(id)),
                _ => {}
            }
        }
    }

    /// Id of the first counter in use for which `matches` holds, given id, type and key.
    pub fn find(&self, matches: &mut impl FnMut(i32, i32, &[u8]) -> bool) -> Option<i32> {
        for id in 0..self.capacity as i32 {
            match self.state(id) {
                STATE_UNUSED => break,
                STATE_ALLOCATED if matches(id, self.type_id(id), &self.key(id)) => return Some(id),
                _ => {}
            }
        }
        None
    }

    /// Id of the counter in use with this type and registration id.
    pub fn find_by_registration(&self, type_id: i32, registration_id: i64) -> Option<i32> {
        for id in 0..self.capacity as i32 {
            match self.state(id) {
                STATE_UNUSED => break,
                STATE_ALLOCATED
                    if self.type_id(id) == type_id && self.registration_id(id) == registration_id =>
                {
                    return Some(id);
                }
                _ => {}
            }
        }
        None
    }

    /// Appends text to a label, as far as there is room.
    pub fn append_to_label(&self, id: i32, text: &str) {
        let Ok(index) = self.check(id) else { return };
        let record = index * METADATA_LENGTH;
        let length = self
            .metadata
            .load_i32(record + LABEL_LENGTH, Ordering::Acquire)
            .clamp(0, MAX_LABEL_LENGTH as i32);
        let length = length as usize;
        let taken = text.len().min(MAX_LABEL_LENGTH - length);
        self.metadata.copy_in(record + LABEL + length, &text.as_bytes()[..taken]);
        self.metadata.store_i32(record + LABEL_LENGTH, (length + taken) as i32, Ordering::Release);
    }

    /// Sets the reference id of a counter; for the client that owns it.
    pub fn set_reference_id(&self, id: i32, reference_id: i64) {
        if let Ok(index) = self.check(id) {
            self.values.store_i64(index * VALUE_LENGTH + REFERENCE_ID, reference_id, Ordering::Release);
        }
    }
}

/// Allocates and frees counters; only the driver does.
#[derive(Debug)]
pub struct CountersManager {
    reader: CountersReader,
    free: VecDeque<i32>,
    high_water_mark: i32,
    reuse_timeout_ms: i64,
}

impl CountersManager {
    /// Creates the manager of zeroed sections. A freed record is used again after `reuse_timeout_ms`.
    ///
    /// # Errors
    ///
    /// The lengths of the sections contradict each other.
    pub fn new(
        metadata: AtomicBuffer,
        values: AtomicBuffer,
        reuse_timeout_ms: i64,
    ) -> Result<Self, CountersError> {
        let reader = CountersReader::new(metadata, values)?;
        Ok(Self { reader, free: VecDeque::new(), high_water_mark: -1, reuse_timeout_ms })
    }

    /// A reader of the same counters.
    pub fn reader(&self) -> &CountersReader {
        &self.reader
    }

    /// Allocates a counter whose value and ids are 0. A key or label that is too long is cut.
    ///
    /// # Errors
    ///
    /// [`CountersError::Full`].
    pub fn allocate(
        &mut self,
        type_id: i32,
        key: &[u8],
        label: &str,
        now_ms: i64,
    ) -> Result<i32, CountersError> {
        let id = self.next_id(now_ms)?;
        let record = id as usize * METADATA_LENGTH;
        let metadata = &self.reader.metadata;
        metadata.store_i32(record + TYPE_ID, type_id, Ordering::Relaxed);
        metadata.store_i64(record + FREE_FOR_REUSE_DEADLINE, i64::MAX, Ordering::Relaxed);
        metadata.zero(record + KEY, MAX_KEY_LENGTH);
        metadata.copy_in(record + KEY, &key[..key.len().min(MAX_KEY_LENGTH)]);
        let label = &label.as_bytes()[..label.len().min(MAX_LABEL_LENGTH)];
        metadata.copy_in(record + LABEL, label);
        metadata.store_i32(record + LABEL_LENGTH, label.len() as i32, Ordering::Release);
        metadata.store_i32(record, STATE_ALLOCATED, Ordering::Release);
        Ok(id)
    }

    fn next_id(&mut self, now_ms: i64) -> Result<i32, CountersError> {
        let reusable = self.free.iter().position(|id| now_ms >= self.reader.free_for_reuse_deadline_ms(*id));
        if let Some(id) = reusable.and_then(|place| self.free.remove(place)) {
            let record = id as usize * VALUE_LENGTH;
            let values = &self.reader.values;
            values.store_i64(record + REGISTRATION_ID, 0, Ordering::Release);
            values.store_i64(record + OWNER_ID, 0, Ordering::Relaxed);
            values.store_i64(record + REFERENCE_ID, 0, Ordering::Relaxed);
            values.store_i64(record, 0, Ordering::Release);
            return Ok(id);
        }
        if (self.high_water_mark + 1) as usize >= self.reader.capacity {
            return Err(CountersError::Full { capacity: self.reader.capacity });
        }
        self.high_water_mark += 1;
        Ok(self.high_water_mark)
    }

    /// Frees a counter. Its label and value stay readable until the record is used again.
    pub fn free(&mut self, id: i32, now_ms: i64) {
        let Ok(index) = self.reader.check(id) else { return };
        if !self.reader.is_allocated(id) {
            return;
        }
        let record = index * METADATA_LENGTH;
        let metadata = &self.reader.metadata;
        metadata.store_i32(record, STATE_RECLAIMED, Ordering::Release);
        metadata.zero(record + KEY, MAX_KEY_LENGTH);
        let deadline = now_ms + self.reuse_timeout_ms;
        metadata.store_i64(record + FREE_FOR_REUSE_DEADLINE, deadline, Ordering::Relaxed);
        self.free.push_back(id);
    }

    /// Returns a handle to the value of a counter.
    ///
    /// # Errors
    ///
    /// [`CountersError::Id`].
    pub fn counter(&self, id: i32) -> Result<AtomicCounter, CountersError> {
        self.reader.counter(id)
    }

    fn set_value_long(&self, id: i32, offset: usize, value: i64) {
        if let Ok(index) = self.reader.check(id) {
            self.reader.values.store_i64(index * VALUE_LENGTH + offset, value, Ordering::Release);
        }
    }

    /// Sets the registration id of a counter.
    pub fn set_registration_id(&self, id: i32, registration_id: i64) {
        self.set_value_long(id, REGISTRATION_ID, registration_id);
    }

    /// Sets the client that owns a counter.
    pub fn set_owner_id(&self, id: i32, owner_id: i64) {
        self.set_value_long(id, OWNER_ID, owner_id);
    }

    /// Sets the reference id of a counter.
    pub fn set_reference_id(&self, id: i32, reference_id: i64) {
        self.reader.set_reference_id(id, reference_id);
    }

    /// Appends text to a label, as far as there is room.
    pub fn append_to_label(&self, id: i32, text: &str) {
        self.reader.append_to_label(id, text);
    }
}
