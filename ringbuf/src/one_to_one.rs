//! Ring buffer with one producer and one consumer (spec 01 §7). Records and trailer are those of the many-to-one
//! ring.

use std::sync::atomic::Ordering;

use crate::many_to_one::{
    ALIGNMENT, HEAD, PADDING_TYPE_ID, RECORD_HEADER, RingError, TAIL, check_capacity, impossible_record,
    with_bytes,
};
use crate::position::align;
use crate::{AtomicBuffer, Region};

const MIN_CAPACITY: usize = 16;
/// Length of the header after a record, which is zeroed before the record is published, bytes.
const NEXT_HEADER: usize = 8;

/// The producer's end. It keeps its own view of the positions, and loads the consumer's position only when the ring
/// seems full.
#[derive(Debug)]
pub struct Producer<R: Region = AtomicBuffer> {
    region: R,
    capacity: usize,
    tail: i64,
    head_seen: i64,
}

/// The consumer's end.
#[derive(Debug)]
pub struct Consumer<R: Region = AtomicBuffer> {
    region: R,
    capacity: usize,
    head: i64,
    tail_seen: i64,
}

/// Creates both ends of a ring on a region of data and trailer; zeroed memory is an empty ring.
///
/// ```
/// use harrier_ringbuf::{AtomicBuffer, many_to_one::TRAILER_LENGTH, one_to_one};
///
/// let (mut producer, mut consumer) = one_to_one::ring(AtomicBuffer::heap(1024 + TRAILER_LENGTH)).unwrap();
/// producer.write(7, b"hello").unwrap();
/// assert_eq!(consumer.read(10, &mut |type_id, bytes: &[u8]| assert_eq!((type_id, bytes), (7, b"hello".as_slice()))), 1);
/// ```
///
/// # Errors
/// [`RingError::Capacity`].
pub fn ring<R: Region>(region: R) -> Result<(Producer<R>, Consumer<R>), RingError> {
    let capacity = check_capacity(&region, MIN_CAPACITY)?;
    let tail = region.load_i64(capacity + TAIL, Ordering::Acquire);
    let head = region.load_i64(capacity + HEAD, Ordering::Acquire);
    let producer = Producer { region: region.clone(), capacity, tail, head_seen: head };
    Ok((producer, Consumer { region, capacity, head, tail_seen: tail }))
}

impl<R: Region> Producer<R> {
    /// Longest message, bytes.
    pub fn max_message_length(&self) -> usize {
        self.capacity / 8
    }

    /// Writes one record.
    ///
    /// # Errors
    /// See [`RingError`].
    #[inline]
    pub fn write(&mut self, type_id: i32, message: &[u8]) -> Result<(), RingError> {
        if type_id < 1 {
            return Err(RingError::Type(type_id));
        }
        let max = self.max_message_length();
        if message.len() > max {
            return Err(RingError::TooLong { length: message.len(), max });
        }
        let record = RECORD_HEADER + message.len();
        let aligned = align(record, ALIGNMENT);
        let mut index = (self.tail & (self.capacity as i64 - 1)) as usize;
        let to_end = self.capacity - index;
        let required = if aligned == to_end { aligned } else { aligned + NEXT_HEADER };
        if !self.has_room(required as i64) {
            return Err(RingError::Full);
        }
        let mut padding = 0;
        if aligned > to_end {
            padding = to_end;
            if !self.has_room((to_end + aligned + NEXT_HEADER) as i64) {
                self.pad(index, padding);
                return Err(RingError::Full);
            }
        }
        let tail = self.tail + (aligned + padding) as i64;
        if padding > 0 {
            self.region.store_i64(0, 0, Ordering::Relaxed);
            self.region.store_i32(index + 4, PADDING_TYPE_ID, Ordering::Relaxed);
            self.region.store_i32(index, padding as i32, Ordering::Release);
            index = 0;
        }
        // Behind the last record of the buffer this store falls into the trailer, which begins with unused bytes. The
        // front of the ring may still hold an unread record.
        self.region.store_i64(index + aligned, 0, Ordering::Relaxed);
        self.region.copy_in(index + RECORD_HEADER, message);
        self.region.store_i32(index + 4, type_id, Ordering::Relaxed);
        self.region.store_i32(index, record as i32, Ordering::Release);
        self.tail = tail;
        self.region.store_i64(self.capacity + TAIL, tail, Ordering::Release);
        Ok(())
    }

