//! The log of a publication or image: three terms and their metadata (spec 01 §2.1–2.3).

mod settings;

pub use settings::{LogSettings, LogType};

use std::sync::atomic::Ordering;
use thiserror::Error;

use crate::position::{
    HEADER_LENGTH, MAX_MTU_LENGTH, PARTITION_COUNT, TERM_MAX_LENGTH, TERM_MIN_LENGTH, align,
    compute_position, index_by_term_count, pack_tail, position_bits_to_shift, tail_offset, tail_term_id,
    term_count,
};
use crate::{AtomicBuffer, Region};

/// Bytes of the metadata at the end of the file.
pub const METADATA_LENGTH: usize = 4_096;

const ACTIVE_TERM_COUNT: usize = 24;
const END_OF_STREAM_POSITION: usize = 128;
const IS_CONNECTED: usize = 136;
const ACTIVE_TRANSPORT_COUNT: usize = 140;
const CORRELATION_ID: usize = 256;
const INITIAL_TERM_ID: usize = 264;
const MTU_LENGTH: usize = 272;
const TERM_LENGTH: usize = 276;
const PAGE_SIZE: usize = 280;
const DEFAULT_HEADER: usize = 320;
const IS_PUBLICATION_REVOKED: usize = 496;

/// Reason why a buffer is not a valid log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LogError {
    /// The buffer is too short, or its length does not match the term length.
    #[error("log of {length} bytes, {required} needed")]
    Length {
        /// Length of the buffer, bytes.
        length: usize,
        /// Length that is needed, bytes.
        required: usize,
    },
    /// The term length is not a power of two in 64 KiB..=1 GiB.
    #[error("term length {0} is no power of two in 64 KiB..=1 GiB")]
    TermLength(i64),
    /// The page size is not a power of two in 4 KiB..=1 GiB.
    #[error("page size {0} is no power of two in 4 KiB..=1 GiB")]
    PageSize(i64),
    /// The MTU is not a valid frame length.
    #[error("mtu {0} is no multiple of 32 in 64..=65504")]
    Mtu(i64),
}

/// A mapped log; clones share it.
#[derive(Debug, Clone)]
pub struct LogBuffers<R: Region = AtomicBuffer> {
    terms: [R; PARTITION_COUNT],
    metadata: R,
    term_length: usize,
    initial_term_id: i32,
    mtu_length: usize,
}

/// Returns the length of a log file, bytes.
pub fn file_length(term_length: usize, page_size: usize) -> usize {
    align(PARTITION_COUNT * term_length + METADATA_LENGTH, page_size)
}

impl<R: Region> LogBuffers<R> {
    /// Returns the length of a log file, bytes.
    pub fn file_length(term_length: usize, page_size: usize) -> usize {
        file_length(term_length, page_size)
    }

    /// Opens a log that a driver has initialised.
    ///
    /// # Errors
    ///
    /// The lengths violate the limits or contradict each other.
    pub fn map(buffer: R) -> Result<Self, LogError> {
        let length = buffer.capacity();
        if length < METADATA_LENGTH {
            return Err(LogError::Length { length, required: METADATA_LENGTH });
        }
        let metadata = buffer.slice(length - METADATA_LENGTH, METADATA_LENGTH);
        let int = |offset| metadata.load_i32(offset, Ordering::Acquire);
        let term_length = check_term_length(i64::from(int(TERM_LENGTH)))?;
        let page_size = check_page_size(i64::from(int(PAGE_SIZE)))?;
        let mtu_length = check_mtu(i64::from(int(MTU_LENGTH)))?;
        let required = file_length(term_length, page_size);
        if length < required {
            return Err(LogError::Length { length, required });
        }
        Ok(Self {
            terms: terms(&buffer, term_length),
            initial_term_id: int(INITIAL_TERM_ID),
            metadata,
            term_length,
            mtu_length,
        })
    }

    /// Writes the metadata of a fresh, zeroed log.
    ///
    /// # Errors
    ///
    /// The lengths are outside the limits, or the buffer has another length.
    pub fn initialise(buffer: R, settings: &LogSettings) -> Result<Self, LogError> {
        let term_length = check_term_length(settings.term_length as i64)?;
        let page_size = check_page_size(settings.page_size as i64)?;
        let mtu_length = check_mtu(settings.mtu_length as i64)?;
        let (length, required) = (buffer.capacity(), file_length(term_length, page_size));
        if length != required {
            return Err(LogError::Length { length, required });
        }
        let log = Self {
            terms: terms(&buffer, term_length),
            metadata: buffer.slice(length - METADATA_LENGTH, METADATA_LENGTH),
            term_length,
            initial_term_id: settings.initial_term_id,
            mtu_length,
        };
        log.write_settings(settings);
        if settings.log_type != LogType::Image {
            log.write_tails(settings);
        }
        log.metadata.store_i64(END_OF_STREAM_POSITION, i64::MAX, Ordering::Release);
        Ok(log)
    }

