//! Bytes that several threads and processes share, accessed by offset.
//!
//! No Rust reference is made to shared bytes that another may still write: words are loaded and stored atomically,
//! everything else is copied. The one exception, [`AtomicBuffer::committed`], states what its caller must know.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

/// Alignment of heap buffers, that of a mapped page.
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
    /// Replaces `current` by `new`; returns whether it did. Acquires and releases.
    fn compare_and_set_i64(&self, offset: usize, current: i64, new: i64) -> bool;
    /// Replaces `current` by `new`; returns whether it did. Acquires and releases.
    fn compare_and_set_i32(&self, offset: usize, current: i32, new: i32) -> bool;
    /// Adds and returns the value before. Acquires and releases.
    fn fetch_add_i64(&self, offset: usize, delta: i64) -> i64;
    /// Adds and returns the value before. Acquires and releases.
    fn fetch_add_i32(&self, offset: usize, delta: i32) -> i32;
    /// Copies private bytes in. Not atomic as a whole; a later release store publishes it.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
    /// Copies shared bytes out. When another may still write them the caller must check afterwards that none did.
    fn copy_out(&self, offset: usize, bytes: &mut [u8]);
    /// Zeroes a range. Not atomic as a whole.
    fn zero(&self, offset: usize, length: usize);
    /// Tells the processor that the word at `offset` will be stored soon. Outside the capacity it does nothing.
    #[inline(always)]
    fn expect_store(&self, _offset: usize) {}
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

/// Ends an access outside the buffer. Out of line with its numbers by value: a formatted assertion in place would store them
/// to the stack on every access, and those stores crowd out the stores to shared memory.
#[cold]
#[inline(never)]
fn outside(offset: usize, length: usize, capacity: usize) -> ! {
    panic!("range {offset}+{length} outside a buffer of {capacity} bytes")
}

/// Ends an access to a word that is not naturally aligned.
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

/// Copies between private and shared memory: plain in production; under Miri byte-wise relaxed atomics, so that a race
/// which the protocols allow (a torn read that is detected afterwards) is not undefined there.
mod shared_copy {
    #[cfg(not(miri))]
    #[inline(always)]
    pub(super) unsafe fn write(to: *mut u8, bytes: &[u8]) {
        // SAFETY: the caller promises that `to` is valid for `bytes.len()` and that the ranges are disjoint.
        unsafe { copy(bytes.as_ptr(), to, bytes.len()) }
    }

    #[cfg(not(miri))]
    #[inline(always)]
    pub(super) unsafe fn read(from: *const u8, bytes: &mut [u8]) {
        // SAFETY: the caller promises that `from` is valid for `bytes.len()` and that the ranges are disjoint.
        unsafe { copy(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies; short ranges, which most messages are, without a call: the first and the last so many bytes, which overlap
    /// in the middle.
    #[cfg(not(miri))]
    #[inline(always)]
    unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
        // SAFETY: the caller promises that both are valid for `length` and disjoint; each branch copies pieces inside.
        unsafe {
            match length {
                8..=16 => ends::<8>(from, to, length),
                17..=32 => ends::<16>(from, to, length),
                33..=64 => ends::<32>(from, to, length),
                _ => std::ptr::copy_nonoverlapping(from, to, length),
            }
        }
    }

    /// Copies the first and the last `N` of at least `N` and at most `2 * N` bytes.
    #[cfg(not(miri))]
    #[inline(always)]
    unsafe fn ends<const N: usize>(from: *const u8, to: *mut u8, length: usize) {
        let last = length - N;
        // SAFETY: the caller promises that both are valid for `length`, which is at least `N`, and disjoint.
        unsafe {
            std::ptr::copy_nonoverlapping(from, to, N);
            std::ptr::copy_nonoverlapping(from.add(last), to.add(last), N);
        }
    }

    #[cfg(not(miri))]
    pub(super) unsafe fn zero(to: *mut u8, length: usize) {
        // SAFETY: the caller promises that `to` is valid for `length`.
        unsafe { std::ptr::write_bytes(to, 0, length) }
    }

    #[cfg(miri)]
    use std::sync::atomic::{AtomicU8, Ordering};

    #[cfg(miri)]
    pub(super) unsafe fn write(to: *mut u8, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: the caller promises that `to` is valid for `bytes.len()`.
            unsafe { AtomicU8::from_ptr(to.add(index)) }.store(*byte, Ordering::Relaxed);
        }
    }

    #[cfg(miri)]
    pub(super) unsafe fn read(from: *const u8, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: the caller promises that `from` is valid for `bytes.len()`.
            *byte = unsafe { AtomicU8::from_ptr(from.add(index).cast_mut()) }.load(Ordering::Relaxed);
        }
    }

    #[cfg(miri)]
    pub(super) unsafe fn zero(to: *mut u8, length: usize) {
        for index in 0..length {
            // SAFETY: the caller promises that `to` is valid for `length`.
            unsafe { AtomicU8::from_ptr(to.add(index)) }.store(0, Ordering::Relaxed);
        }
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
    fn a_slice_keeps_the_memory() {
        let slice = AtomicBuffer::heap(64).slice(8, 8);
        slice.store_i64(0, 7, Ordering::Relaxed);
        assert_eq!(slice.load_i64(0, Ordering::Relaxed), 7);
    }
}