    #[inline(always)]
    fn has_room(&mut self, required: i64) -> bool {
        if required <= self.capacity as i64 - (self.tail - self.head_seen) {
            return true;
        }
        self.head_seen = self.region.load_i64(self.capacity + HEAD, Ordering::Acquire);
        required <= self.capacity as i64 - (self.tail - self.head_seen)
    }

    /// Fills the rest of the buffer, so that the next record starts at the front.
    fn pad(&mut self, index: usize, padding: usize) {
        if !self.has_room((padding + NEXT_HEADER) as i64) {
            return;
        }
        self.region.store_i64(0, 0, Ordering::Relaxed);
        self.region.store_i32(index + 4, PADDING_TYPE_ID, Ordering::Relaxed);
        self.region.store_i32(index, padding as i32, Ordering::Release);
        self.tail += padding as i64;
        self.region.store_i64(self.capacity + TAIL, self.tail, Ordering::Release);
    }
}

impl<R: Region> Consumer<R> {
    /// Reads up to `limit` records; returns their number.
    #[inline]
    pub fn read(&mut self, limit: usize, handler: &mut impl FnMut(i32, &[u8])) -> usize {
        if self.head == self.tail_seen {
            self.tail_seen = self.region.load_i64(self.capacity + TAIL, Ordering::Acquire);
            if self.head == self.tail_seen {
                return 0;
            }
        }
        let mut count = 0;
        while count < limit && self.head < self.tail_seen {
            let index = (self.head & (self.capacity as i64 - 1)) as usize;
            let length = self.region.load_i32(index, Ordering::Acquire);
            if length <= 0 {
                break;
            }
            let length = length as usize;
            if length < RECORD_HEADER || length > self.capacity - index {
                impossible_record(length, index);
            }
            self.head += align(length, ALIGNMENT) as i64;
            let type_id = self.region.load_i32(index + 4, Ordering::Relaxed);
            if type_id == PADDING_TYPE_ID {
                continue;
            }
            count += 1;
            with_bytes(&self.region, index + RECORD_HEADER, length - RECORD_HEADER, &mut |bytes| {
                handler(type_id, bytes)
            });
        }
        assert!(self.head <= self.tail_seen, "a ring was read beyond what was written to it");
        self.region.store_i64(self.capacity + HEAD, self.head, Ordering::Release);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::many_to_one::TRAILER_LENGTH;

    /// The last record ends at the end of the buffer while the first record is unread: nothing of the first record
    /// may change.
    #[test]
    fn a_ring_filled_to_its_last_byte_loses_nothing() {
        let (mut producer, mut consumer) = ring(AtomicBuffer::heap(1_024 + TRAILER_LENGTH)).unwrap();
        let mut next = 0_u64;
        for round in 0..10_u64 {
            let mut written = 0;
            while producer.write(1, &(round * 1_000 + written).to_le_bytes()).is_ok() {
                written += 1;
            }
            assert!(written >= 63, "round {round} had room for {written} records of 16 bytes");
            let mut expected = round * 1_000;
            next += written;
            let mut read = 0;
            while read < written {
                let count = consumer.read(7, &mut |_, bytes: &[u8]| {
                    assert_eq!(bytes, expected.to_le_bytes());
                    expected += 1;
                });
                assert!(count > 0, "record {read} of round {round} is lost");
                read += count as u64;
            }
        }
        assert!(next > 600);
    }
}