    fn write_tails(&self, s: &LogSettings) {
        let count = term_count(s.start_term_id, s.initial_term_id);
        for step in 0..PARTITION_COUNT as i32 {
            // The term count after the last term would not fit.
            let index = (index_by_term_count(count) + step as usize) % PARTITION_COUNT;
            let tail = match step {
                0 => pack_tail(s.start_term_id, s.start_term_offset),
                _ => pack_tail(s.start_term_id.wrapping_add(step - PARTITION_COUNT as i32), 0),
            };
            self.metadata.store_i64(index * 8, tail, Ordering::Relaxed);
        }
        self.metadata.store_i32(ACTIVE_TERM_COUNT, count, Ordering::Relaxed);
    }

    /// Returns the term of a partition.
    #[inline(always)]
    pub fn term(&self, index: usize) -> &R {
        &self.terms[index]
    }

    /// The metadata.
    pub fn metadata(&self) -> &R {
        &self.metadata
    }

    /// Bytes of a term.
    #[inline(always)]
    pub fn term_length(&self) -> usize {
        self.term_length
    }

    /// Binary logarithm of the term length.
    #[inline(always)]
    pub fn position_bits_to_shift(&self) -> u32 {
        position_bits_to_shift(self.term_length)
    }

    /// Term id of the first term.
    #[inline(always)]
    pub fn initial_term_id(&self) -> i32 {
        self.initial_term_id
    }

    /// Length of the longest frame with its header, bytes.
    #[inline(always)]
    pub fn mtu_length(&self) -> usize {
        self.mtu_length
    }

    /// Page size of the file.
    pub fn page_size(&self) -> usize {
        self.int(PAGE_SIZE) as usize
    }

    /// Tail counter of a partition.
    #[inline(always)]
    pub fn raw_tail_acquire(&self, index: usize) -> i64 {
        self.metadata.load_i64(index * 8, Ordering::Acquire)
    }

    /// Returns the tail counter of a partition as a region of its own.
    pub(crate) fn raw_tail(&self, index: usize) -> R {
        self.metadata.slice(index * 8, 8)
    }

    #[inline(always)]
    pub(crate) fn fetch_add_raw_tail(&self, index: usize, length: usize) -> i64 {
        self.metadata.fetch_add_i64(index * 8, length as i64)
    }

    #[inline(always)]
    pub(crate) fn compare_and_set_raw_tail(&self, index: usize, current: i64, new: i64) -> bool {
        self.metadata.compare_and_set_i64(index * 8, current, new)
    }

    /// Number of rotations.
    #[inline(always)]
    pub fn active_term_count(&self) -> i32 {
        self.metadata.load_i32(ACTIVE_TERM_COUNT, Ordering::Acquire)
    }

    pub(crate) fn set_active_term_count_ordered(&self, count: i32) {
        self.metadata.store_i32(ACTIVE_TERM_COUNT, count, Ordering::Release);
    }

    pub(crate) fn compare_and_set_active_term_count(&self, current: i32, new: i32) -> bool {
        self.metadata.compare_and_set_i32(ACTIVE_TERM_COUNT, current, new)
    }

    /// Rotates from the term with this count and id to the next term (spec 01 §2.10). The first caller does it. There
    /// is no rotation after the last term of a stream.
    pub fn rotate(&self, count: i32, term_id: i32) -> bool {
        let Some(next_count) = count.checked_add(1) else { return false };
        let next_term_id = term_id.wrapping_add(1);
        let index = index_by_term_count(next_count);
        let expected = next_term_id.wrapping_sub(PARTITION_COUNT as i32);
        loop {
            let raw_tail = self.raw_tail_acquire(index);
            if tail_term_id(raw_tail) != expected
                || self.compare_and_set_raw_tail(index, raw_tail, pack_tail(next_term_id, 0))
            {
                break;
            }
        }
        self.compare_and_set_active_term_count(count, next_count)
    }

    /// Position up to which writers have claimed space.
    pub fn producer_position(&self) -> i64 {
        let index = index_by_term_count(self.active_term_count());
        let raw_tail = self.raw_tail_acquire(index);
        let offset = tail_offset(raw_tail, self.term_length);
        compute_position(
            tail_term_id(raw_tail),
            offset as i32,
            self.position_bits_to_shift(),
            self.initial_term_id,
        )
    }

    /// Returns the final position of the stream; `i64::MAX` while the stream has not ended.
    #[inline(always)]
    pub fn end_of_stream_position(&self) -> i64 {
        self.metadata.load_i64(END_OF_STREAM_POSITION, Ordering::Acquire)
    }

