//! Datagrams that wait to be sent, and the message headers that describe them to the system.

use crate::control::{self, Control};
use crate::segmentation;
use harrier_ringbuf::transport::{QueueFull, SendBuffer};
use harrier_ringbuf::{AtomicBuffer, Region};
use socket2::SockAddr;
use std::io::Error;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::RawFd;

/// Number of submissions that can wait.
pub(crate) const QUEUE_CAPACITY: usize = 64;
/// Messages of one call.
pub(crate) const BATCH: usize = harrier_ringbuf::transport::MAX_BATCH_LENGTH;
/// Longest control frame; longer ones are sent from a log.
const INLINE_LENGTH: usize = 2_048;

enum Payload {
    Log { buffer: AtomicBuffer, offset: usize, length: usize },
    Inline { length: usize },
}

struct Submission {
    token: u64,
    to: Option<SockAddr>,
    payload: Payload,
    bytes: Box<[u8; INLINE_LENGTH]>,
}

impl Submission {
    /// Returns address and length of the data.
    fn range(&self) -> (*const u8, usize) {
        match &self.payload {
            Payload::Log { buffer, offset, length } => {
                (buffer.as_ptr().wrapping_add(*offset).cast_const(), *length)
            }
            Payload::Inline { length } => (self.bytes.as_ptr(), *length),
        }
    }
}

/// The queue; all entries keep their buffers for reuse.
pub(crate) struct SendQueue {
    entries: Vec<Submission>,
    queued: usize,
}

impl SendQueue {
    pub(crate) fn new() -> Self {
        let entries = (0..QUEUE_CAPACITY)
            .map(|_| Submission {
                token: 0,
                to: None,
                payload: Payload::Inline { length: 0 },
                bytes: Box::new([0; INLINE_LENGTH]),
            })
            .collect();
        Self { entries, queued: 0 }
    }

    /// Number of datagrams that wait.
    pub(crate) fn len(&self) -> usize {
        self.queued
    }

    pub(crate) fn submit(
        &mut self,
        token: u64,
        bytes: SendBuffer<'_>,
        to: Option<SocketAddr>,
    ) -> Result<(), QueueFull> {
        let Some(entry) = self.entries.get_mut(self.queued) else { return Err(QueueFull) };
        entry.token = token;
        entry.to = to.map(SockAddr::from);
        entry.payload = match bytes {
            SendBuffer::Log { buffer, offset, length } => {
                assert!(
                    offset <= buffer.capacity() && length <= buffer.capacity() - offset,
                    "send outside the log"
                );
                Payload::Log { buffer: buffer.clone(), offset, length }
            }
            SendBuffer::Copied(bytes) => {
                assert!(bytes.len() <= INLINE_LENGTH, "control frame of {} bytes", bytes.len());
                entry.bytes[..bytes.len()].copy_from_slice(bytes);
                Payload::Inline { length: bytes.len() }
            }
        };
        self.queued += 1;
        Ok(())
    }

    /// Removes all datagrams and releases their logs, which may be unmapped afterwards.
    pub(crate) fn clear(&mut self) {
        let queued = std::mem::take(&mut self.queued);
        for submission in &mut self.entries[..queued] {
            submission.payload = Payload::Inline { length: 0 };
        }
    }

    pub(crate) fn token(&self, index: usize) -> u64 {
        self.entries[index].token
    }

