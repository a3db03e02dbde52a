//! Ring buffer with many producers and one consumer (spec 01 §3.4): it carries commands of clients to a driver.

use std::sync::atomic::Ordering;
use thiserror::Error;

use crate::position::align;
use crate::{AtomicBuffer, Region, fence};

/// Bytes after the data.
pub const TRAILER_LENGTH: usize = 768;
/// Type of a padding record.
pub const PADDING_TYPE_ID: i32 = -1;

pub(crate) const TAIL: usize = 128;
const HEAD_CACHE: usize = 256;
pub(crate) const HEAD: usize = 384;
const CORRELATION_ID: usize = 512;
const CONSUMER_HEARTBEAT: usize = 640;
pub(crate) const RECORD_HEADER: usize = 8;
pub(crate) const ALIGNMENT: usize = 8;
const MIN_CAPACITY: usize = 8;

/// Reason why a ring refused a region or a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RingError {
    /// The region cannot hold a ring.
    #[error(
        "ring of {length} bytes: the data must be a power of two of at least {minimum}, followed by {TRAILER_LENGTH} bytes"
    )]
    Capacity {
        /// Bytes of the region.
        length: usize,
        /// Least length of the data, bytes.
        minimum: usize,
    },
    /// The ring is full until the consumer catches up.
    #[error("ring is full: the consumer has to catch up")]
    Full,
    /// The record is longer than any record may be.
    #[error("record of {length} bytes, at most {max} fit")]
    TooLong {
        /// Bytes of the record.
        length: usize,
        /// Most bytes.
        max: usize,
    },
    /// The type is not positive.
    #[error("record type {0} is not positive")]
    Type(i32),
}

/// Returns the data capacity of a ring region.
pub(crate) fn check_capacity<R: Region>(region: &R, minimum: usize) -> Result<usize, RingError> {
    let length = region.capacity();
    let capacity = length
        .checked_sub(TRAILER_LENGTH)
        .filter(|capacity| capacity.is_power_of_two() && *capacity >= minimum);
    capacity.ok_or(RingError::Capacity { length, minimum })
}

/// The ring; cloning shares it. Any number of producers, one consumer at a time.
///
/// ```
/// use harrier_ringbuf::AtomicBuffer;
/// use harrier_ringbuf::many_to_one::{ManyToOneRing, TRAILER_LENGTH};
///
/// let ring = ManyToOneRing::new(AtomicBuffer::heap(1024 + TRAILER_LENGTH)).unwrap();
/// ring.write(1, b"hello").unwrap();
/// let mut seen = Vec::new();
/// ring.read(10, &mut |type_id, bytes: &[u8]| seen.push((type_id, bytes.to_vec())));
/// assert_eq!(seen, [(1, b"hello".to_vec())]);
/// ```
#[derive(Debug, Clone)]
pub struct ManyToOneRing<R: Region = AtomicBuffer> {
    region: R,
    capacity: usize,
    max_length: usize,
}

impl<R: Region> ManyToOneRing<R> {
    /// Creates a ring on a region of data and trailer; zeroed memory is an empty ring.
    ///
    /// # Errors
    ///
    /// [`RingError::Capacity`].
    pub fn new(region: R) -> Result<Self, RingError> {
        let capacity = check_capacity(&region, MIN_CAPACITY)?;
        let max_length = if capacity == MIN_CAPACITY { 0 } else { capacity / 8 };
        Ok(Self { region, capacity, max_length })
    }

    /// Length of the data, bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Longest message, bytes.
    pub fn max_message_length(&self) -> usize {
        self.max_length
    }

    /// The region, for tools and tests.
    pub fn region(&self) -> &R {
        &self.region
    }

    #[inline(always)]
    fn word(&self, offset: usize, order: Ordering) -> i64 {
        self.region.load_i64(self.capacity + offset, order)
    }

