//! Receiving with the time at which the system had each datagram.

use std::io::Error;
use std::mem::{MaybeUninit, zeroed};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use harrier_ringbuf::TransportError;
use harrier_ringbuf::transport::Arrival;

use crate::segmentation;

use super::{MAX_DATAGRAM_LENGTH, UdpSocket, socket_address, storage_len};

/// Room for one time stamp among the control messages of a datagram.
const CONTROL_LENGTH: usize = 64;

/// Nanoseconds since the epoch, by the clock that the system stamps datagrams with.
pub(crate) fn epoch_ns() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing and the clock exists on every Linux.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut time) };
    assert_eq!(result, 0, "clock_gettime failed");
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

impl UdpSocket {
    /// Asks the system to stamp what arrives.
    pub(super) fn enable_stamps(socket: &socket2::Socket) -> Result<(), Error> {
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, which is valid for reading.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMPNS,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    /// Receives one datagram with its times; returns its bytes.
    pub(super) fn receive_one_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        // SAFETY: an all-zero address is a valid value to be filled in below.
        let mut address: libc::sockaddr_storage = unsafe { zeroed() };
        let mut control = Control { bytes: [MaybeUninit::uninit(); CONTROL_LENGTH] };
        let mut vector =
            libc::iovec { iov_base: self.received.as_mut_ptr().cast(), iov_len: MAX_DATAGRAM_LENGTH };
        // SAFETY: an all-zero message header is a valid value to be filled in below.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = (&raw mut address).cast();
        header.msg_namelen = storage_len();
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = control.bytes.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_LENGTH;
        // SAFETY: the header points to an address, a vector over the receive buffer and a control buffer, all alive until
        // the end of this function.
        let received = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut header, libc::MSG_DONTWAIT) };
        if received < 0 {
            return self.nothing_received(Error::last_os_error()).map(|_| 0);
        }
        let length = received as usize;
        if let Some(source) = socket_address(&address) {
            let arrival = Arrival { media_epoch_ns: stamp_of(&header), channel_epoch_ns: Some(epoch_ns()) };
            // SAFETY: the receive was successful, and the control area is still there.
            let segment = unsafe { segmentation::segment_length(&header) };
            for datagram in segmentation::datagrams(&self.received[..length], segment) {
                visit(datagram, source, &arrival);
            }
        }
        Ok(length)
    }
}

/// A control buffer, aligned as its messages are.
#[repr(align(8))]
struct Control {
    bytes: [MaybeUninit<u8>; CONTROL_LENGTH],
}

/// The system's stamp among the control messages of a datagram.
pub(crate) fn stamp_of(header: &libc::msghdr) -> Option<i64> {
    // SAFETY: the system has filled the header's control buffer and told its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: not null, so it points to a whole message of the control buffer, which is aligned.
        let message = unsafe { &*next };
        if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_TIMESTAMPNS {
            // SAFETY: a message of this type holds a timespec, perhaps not aligned.
            let time: libc::timespec =
                unsafe { libc::CMSG_DATA(next).cast::<libc::timespec>().read_unaligned() };
            return Some(time.tv_sec * 1_000_000_000 + time.tv_nsec);
        }
        // SAFETY: as above.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    None
}