    /// Bytes of a datagram.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.entries[index].range().1
    }

    /// Where the run ends that starts with a submission.
    pub(crate) fn run_end(&self, from: usize, cuts_runs: bool) -> usize {
        if !cuts_runs {
            return from + 1;
        }
        let first = &self.entries[from];
        from + segmentation::run_length(|index| {
            let submission = self.entries[from..self.queued].get(index)?;
            let is_alike = matches!(submission.payload, Payload::Log { .. }) && submission.to == first.to;
            is_alike.then(|| submission.range().1)
        })
    }

    /// Names the datagrams from `from` on in at most `most` headers, a run in each; returns how many.
    pub(crate) fn fill(&self, from: usize, most: usize, cuts_runs: bool, headers: &mut SendHeaders) -> usize {
        let (mut count, mut next, mut used) = (0, from, 0);
        while count < most && next < self.queued {
            let end = self.run_end(next, cuts_runs);
            let first = used;
            for submission in &self.entries[next..end] {
                used = append(&mut headers.vectors, first, used, submission.range());
            }
            let header = &mut headers.messages[count].msg_hdr;
            *header = control::empty_header();
            if let Some(to) = &self.entries[next].to {
                header.msg_name = to.as_ptr().cast_mut().cast();
                header.msg_namelen = to.len();
            }
            header.msg_iov = &raw mut headers.vectors[first];
            header.msg_iovlen = (used - first) as _;
            if end - next > 1 {
                headers.controls[count].segment(header, self.length(next) as u16);
            }
            next = end;
            headers.ends[count] = next;
            count += 1;
        }
        count
    }

    /// Sends one datagram with the cheapest call.
    pub(crate) fn send_one(&self, index: usize, socket: RawFd) -> Result<usize, Error> {
        let submission = &self.entries[index];
        let (address, length) = submission.range();
        let (to, to_length) = match &submission.to {
            Some(to) => (to.as_ptr().cast::<libc::sockaddr>(), to.len()),
            None => (std::ptr::null(), 0),
        };
        // SAFETY: the range is kept alive by the submission, the kernel only reads it; the address is valid or absent.
        let sent = unsafe { libc::sendto(socket, address.cast(), length, libc::MSG_DONTWAIT, to, to_length) };
        if sent >= 0 { Ok(sent as usize) } else { Err(Error::last_os_error()) }
    }

    /// Returns address and length of a datagram that goes to the socket's own peer.
    pub(crate) fn connected_range(&self, index: usize) -> Option<(*const u8, usize)> {
        self.entries[index].to.is_none().then(|| self.entries[index].range())
    }
}

/// Message headers of one call, at an address that does not change.
pub(crate) struct SendHeaders {
    pub(crate) messages: [libc::mmsghdr; BATCH],
    /// Index of the submission behind each message's last one.
    pub(crate) ends: [usize; BATCH],
    vectors: [libc::iovec; QUEUE_CAPACITY],
    controls: [Control; BATCH],
}

// SAFETY: the pointers in it are only followed during a send, and `fill` has put them there just before.
unsafe impl Send for SendHeaders {}

impl SendHeaders {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            // SAFETY: all-zero message headers are valid values.
            messages: unsafe { zeroed() },
            ends: [0; BATCH],
            // SAFETY: as above.
            vectors: unsafe { zeroed() },
            controls: [Control::EMPTY; BATCH],
        })
    }
}

/// Appends a range to the vectors from `first` on. The range extends the last vector when it continues it. Returns
/// the end of the vectors.
fn append(
    vectors: &mut [libc::iovec],
    first: usize,
    used: usize,
    (address, length): (*const u8, usize),
) -> usize {
    if let Some(last) = vectors[first..used].last_mut()
        && last.iov_base.cast_const().cast::<u8>().wrapping_add(last.iov_len) == address
    {
        last.iov_len += length;
        return used;
    }
    vectors[used] = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: length };
    used + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of datagrams in each call that sends a full queue.
    fn calls(most: usize, cuts_runs: bool, lengths: impl Fn(usize) -> usize) -> Vec<usize> {
        let log = AtomicBuffer::heap(64 << 10);
        let (mut queue, mut headers) = (SendQueue::new(), SendHeaders::new());
        for index in 0..QUEUE_CAPACITY {
            let bytes = SendBuffer::Log { buffer: &log, offset: index * 1_000, length: lengths(index) };
            queue.submit(index as u64, bytes, None).unwrap();
        }
        let (mut from, mut calls) = (0, Vec::new());
        while from < queue.len() {
            let count = queue.fill(from, most, cuts_runs, &mut headers);
            calls.push(count);
            from = headers.ends[count - 1];
        }
        calls
    }

    #[test]
    fn a_call_names_as_many_datagrams_as_the_setting_says() {
        for most in [1, 3, 16] {
            let calls = calls(most, false, |_| 500);
            assert_eq!(calls.iter().sum::<usize>(), QUEUE_CAPACITY);
            assert_eq!(calls.len(), QUEUE_CAPACITY.div_ceil(most));
            assert!(calls.iter().all(|count| *count <= most));
        }
    }

    #[test]
    fn a_run_is_named_as_one() {
        // A shorter datagram ends a run.
        let lengths = |index: usize| if index % 8 == 7 { 400 } else { 500 };
        assert_eq!(calls(3, true, lengths), [3, 3, 2]);
    }
}