    /// Writes one record.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn write(&self, type_id: i32, message: &[u8]) -> Result<(), RingError> {
        let index = self.claim(type_id, message.len())?;
        self.region.copy_in(index + RECORD_HEADER, message);
        self.region.store_i32(index, (RECORD_HEADER + message.len()) as i32, Ordering::Release);
        Ok(())
    }

    /// Claims a record to be written in place with [`put`](Self::put) and finished with [`commit`](Self::commit) or
    /// [`abort`](Self::abort); returns its index.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn try_claim(&self, type_id: i32, length: usize) -> Result<usize, RingError> {
        self.claim(type_id, length).map(|index| index + RECORD_HEADER)
    }

    /// Writes into a claim.
    pub fn put(&self, claim: usize, offset: usize, bytes: &[u8]) {
        self.region.copy_in(claim + offset, bytes);
    }

    /// Publishes a claim.
    pub fn commit(&self, claim: usize) {
        self.finish(claim);
    }

    /// Abandons a claim; the consumer skips it.
    pub fn abort(&self, claim: usize) {
        self.region.store_i32(claim - 4, PADDING_TYPE_ID, Ordering::Relaxed);
        self.finish(claim);
    }

    fn finish(&self, claim: usize) {
        let index = claim - RECORD_HEADER;
        let length = self.region.load_i32(index, Ordering::Relaxed);
        self.region.store_i32(index, length.abs(), Ordering::Release);
    }

    fn claim(&self, type_id: i32, length: usize) -> Result<usize, RingError> {
        if type_id < 1 {
            return Err(RingError::Type(type_id));
        }
        if length > self.max_length {
            return Err(RingError::TooLong { length, max: self.max_length });
        }
        let record = RECORD_HEADER + length;
        let (index, padding) = self.claim_space(align(record, ALIGNMENT))?;
        let mut at = index;
        if padding > 0 {
            self.begin_record(at, padding, PADDING_TYPE_ID);
            self.region.store_i32(at, padding as i32, Ordering::Release);
            at = 0;
        }
        self.begin_record(at, record, type_id);
        Ok(at)
    }

    fn begin_record(&self, index: usize, length: usize, type_id: i32) {
        self.region.store_i32(index, -(length as i32), Ordering::Release);
        fence(Ordering::Release);
        self.region.store_i32(index + 4, type_id, Ordering::Relaxed);
    }

    /// Moves the tail over a record and, when the record must start at the front, over the padding before it.
    fn claim_space(&self, required: usize) -> Result<(usize, usize), RingError> {
        let mut head = self.word(HEAD_CACHE, Ordering::Acquire);
        loop {
            let tail = self.word(TAIL, Ordering::Acquire);
            if required as i64 > self.capacity as i64 - (tail - head) {
                head = self.word(HEAD, Ordering::Acquire);
                if required as i64 > self.capacity as i64 - (tail - head) {
                    return Err(RingError::Full);
                }
                self.region.store_i64(self.capacity + HEAD_CACHE, head, Ordering::Release);
            }
            let mask = self.capacity as i64 - 1;
            let index = (tail & mask) as usize;
            let to_end = self.capacity - index;
            let mut padding = 0;
            let mut is_full = false;
            if required > to_end {
                if required as i64 > head & mask {
                    head = self.word(HEAD, Ordering::Acquire);
                    is_full = required as i64 > head & mask;
                    if !is_full {
                        self.region.store_i64(self.capacity + HEAD_CACHE, head, Ordering::Release);
                    }
                }
                padding = to_end;
            }
            let advance = if is_full { padding } else { required + padding };
            if !self.region.compare_and_set_i64(self.capacity + TAIL, tail, tail + advance as i64) {
                continue;
            }
            if is_full {
                self.begin_record(index, padding, PADDING_TYPE_ID);
                self.region.store_i32(index, padding as i32, Ordering::Release);
                return Err(RingError::Full);
            }
            return Ok((index, padding));
        }
    }

    /// Reads up to `limit` records; returns their number.
    pub fn read(&self, limit: usize, handler: &mut impl FnMut(i32, &[u8])) -> usize {
        let head = self.word(HEAD, Ordering::Relaxed);
        let index = (head & (self.capacity as i64 - 1)) as usize;
        let mut taken = Taken { ring: self, head, index, bytes: 0 };
        let mut count = 0;
        while count < limit && index + taken.bytes < self.capacity {
            let at = index + taken.bytes;
            let length = self.region.load_i32(at, Ordering::Acquire);
            if length <= 0 {
                break;
            }
            let length = length as usize;
            if length < RECORD_HEADER || length > self.capacity - at {
                impossible_record(length, at);
            }
            taken.bytes += align(length, ALIGNMENT);
            let type_id = self.region.load_i32(at + 4, Ordering::Relaxed);
            if type_id == PADDING_TYPE_ID {
                continue;
            }
            count += 1;
            with_bytes(&self.region, at + RECORD_HEADER, length - RECORD_HEADER, &mut |bytes| {
                handler(type_id, bytes)
            });
        }
        count
    }

    /// Returns the next number of a sequence that all users of the ring share.
    pub fn next_correlation_id(&self) -> i64 {
        self.region.fetch_add_i64(self.capacity + CORRELATION_ID, 1)
    }

    /// Time of the consumer's last heartbeat, epoch ms; 0 before the first, -1 after the last.
    pub fn consumer_heartbeat_ms(&self) -> i64 {
        self.word(CONSUMER_HEARTBEAT, Ordering::Acquire)
    }

    /// Sets the time of the consumer's heartbeat.
    pub fn set_consumer_heartbeat_ms(&self, epoch_ms: i64) {
        self.region.store_i64(self.capacity + CONSUMER_HEARTBEAT, epoch_ms, Ordering::Release);
    }

    /// Position of the producers.
    pub fn producer_position(&self) -> i64 {
        self.word(TAIL, Ordering::Acquire)
    }

    /// Position of the consumer.
    pub fn consumer_position(&self) -> i64 {
        self.word(HEAD, Ordering::Acquire)
    }

    /// Length of the unread records with padding, bytes.
    pub fn size(&self) -> usize {
        let mut before = self.consumer_position();
        loop {
            let tail = self.producer_position();
            let after = self.consumer_position();
            if after == before {
                return (tail - after).clamp(0, self.capacity as i64) as usize;
            }
            before = after;
        }
    }

    /// Makes the record at the head skippable when its producer died before finishing it. The consumer calls this
    /// after a time-out. Returns true when it changed something.
    pub fn unblock(&self) -> bool {
        let (head, tail) = (self.consumer_position(), self.producer_position());
        if head == tail {
            return false;
        }
        let mask = self.capacity as i64 - 1;
        let (from, to) = ((head & mask) as usize, (tail & mask) as usize);
        let length = self.region.load_i32(from, Ordering::Acquire);
        if length < 0 {
            self.region.store_i32(from + 4, PADDING_TYPE_ID, Ordering::Relaxed);
            self.region.store_i32(from, -length, Ordering::Release);
            return true;
        }
        if length > 0 {
            return false;
        }
        let limit = if to > from { to } else { self.capacity };
        let mut at = from + ALIGNMENT;
        while at < limit {
            if self.region.load_i32(at, Ordering::Acquire) != 0 {
                let mut back = at - ALIGNMENT;
                while back >= from {
                    if self.region.load_i32(back, Ordering::Acquire) != 0 {
                        return false;
                    }
                    if back == from {
                        break;
                    }
                    back -= ALIGNMENT;
                }
                self.region.store_i32(from + 4, PADDING_TYPE_ID, Ordering::Relaxed);
                self.region.store_i32(from, (at - from) as i32, Ordering::Release);
                return true;
            }
            at += ALIGNMENT;
        }
        false
    }
}

