//! Copies between private and shared memory. They are plain copies in production. Under Miri they are byte-wise
//! relaxed atomics, so that a race which the protocols allow (a torn read that is detected afterwards) is not
//! undefined behaviour there.

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

/// Works as [`write`], for `to` aligned to 8 bytes. Short ranges are copied word by word: a wider load of bytes that
/// the caller has just written field by field would wait until those stores have left the processor's store buffer.
/// The words are atomic so that the compiler does not join them.
#[cfg(not(miri))]
#[inline(always)]
pub(super) unsafe fn write_words(to: *mut u8, bytes: &[u8]) {
    let (from, length) = (bytes.as_ptr(), bytes.len());
    // SAFETY: the caller promises that `to` is aligned, valid for `bytes.len()` and that the ranges are disjoint; each
    // piece lies inside.
    unsafe {
        if !(8..=64).contains(&length) {
            return copy(from, to, length);
        }
        let mut at = 0;
        if length & 64 != 0 {
            at += words::<8>(from, to);
        }
        if length & 32 != 0 {
            at += words::<4>(from.add(at), to.add(at));
        }
        if length & 16 != 0 {
            at += words::<2>(from.add(at), to.add(at));
        }
        if length & 8 != 0 {
            words::<1>(from.add(at), to.add(at));
        }
        if length & 7 != 0 {
            std::ptr::copy_nonoverlapping(from.add(length - 8), to.add(length - 8), 8);
        }
    }
}

/// Copies `N` words to an aligned address; returns the number of bytes.
#[cfg(not(miri))]
#[inline(always)]
unsafe fn words<const N: usize>(from: *const u8, to: *mut u8) -> usize {
    for index in 0..N {
        // SAFETY: the caller promises that both are valid for `N` words and disjoint, and that `to` is aligned.
        unsafe {
            let word = from.cast::<i64>().add(index).read_unaligned();
            AtomicI64::from_ptr(to.cast::<i64>().add(index)).store(word, Ordering::Relaxed);
        }
    }
    8 * N
}

#[cfg(not(miri))]
use std::sync::atomic::{AtomicI64, Ordering};

/// Copies bytes. Short ranges, as most messages are, need no call: the first and the last bytes are copied separately
/// and overlap in the middle.
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

/// Length from which ranges are zeroed with non-temporal stores, where [`ZEROES_PAST_CACHES`] is true.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STREAMED_BYTES: usize = 16 << 10;

/// True where long ranges are better zeroed in memory than in the caches. Another core writes such a range next. On
/// AMD processors that core may share no cache with this one and would have to fetch every line from it, which takes
/// longer than fetching it from memory. On Intel processors it finds the lines in the last-level cache, which is
/// twice as fast as memory.
#[cfg(all(target_arch = "x86_64", not(miri)))]
static ZEROES_PAST_CACHES: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
});

/// Identifies the processor. This takes microseconds in a virtual machine, so it is done when memory is mapped and
/// not when it is zeroed.
pub(super) fn prepare() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    std::sync::LazyLock::force(&ZEROES_PAST_CACHES);
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) unsafe fn zero(to: *mut u8, length: usize) {
    if length < STREAMED_BYTES || !*ZEROES_PAST_CACHES {
        // SAFETY: the caller promises that `to` is valid for `length`.
        unsafe { std::ptr::write_bytes(to, 0, length) }
    } else {
        // SAFETY: as promised by the caller.
        unsafe { zero_past_caches(to, length) }
    }
}

/// Zeroes a range that the caller need not keep in its caches.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(super) unsafe fn zero_past_caches(to: *mut u8, length: usize) {
    use std::arch::x86_64::{__m128i, _mm_setzero_si128, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    let head = to.align_offset(LINE).min(length);
    let lines = (length - head) / LINE;
    let tail = length - head - lines * LINE;
    // SAFETY: head, lines and tail are the range, in this order, for which the caller promises that `to` is valid; the
    // lines are aligned to 64 bytes. Stores past the caches are ordered by nothing but the fence behind them, which
    // puts them before whatever the caller stores next. Every x86-64 processor knows these instructions.
    unsafe {
        std::ptr::write_bytes(to, 0, head);
        let zero = _mm_setzero_si128();
        let mut line = to.add(head).cast::<__m128i>();
        for _ in 0..lines {
            _mm_stream_si128(line, zero);
            _mm_stream_si128(line.add(1), zero);
            _mm_stream_si128(line.add(2), zero);
            _mm_stream_si128(line.add(3), zero);
            line = line.add(4);
        }
        std::ptr::write_bytes(to.add(head + lines * LINE), 0, tail);
        _mm_sfence();
    }
}

#[cfg(all(not(target_arch = "x86_64"), not(miri)))]
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
