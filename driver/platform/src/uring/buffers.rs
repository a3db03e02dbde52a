//! Buffers that are provided to the kernel for a multishot receive.

use crate::control::{self, CONTROL_LENGTH};
use crate::segmentation;
use crate::udp::{MAX_DATAGRAM_LENGTH, socket_address, stamp_of};
use io_uring::IoUring;
use io_uring::types::{BufRingEntry, RecvMsgOut};
use std::io::Error;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

/// Number of buffers of a socket.
pub(super) const BUFFER_COUNT: usize = 32;
/// Buffer group in the ring.
pub(super) const GROUP: u16 = 0;
/// Length of the header that the kernel writes before name, control messages and payload.
const RESULT_LENGTH: usize = 16;
/// Length of the area for the source's address; it keeps the control messages after it aligned.
const NAME_LENGTH: usize = 32;
const BUFFER_LENGTH: usize = RESULT_LENGTH + NAME_LENGTH + CONTROL_LENGTH + MAX_DATAGRAM_LENGTH;

const _: () = assert!(NAME_LENGTH >= size_of::<libc::sockaddr_in6>());
const _: () = assert!((RESULT_LENGTH + NAME_LENGTH).is_multiple_of(8) && BUFFER_LENGTH.is_multiple_of(8));

/// The ring of buffers as the kernel reads it, alone on its page.
#[repr(C, align(4096))]
struct Page([u8; 4_096]);

/// Provided buffers and their contents.
pub(super) struct Buffers {
    page: Box<Page>,
    /// The area consists of words, because the control messages inside must be aligned.
    area: Box<[u64]>,
    tail: u16,
    template: Box<libc::msghdr>,
}

// SAFETY: the template holds no pointers, and all else is owned.
unsafe impl Send for Buffers {}

/// One receive.
pub(super) struct Message<'a> {
    pub(super) payload: &'a [u8],
    pub(super) source: SocketAddr,
    /// Length of the datagrams that the kernel has coalesced.
    pub(super) segment: Option<usize>,
    /// Time at which the system received the datagram, nanoseconds since the epoch; only where the socket asked for
    /// it.
    pub(super) media_epoch_ns: Option<i64>,
}

impl Buffers {
    /// Provides all buffers to a ring.
    pub(super) fn register(ring: &IoUring) -> Result<Box<Self>, Error> {
        let mut template = Box::new(control::empty_header());
        template.msg_namelen = NAME_LENGTH as libc::socklen_t;
        template.msg_controllen = CONTROL_LENGTH as _;
        let area = vec![0; BUFFER_COUNT * BUFFER_LENGTH / size_of::<u64>()].into_boxed_slice();
        let mut buffers = Box::new(Self { page: Box::new(Page([0; 4_096])), area, tail: 0, template });
        let address = (&raw mut *buffers.page) as u64;
        // SAFETY: the page is aligned and has room for all entries, and both outlive the ring's use of them: a socket gives
        // them up only when its receive has been taken back.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, BUFFER_COUNT as u16, GROUP, 0) }?;
        for id in 0..BUFFER_COUNT as u16 {
            buffers.provide(id);
        }
        Ok(buffers)
    }

    /// Lengths of names and control messages, in the form for the receive.
    pub(super) fn template(&self) -> *const libc::msghdr {
        &raw const *self.template
    }

    fn buffer(&self, id: u16) -> Option<&[u8]> {
        let words = BUFFER_LENGTH / size_of::<u64>();
        let start = usize::from(id) * words;
        let buffer = self.area.get(start..start + words)?;
        // SAFETY: words are bytes, eight each; the kernel has given the buffer back.
        Some(unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), BUFFER_LENGTH) })
    }

    /// Returns what a receive has put into a buffer.
    pub(super) fn message(&self, id: u16) -> Option<Message<'_>> {
        let out = RecvMsgOut::parse(self.buffer(id)?, &self.template).ok()?;
        let source = source(out.name_data())?;
        let mut header = control::empty_header();
        header.msg_control = out.control_data().as_ptr().cast_mut().cast();
        header.msg_controllen = out.control_data().len() as _;
        // SAFETY: the kernel has written whole control messages there; they are only read.
        let (segment, media_epoch_ns) = unsafe { (segmentation::segment_length(&header), stamp_of(&header)) };
        let payload = out.payload_data();
        // These refer to the buffer, not to `out`.
        let (address, length) = (payload.as_ptr(), payload.len());
        // SAFETY: part of the buffer, which is borrowed from `self` for as long.
        let payload = unsafe { std::slice::from_raw_parts(address, length) };
        Some(Message { payload, source, segment, media_epoch_ns })
    }

    /// Gives a buffer to the kernel.
    pub(super) fn provide(&mut self, id: u16) {
        let length = BUFFER_LENGTH / size_of::<u64>();
        let address = self.area.as_mut_ptr().wrapping_add(usize::from(id) * length) as u64;
        let entries = (&raw mut *self.page).cast::<BufRingEntry>();
        let place = usize::from(self.tail) & (BUFFER_COUNT - 1);
        // SAFETY: the page holds all entries; the kernel reads those below the tail only. The tail is in the first entry,
        // where setting the others of its fields does not touch it.
        unsafe {
            let entry = &mut *entries.add(place);
            entry.set_addr(address);
            entry.set_len(BUFFER_LENGTH as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(entries).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Returns the address in the name of a receive.
fn source(name: &[u8]) -> Option<SocketAddr> {
    // SAFETY: an all-zero address is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let length = name.len().min(size_of::<libc::sockaddr_storage>());
    // SAFETY: both ranges have this length and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), (&raw mut storage).cast::<u8>(), length) };
    socket_address(&storage)
}