/// Zeroes the records that were read and releases them, even when a handler panics.
struct Taken<'a, R: Region> {
    ring: &'a ManyToOneRing<R>,
    head: i64,
    index: usize,
    bytes: usize,
}

impl<R: Region> Drop for Taken<'_, R> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.ring.region.zero(self.index, self.bytes);
            let head = self.head + self.bytes as i64;
            self.ring.region.store_i64(self.ring.capacity + HEAD, head, Ordering::Release);
        }
    }
}

/// Panics because the ring was overwritten while it was read.
#[cold]
#[inline(never)]
pub(crate) fn impossible_record(length: usize, index: usize) -> ! {
    panic!("ring record of {length} bytes at {index}")
}

/// Passes a private copy of shared bytes to `handler`; short copies are on the stack.
pub(crate) fn with_bytes<R: Region>(
    region: &R,
    offset: usize,
    length: usize,
    handler: &mut impl FnMut(&[u8]),
) {
    const SHORT: usize = 64;
    const ON_STACK: usize = 1_024;
    if length <= SHORT {
        // Most records fit; the array is cleared each time.
        let mut bytes = [0; SHORT];
        region.copy_out(offset, &mut bytes[..length]);
        handler(&bytes[..length]);
    } else if length <= ON_STACK {
        let mut bytes = [0; ON_STACK];
        region.copy_out(offset, &mut bytes[..length]);
        handler(&bytes[..length]);
    } else {
        let mut bytes = vec![0; length];
        region.copy_out(offset, &mut bytes);
        handler(&bytes);
    }
}
