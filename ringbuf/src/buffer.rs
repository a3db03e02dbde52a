//! Bytes that several threads and processes share, accessed by offset.
//!
//! No Rust reference points to shared bytes that another thread or process may still write: words are loaded and
//! stored atomically, everything else is copied. The one exception, [`AtomicBuffer::committed`], states what its
//! caller must guarantee.

mod shared_copy;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use crate::position::HEADER_LENGTH;

/// Alignment of heap buffers: that of a mapped page.
const PAGE_BYTES: usize = 4096;

/// Memory on which the shared algorithms work: mapped or heap bytes ([`AtomicBuffer`]), or a model's shadow words.
///
/// Offsets are bytes; words must be naturally aligned. Every access is checked against the capacity and panics outside:
/// offsets that come from shared memory are validated before they are used.
pub trait Region: Clone {
    /// Number of bytes.
    fn capacity(&self) -> usize;
    /// Loads a 32-bit word.
    fn load_i32(&self, offset: usize, order: Ordering) -> i32;
    /// Stores a 32-bit word.
    fn store_i32(&self, offset: usize, value: i32, order: Ordering);
    /// Loads a 64-bit word.
    fn load_i64(&self, offset: usize, order: Ordering) -> i64;
    /// Stores a 64-bit word.
    fn store_i64(&self, offset: usize, value: i64, order: Ordering);
    /// Stores two 32-bit words that readers load one by one, as one 64-bit word: the low one is the commit word, and the
    /// high one is seen with it. Miri, which knows no accesses of mixed size, gets two stores.
    #[inline(always)]
    fn store_pair(&self, offset: usize, value: i64, order: Ordering) {
        if cfg!(miri) {
            self.store_i32(offset + 4, (value >> 32) as i32, Ordering::Relaxed);
            self.store_i32(offset, value as i32, order);
        } else {
            self.store_i64(offset, value, order);
        }
    }
    /// Loads two 32-bit words that a writer stores one by one or by [`store_pair`](Self::store_pair), as one 64-bit word: what
    /// was stored before the low one is seen in the high one.
    #[inline(always)]
    fn load_pair(&self, offset: usize, order: Ordering) -> i64 {
        if cfg!(miri) {
            let low = self.load_i32(offset, order) as u32;
            (i64::from(self.load_i32(offset + 4, Ordering::Relaxed)) << 32) | i64::from(low)
        } else {
            self.load_i64(offset, order)
        }
    }
    /// Replaces `current` by `new`; returns true when it did. Acquires and releases.
    fn compare_and_set_i64(&self, offset: usize, current: i64, new: i64) -> bool;
    /// Replaces `current` by `new`; returns true when it did. Acquires and releases.
    fn compare_and_set_i32(&self, offset: usize, current: i32, new: i32) -> bool;
    /// Adds to the word and returns the value before. Acquires and releases.
    fn fetch_add_i64(&self, offset: usize, delta: i64) -> i64;
    /// Adds to the word and returns the value before. Acquires and releases.
    fn fetch_add_i32(&self, offset: usize, delta: i32) -> i32;
    /// Copies private bytes in. Not atomic as a whole; a later release store publishes it.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
    /// Copies shared bytes out. When another thread or process may still write them, the caller must check afterwards
    /// that none did.
    fn copy_out(&self, offset: usize, bytes: &mut [u8]);
    /// Writes a whole frame and publishes it: the header's first three words, of which the first holds the negative length,
    /// then the payload behind the header, then the positive `length` over the first half of the first word (spec 01 §2.8).
    #[inline(always)]
    fn put_frame(&self, offset: usize, header: [i64; 3], payload: &[u8], length: i32) {
        let room = self.capacity().saturating_sub(offset);
        assert!(room >= HEADER_LENGTH && payload.len() <= room - HEADER_LENGTH, "frame outside the buffer");
        self.store_pair(offset, header[0], Ordering::Release);
        crate::fence(Ordering::Release);
        self.store_i64(offset + 8, header[1], Ordering::Relaxed);
        self.store_i64(offset + 16, header[2], Ordering::Relaxed);
        self.copy_in(offset + HEADER_LENGTH, payload);
        self.store_i32(offset, length, Ordering::Release);
    }
    /// Zeroes a range. Not atomic as a whole.
    fn zero(&self, offset: usize, length: usize);
    /// Tells the processor that the word at `offset` will be stored soon. Outside the capacity it does nothing.
    #[inline(always)]
    fn expect_store(&self, _offset: usize) {}
    /// Tells the processor that the bytes at `offset` will be loaded soon. Outside the capacity it does nothing.
    #[inline(always)]
    fn expect_load(&self, _offset: usize) {}
    /// The part `offset..offset + length` as a region of its own.
    fn slice(&self, offset: usize, length: usize) -> Self;
}