    /// Ends the stream.
    pub fn set_end_of_stream_position(&self, position: i64) {
        self.metadata.store_i64(END_OF_STREAM_POSITION, position, Ordering::Release);
    }

    /// True while the publication has a subscriber.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        self.metadata.load_i32(IS_CONNECTED, Ordering::Acquire) == 1
    }

    /// Sets whether the publication has a subscriber.
    pub fn set_connected(&self, is_connected: bool) {
        self.metadata.store_i32(IS_CONNECTED, i32::from(is_connected), Ordering::Release);
    }

    /// Number of live transports that feed an image.
    pub fn active_transport_count(&self) -> i32 {
        self.metadata.load_i32(ACTIVE_TRANSPORT_COUNT, Ordering::Acquire)
    }

    /// Sets the number of live transports that feed an image.
    pub fn set_active_transport_count(&self, count: i32) {
        self.metadata.store_i32(ACTIVE_TRANSPORT_COUNT, count, Ordering::Release);
    }

    /// True when the publication was revoked.
    pub fn is_publication_revoked(&self) -> bool {
        self.byte(IS_PUBLICATION_REVOKED) == 1
    }

    /// Marks the publication as revoked.
    pub fn set_publication_revoked(&self) {
        self.metadata.copy_in(IS_PUBLICATION_REVOKED, &[1]);
    }

    /// Registration id of a publication, correlation id of an image.
    pub fn correlation_id(&self) -> i64 {
        self.long(CORRELATION_ID)
    }

    /// Returns the header from which new frames are made.
    pub fn default_header(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        self.metadata.copy_out(DEFAULT_HEADER, &mut bytes);
        bytes
    }

    fn int(&self, offset: usize) -> i32 {
        self.metadata.load_i32(offset, Ordering::Relaxed)
    }

    fn long(&self, offset: usize) -> i64 {
        let mut bytes = [0; 8];
        self.metadata.copy_out(offset, &mut bytes);
        i64::from_le_bytes(bytes)
    }

    fn byte(&self, offset: usize) -> u8 {
        let mut bytes = [0; 1];
        self.metadata.copy_out(offset, &mut bytes);
        bytes[0]
    }
}

fn terms<R: Region>(buffer: &R, term_length: usize) -> [R; PARTITION_COUNT] {
    std::array::from_fn(|index| buffer.slice(index * term_length, term_length))
}

fn check_term_length(value: i64) -> Result<usize, LogError> {
    let length = usize::try_from(value).map_err(|_| LogError::TermLength(value))?;
    if !length.is_power_of_two() || !(TERM_MIN_LENGTH..=TERM_MAX_LENGTH).contains(&length) {
        return Err(LogError::TermLength(value));
    }
    Ok(length)
}

fn check_page_size(value: i64) -> Result<usize, LogError> {
    let size = usize::try_from(value).map_err(|_| LogError::PageSize(value))?;
    if !size.is_power_of_two() || !(METADATA_LENGTH..=TERM_MAX_LENGTH).contains(&size) {
        return Err(LogError::PageSize(value));
    }
    Ok(size)
}

fn check_mtu(value: i64) -> Result<usize, LogError> {
    let mtu = usize::try_from(value).map_err(|_| LogError::Mtu(value))?;
    if mtu <= HEADER_LENGTH || mtu > MAX_MTU_LENGTH || mtu % HEADER_LENGTH != 0 {
        return Err(LogError::Mtu(value));
    }
    Ok(mtu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::{ConcurrentAppender, OfferError};

    const TERM: usize = 65_536;

    #[test]
    fn a_log_that_starts_in_its_last_terms_ends_at_the_last_position() {
        for terms_left in 0..3 {
            let count = i32::MAX - terms_left;
            let settings = LogSettings {
                term_length: TERM,
                initial_term_id: -5,
                start_term_id: count.wrapping_add(-5),
                start_term_offset: TERM as i32 - 96,
                ..LogSettings::default()
            };
            let buffer = AtomicBuffer::heap(file_length(TERM, settings.page_size));
            let log = LogBuffers::initialise(buffer, &settings).unwrap();
            assert_eq!(log.active_term_count(), count);
            let start = (i64::from(count) << 16) + TERM as i64 - 96;
            assert_eq!(log.producer_position(), start);
            let appender = ConcurrentAppender::new(log.clone());
            let mut trips = 0;
            let end = loop {
                match appender.append(&[&[7; 64]], None, i64::MAX) {
                    Ok(_) => {}
                    Err(OfferError::AdminAction) => trips += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!((end, trips), (OfferError::MaxPositionExceeded, terms_left));
            // An unblocker that finds the end of the last term does not rotate, either.
            assert!(!log.rotate(i32::MAX, settings.initial_term_id.wrapping_add(i32::MAX)));
            assert_eq!(log.active_term_count(), i32::MAX);
        }
    }
}
