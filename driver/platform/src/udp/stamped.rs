//! Receiving datagrams with the time at which the system received them.

use std::net::SocketAddr;

use harrier_ringbuf::TransportError;
use harrier_ringbuf::transport::Arrival;

use super::{UdpSocket, socket_address};
use crate::control::{self, Control};
use crate::segmentation;

/// Returns nanoseconds since the epoch by the clock with which the system stamps datagrams.
pub(crate) fn epoch_ns() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing and the clock exists on every Linux.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    assert_eq!(result, 0, "clock_gettime failed");
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

impl UdpSocket {
    /// Receives one datagram with its times; returns its length.
    pub(super) fn receive_one_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        let mut control = Control::EMPTY;
        let Some(message) = self.receive_message(&mut control)? else { return Ok(0) };
        if let Some(source) = socket_address(&message.address) {
            // SAFETY: the receive was successful, and its control area is above.
            let (media_epoch_ns, segment) =
                unsafe { (stamp_of(&message.header), segmentation::segment_length(&message.header)) };
            let arrival = Arrival { media_epoch_ns, channel_epoch_ns: Some(epoch_ns()) };
            for datagram in segmentation::datagrams(&self.received[..message.length], segment) {
                visit(datagram, source, &arrival);
            }
        }
        Ok(message.length)
    }
}

/// Returns the system's time stamp among the control messages of a datagram.
///
/// # Safety
///
/// A successful receive has filled in `header`, and its control area still exists.
pub(crate) unsafe fn stamp_of(header: &libc::msghdr) -> Option<i64> {
    // SAFETY: as the caller says; such messages hold a timespec.
    let time: libc::timespec = unsafe { control::find(header, libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) }?;
    Some(time.tv_sec * 1_000_000_000 + time.tv_nsec)
}