/// Keeps a mapping or allocation alive; dropped with the last buffer on it.
pub trait Backing: Send + Sync {}

/// A range of mapped or heap memory, shared by cloning.
///
/// ```
/// use harrier_ringbuf::{AtomicBuffer, Region};
/// use std::sync::atomic::Ordering;
///
/// let buffer = AtomicBuffer::heap(4096);
/// buffer.store_i64(128, 42, Ordering::Release);
/// assert_eq!(buffer.slice(128, 8).load_i64(0, Ordering::Acquire), 42);
/// ```
#[derive(Clone)]
pub struct AtomicBuffer {
    address: NonNull<u8>,
    length: usize,
    backing: Arc<dyn Backing>,
}

// SAFETY: the memory is owned by `backing`, which is Send + Sync, and is only accessed through atomics and raw copies
// whose ordering is the business of the protocols built on top.
unsafe impl Send for AtomicBuffer {}
// SAFETY: as above; `&AtomicBuffer` gives no access that `AtomicBuffer` does not.
unsafe impl Sync for AtomicBuffer {}

/// Panics because of an access outside the buffer. The function is out of line and takes its numbers by value: an
/// inline formatted assertion would store them to the stack on every access, and those stores crowd out the stores to
/// shared memory.
#[cold]
#[inline(never)]
fn outside(offset: usize, length: usize, capacity: usize) -> ! {
    panic!("range {offset}+{length} outside a buffer of {capacity} bytes")
}

/// Panics because of an access to a word that is not naturally aligned.
#[cold]
#[inline(never)]
fn unaligned(offset: usize) -> ! {
    panic!("word at unaligned offset {offset}")
}

impl AtomicBuffer {
    /// Zeroed private memory, page aligned.
    pub fn heap(length: usize) -> Self {
        let heap = Heap::new(length);
        let address = heap.address;
        Self { address, length, backing: Arc::new(heap) }
    }

    /// Wraps memory that `backing` keeps valid.
    ///
    /// # Safety
    /// `address..address + length` must be readable and writable (for a read-only mapping: readable, and the caller
    /// never stores) until `backing` is dropped, and aligned to 8 bytes. Nobody may hold a Rust reference into it.
    pub unsafe fn from_raw(address: NonNull<u8>, length: usize, backing: Arc<dyn Backing>) -> Self {
        assert!((address.as_ptr() as usize).is_multiple_of(8), "shared memory must be 8-byte aligned");
        shared_copy::prepare();
        Self { address, length, backing }
    }

    /// First byte, for system calls that take addresses.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// The bytes `offset..offset + length` as a slice.
    ///
    /// # Safety
    /// Until the slice is gone no thread or process may write the range: it was committed (its length word was acquired
    /// positive) and the reader's position, which limits the writers, has not moved past it.
    pub unsafe fn committed(&self, offset: usize, length: usize) -> &[u8] {
        self.check(offset, length);
        // SAFETY: in bounds by the check, initialised (zeroed or written) and not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr().add(offset), length) }
    }

    #[inline(always)]
    fn check(&self, offset: usize, length: usize) {
        if offset > self.length || length > self.length - offset {
            outside(offset, length, self.length);
        }
    }

    #[inline(always)]
    fn word_i32(&self, offset: usize) -> &AtomicI32 {
        self.check(offset, 4);
        let pointer = self.address.as_ptr().wrapping_add(offset);
        if !(pointer as usize).is_multiple_of(4) {
            unaligned(offset);
        }
        // SAFETY: in bounds, aligned, valid while `self.backing` lives; shared bytes are only accessed atomically.
        unsafe { AtomicI32::from_ptr(pointer.cast()) }
    }

    #[inline(always)]
    fn word_i64(&self, offset: usize) -> &AtomicI64 {
        self.check(offset, 8);
        let pointer = self.address.as_ptr().wrapping_add(offset);
        if !(pointer as usize).is_multiple_of(8) {
            unaligned(offset);
        }
        // SAFETY: in bounds, aligned, valid while `self.backing` lives; shared bytes are only accessed atomically.
        unsafe { AtomicI64::from_ptr(pointer.cast()) }
    }
}

/// One aligned 64-bit word of shared memory. Its bounds were checked when it was created, so that accesses need no
/// check.
#[derive(Clone)]
pub struct SharedWord {
    address: NonNull<AtomicI64>,
    _backing: Arc<dyn Backing>,
}

// SAFETY: as for `AtomicBuffer`.
unsafe impl Send for SharedWord {}
// SAFETY: as for `AtomicBuffer`.
unsafe impl Sync for SharedWord {}

