//! Records from one transmitter to any number of receivers (spec 01 §3.5): events of a driver to its clients.

use std::sync::atomic::Ordering;
use thiserror::Error;

use crate::position::align;
use crate::{AtomicBuffer, Region, fence};

/// Bytes after the data.
pub const TRAILER_LENGTH: usize = 128;
/// Type of a padding record.
pub const PADDING_TYPE_ID: i32 = -1;

const TAIL_INTENT: usize = 0;
const TAIL: usize = 8;
const LATEST: usize = 16;
const RECORD_HEADER: usize = 8;
const ALIGNMENT: usize = 8;
const SCRATCH: usize = 4_096;

/// Reason why a broadcast refused a region or a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BroadcastError {
    /// The region cannot hold a broadcast buffer.
    #[error(
        "broadcast buffer of {length} bytes: the data must be a power of two, followed by {TRAILER_LENGTH} bytes"
    )]
    Capacity {
        /// Bytes of the region.
        length: usize,
    },
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

/// Records were overwritten before this receiver read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("receiver could not keep up with the broadcast; read more often")]
pub struct Lapped;

fn check_capacity<R: Region>(region: &R) -> Result<usize, BroadcastError> {
    let length = region.capacity();
    length
        .checked_sub(TRAILER_LENGTH)
        .filter(|capacity| capacity.is_power_of_two() && *capacity >= ALIGNMENT)
        .ok_or(BroadcastError::Capacity { length })
}

/// The only writer of a broadcast buffer.
#[derive(Debug)]
pub struct Transmitter<R: Region = AtomicBuffer> {
    region: R,
    capacity: usize,
}

impl<R: Region> Transmitter<R> {
    /// Creates the transmitter of a region of data and trailer.
    ///
    /// # Errors
    ///
    /// [`BroadcastError::Capacity`].
    pub fn new(region: R) -> Result<Self, BroadcastError> {
        let capacity = check_capacity(&region)?;
        Ok(Self { region, capacity })
    }

    /// Longest message, bytes.
    pub fn max_message_length(&self) -> usize {
        self.capacity / 8
    }

    /// Sends one record to all receivers.
    ///
    /// # Errors
    /// See [`BroadcastError`].
    pub fn transmit(&mut self, type_id: i32, message: &[u8]) -> Result<(), BroadcastError> {
        if type_id < 1 {
            return Err(BroadcastError::Type(type_id));
        }
        let max = self.max_message_length();
        if message.len() > max {
            return Err(BroadcastError::TooLong { length: message.len(), max });
        }
        let mut tail = self.region.load_i64(self.capacity + TAIL, Ordering::Relaxed);
        let mut index = (tail & (self.capacity as i64 - 1)) as usize;
        let record = RECORD_HEADER + message.len();
        let aligned = align(record, ALIGNMENT);
        let to_end = self.capacity - index;
        if to_end < aligned {
            self.announce(tail + (aligned + to_end) as i64);
            self.region.store_i32(index, to_end as i32, Ordering::Relaxed);
            self.region.store_i32(index + 4, PADDING_TYPE_ID, Ordering::Relaxed);
            tail += to_end as i64;
            index = 0;
        } else {
            self.announce(tail + aligned as i64);
        }
        self.region.store_i32(index, record as i32, Ordering::Relaxed);
        self.region.store_i32(index + 4, type_id, Ordering::Relaxed);
        self.region.copy_in(index + RECORD_HEADER, message);
        self.region.store_i64(self.capacity + LATEST, tail, Ordering::Release);
        self.region.store_i64(self.capacity + TAIL, tail + aligned as i64, Ordering::Release);
        Ok(())
    }

    fn announce(&self, position: i64) {
        self.region.store_i64(self.capacity + TAIL_INTENT, position, Ordering::Release);
        fence(Ordering::Release);
    }
}

/// One reader of a broadcast buffer. It starts with the latest record.
#[derive(Debug)]
pub struct Receiver<R: Region = AtomicBuffer> {
    region: R,
    capacity: usize,
    cursor: i64,
    next: i64,
    lapped_count: u64,
    scratch: Vec<u8>,
}

impl<R: Region> Receiver<R> {
    /// A receiver on a region of data and trailer.
    ///
    /// # Errors
    /// [`BroadcastError::Capacity`].
    pub fn new(region: R) -> Result<Self, BroadcastError> {
        let capacity = check_capacity(&region)?;
        let latest = region.load_i64(capacity + LATEST, Ordering::Acquire);
        let scratch = vec![0; SCRATCH];
        Ok(Self { region, capacity, cursor: latest, next: latest, lapped_count: 0, scratch })
    }

    /// Number of times that records were lost.
    pub fn lapped_count(&self) -> u64 {
        self.lapped_count
    }

    /// Passes the next record to `handler`, when there is one; returns the number of records.
    ///
    /// # Errors
    ///
    /// [`Lapped`] when records were lost; the next call continues with the latest record.
    #[inline]
    pub fn receive(&mut self, handler: &mut impl FnMut(i32, &[u8])) -> Result<usize, Lapped> {
        let tail = self.region.load_i64(self.capacity + TAIL, Ordering::Acquire);
        if tail <= self.next {
            return Ok(0);
        }
        self.receive_available(handler)
    }

    fn receive_available(&mut self, handler: &mut impl FnMut(i32, &[u8])) -> Result<usize, Lapped> {
        let mask = self.capacity as i64 - 1;
        self.cursor = self.next;
        let mut was_lapped = false;
        if !self.is_valid() {
            was_lapped = true;
            self.lapped_count += 1;
            self.cursor = self.region.load_i64(self.capacity + LATEST, Ordering::Acquire);
        }
        let mut index = (self.cursor & mask) as usize;
        let mut length = self.region.load_i32(index, Ordering::Relaxed);
        let mut type_id = self.region.load_i32(index + 4, Ordering::Relaxed);
        self.next = self.cursor + align(length.max(0) as usize, ALIGNMENT) as i64;
        if type_id == PADDING_TYPE_ID {
            self.cursor = self.next;
            index = 0;
            length = self.region.load_i32(0, Ordering::Relaxed);
            type_id = self.region.load_i32(4, Ordering::Relaxed);
            self.next += align(length.max(0) as usize, ALIGNMENT) as i64;
        }
        let payload = (length - RECORD_HEADER as i32).max(0) as usize;
        let fits = payload <= self.capacity / 8 && index + RECORD_HEADER + payload <= self.capacity;
        if fits {
            if self.scratch.len() < payload {
                self.scratch.resize(payload, 0);
            }
            self.region.copy_out(index + RECORD_HEADER, &mut self.scratch[..payload]);
            fence(Ordering::Acquire);
        }
        if !fits || !self.is_valid() || was_lapped {
            if !was_lapped {
                self.lapped_count += 1;
            }
            self.next = self.region.load_i64(self.capacity + LATEST, Ordering::Acquire);
            return Err(Lapped);
        }
        handler(type_id, &self.scratch[..payload]);
        Ok(1)
    }

    fn is_valid(&self) -> bool {
        self.cursor + self.capacity as i64
            > self.region.load_i64(self.capacity + TAIL_INTENT, Ordering::Acquire)
    }
}