impl SharedWord {
    /// The word at `offset` of `buffer`.
    ///
    /// # Panics
    /// Outside the buffer, and at an offset that is not naturally aligned.
    pub fn of(buffer: &AtomicBuffer, offset: usize) -> Self {
        Self { address: NonNull::from(buffer.word_i64(offset)), _backing: buffer.backing.clone() }
    }
}

impl std::ops::Deref for SharedWord {
    type Target = AtomicI64;

    #[inline(always)]
    fn deref(&self) -> &AtomicI64 {
        // SAFETY: `of` took it from a valid reference, and the backing, which lives as long as this, keeps it valid.
        unsafe { self.address.as_ref() }
    }
}

impl fmt::Debug for SharedWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedWord")
    }
}

impl Region for AtomicBuffer {
    #[inline(always)]
    fn capacity(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn load_i32(&self, offset: usize, order: Ordering) -> i32 {
        self.word_i32(offset).load(order)
    }

    #[inline(always)]
    fn store_i32(&self, offset: usize, value: i32, order: Ordering) {
        self.word_i32(offset).store(value, order);
    }

    #[inline(always)]
    fn load_i64(&self, offset: usize, order: Ordering) -> i64 {
        self.word_i64(offset).load(order)
    }

    #[inline(always)]
    fn store_i64(&self, offset: usize, value: i64, order: Ordering) {
        self.word_i64(offset).store(value, order);
    }

    #[inline(always)]
    fn compare_and_set_i64(&self, offset: usize, current: i64, new: i64) -> bool {
        self.word_i64(offset).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    #[inline(always)]
    fn compare_and_set_i32(&self, offset: usize, current: i32, new: i32) -> bool {
        self.word_i32(offset).compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    #[inline(always)]
    fn fetch_add_i64(&self, offset: usize, delta: i64) -> i64 {
        self.word_i64(offset).fetch_add(delta, Ordering::AcqRel)
    }

    #[inline(always)]
    fn fetch_add_i32(&self, offset: usize, delta: i32) -> i32 {
        self.word_i32(offset).fetch_add(delta, Ordering::AcqRel)
    }

    #[inline(always)]
    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds; `bytes` is private and therefore does not overlap shared memory.
        unsafe { shared_copy::write(self.address.as_ptr().add(offset), bytes) }
    }

    #[inline(always)]
    fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds; `bytes` is private and therefore does not overlap shared memory.
        unsafe { shared_copy::read(self.address.as_ptr().add(offset), bytes) }
    }

    /// Checks the bounds of the whole frame once: on the path of a publisher the checks of each word would cost as
    /// much as the stores.
    #[cfg(not(miri))]
    #[inline(always)]
    fn put_frame(&self, offset: usize, header: [i64; 3], payload: &[u8], length: i32) {
        self.check(offset, HEADER_LENGTH + payload.len());
        let frame = self.address.as_ptr().wrapping_add(offset);
        if !(frame as usize).is_multiple_of(8) {
            unaligned(offset);
        }
        // SAFETY: header and payload are in bounds, the words are aligned, `payload` is private and therefore does not
        // overlap shared memory, all valid while `self.backing` lives; words are only accessed atomically.
        unsafe {
            let word = |index: usize| AtomicI64::from_ptr(frame.add(8 * index).cast());
            word(0).store(header[0], Ordering::Release);
            crate::fence(Ordering::Release);
            word(1).store(header[1], Ordering::Relaxed);
            word(2).store(header[2], Ordering::Relaxed);
            shared_copy::write_words(frame.add(HEADER_LENGTH), payload);
            AtomicI32::from_ptr(frame.cast()).store(length, Ordering::Release);
        }
    }

    fn zero(&self, offset: usize, length: usize) {
        self.check(offset, length);
        // SAFETY: in bounds.
        unsafe { shared_copy::zero(self.address.as_ptr().add(offset), length) }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    fn expect_store(&self, offset: usize) {
        if offset < self.length {
            // SAFETY: a hint that changes neither memory nor registers; processors without it take it for no operation.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) self.address.as_ptr().wrapping_add(offset),
                    options(nostack, preserves_flags, readonly)
                );
            }
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    fn expect_load(&self, offset: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        if offset < self.length {
            // SAFETY: a hint that changes neither memory nor registers.
            unsafe { _mm_prefetch(self.address.as_ptr().wrapping_add(offset).cast(), _MM_HINT_T0) }
        }
    }

    fn slice(&self, offset: usize, length: usize) -> Self {
        self.check(offset, length);
        // SAFETY: in bounds, so the address stays inside the allocation (one past its end for an empty slice).
        let address = unsafe { self.address.add(offset) };
        Self { address, length, backing: self.backing.clone() }
    }
}

impl fmt::Debug for AtomicBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AtomicBuffer({} bytes)", self.length)
    }
}

struct Heap {
    address: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation is owned and freed once, by whichever thread drops it last.
unsafe impl Send for Heap {}
// SAFETY: `Heap` itself gives no access.
unsafe impl Sync for Heap {}
impl Backing for Heap {}

impl Heap {
    fn new(length: usize) -> Self {
        let layout = Layout::from_size_align(length.max(8), PAGE_BYTES).expect("length fits in isize");
        // SAFETY: the layout's size is not zero.
        let Some(address) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { address, layout }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new` and freed only here.
        unsafe { dealloc(self.address.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_come_back_at_odd_offsets() {
        let buffer = AtomicBuffer::heap(64);
        buffer.copy_in(3, b"harrier");
        let mut out = [0; 7];
        buffer.slice(1, 63).copy_out(2, &mut out);
        assert_eq!(&out, b"harrier");
        buffer.zero(4, 2);
        buffer.copy_out(3, &mut out);
        assert_eq!(&out, b"h\0\0rier");
    }

    /// Zeroes ranges in the middle of other bytes by `zero`; only short ones under Miri, which is slow.
    fn zeroes_exactly(zero: impl Fn(&AtomicBuffer, usize, usize)) {
        let ranges =
            [(0, 16), (3, 61), (13, 0), (3, 16_383), (1, 16_384), (64, 16_384), (77, 65_000), (8, 65_528)];
        let ranges = if cfg!(miri) { &ranges[..3] } else { &ranges };
        for (offset, length) in ranges.iter().copied() {
            let buffer = AtomicBuffer::heap(offset + length + 100);
            let mut bytes = vec![0xa5; buffer.capacity()];
            buffer.copy_in(0, &bytes);
            zero(&buffer, offset, length);
            buffer.copy_out(0, &mut bytes);
            let is_wrong = |(at, byte): (usize, &u8)| {
                *byte != if (offset..offset + length).contains(&at) { 0 } else { 0xa5 }
            };
            assert_eq!(bytes.iter().enumerate().position(is_wrong), None, "{offset}+{length}");
        }
    }

    #[test]
    fn ranges_are_zeroed_and_nothing_beside_them() {
        zeroes_exactly(AtomicBuffer::zero);
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn ranges_are_zeroed_past_the_caches_and_nothing_beside_them() {
        zeroes_exactly(|buffer, offset, length| {
            // SAFETY: in bounds, and nobody else has the buffer.
            unsafe { shared_copy::zero_past_caches(buffer.as_ptr().add(offset), length) }
        });
    }

    #[test]
    fn accesses_outside_panic() {
        let buffer = AtomicBuffer::heap(64);
        let panics =
            |access: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(access)).is_err();
        for offset in [61, 64, usize::MAX] {
            assert!(panics(&|| {
                buffer.load_i32(offset, Ordering::Relaxed);
            }));
        }
        assert!(panics(&|| {
            buffer.load_i64(4, Ordering::Relaxed);
        }));
        assert!(panics(&|| drop(buffer.slice(60, 8))));
    }

    #[test]
    fn a_word_keeps_the_memory_and_must_be_inside() {
        let word = SharedWord::of(&AtomicBuffer::heap(64), 56);
        word.store(7, Ordering::Release);
        assert_eq!(word.clone().load(Ordering::Acquire), 7);
        let buffer = AtomicBuffer::heap(64);
        for offset in [4, 57, 64] {
            let make = std::panic::AssertUnwindSafe(|| SharedWord::of(&buffer, offset));
            assert!(std::panic::catch_unwind(make).is_err());
        }
    }

    #[test]
    fn a_frame_is_written_whole_or_not_at_all() {
        let buffer = AtomicBuffer::heap(128);
        buffer.put_frame(32, [(7 << 32) | i64::from((-37_i32) as u32), 2, 3], b"hello", 37);
        assert_eq!(buffer.load_i64(32, Ordering::Relaxed), (7 << 32) | 37);
        assert_eq!((buffer.load_i64(40, Ordering::Relaxed), buffer.load_i64(48, Ordering::Relaxed)), (2, 3));
        let mut payload = [0; 6];
        buffer.copy_out(64, &mut payload);
        assert_eq!(&payload, b"hello\0");
        for (offset, length) in [(64, 33), (100, 0), (128, 0), (4, 1)] {
            let payload = vec![1; length];
            let put = std::panic::AssertUnwindSafe(|| buffer.put_frame(offset, [1; 3], &payload, 1));
            assert!(std::panic::catch_unwind(put).is_err(), "{offset}+{length}");
        }
        assert_eq!(buffer.load_i64(96, Ordering::Relaxed), 0);
    }

    #[test]
    fn a_slice_keeps_the_memory() {
        let slice = AtomicBuffer::heap(64).slice(8, 8);
        slice.store_i64(0, 7, Ordering::Relaxed);
        assert_eq!(slice.load_i64(0, Ordering::Relaxed), 7);
    }
}
