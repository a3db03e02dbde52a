//! Control messages and socket options that the standard library does not have.

use socket2::Socket;
use std::io::Error;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::AsRawFd;

/// Bytes of a control area.
pub(crate) const CONTROL_LENGTH: usize = 64;

/// Room for the control messages of one send or receive.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Control([MaybeUninit<u8>; CONTROL_LENGTH]);

impl Control {
    pub(crate) const EMPTY: Self = Self([MaybeUninit::uninit(); CONTROL_LENGTH]);

    /// Lets the system write its control messages here.
    pub(crate) fn receive_into(&mut self, header: &mut libc::msghdr) {
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_LENGTH as _;
    }

    /// Makes the system cut the data of `header` into datagrams of `length` bytes.
    pub(crate) fn segment(&mut self, header: &mut libc::msghdr, length: u16) {
        header.msg_control = self.0.as_mut_ptr().cast();
        // SAFETY: a computation on a length.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as _;
        // SAFETY: the control area holds one message of this length and is aligned for its header.
        unsafe {
            let message = libc::CMSG_FIRSTHDR(header);
            (*message).cmsg_level = libc::SOL_UDP;
            (*message).cmsg_type = libc::UDP_SEGMENT;
            (*message).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(message).cast::<u16>().write_unaligned(length);
        }
    }
}

/// Returns the value of a control message of a receive; `None` when there is no message of that kind.
///
/// # Safety
///
/// A successful receive has filled in `header`, its control area still exists, and messages of that kind hold a `V`,
/// for which all bits are valid.
pub(crate) unsafe fn find<V: Copy>(
    header: &libc::msghdr,
    level: libc::c_int,
    kind: libc::c_int,
) -> Option<V> {
    // SAFETY: the system has written whole control messages into the area that the header names.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == level && (*message).cmsg_type == kind {
                return Some(libc::CMSG_DATA(message).cast::<V>().read_unaligned());
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// Returns a message header without buffers.
pub(crate) fn empty_header() -> libc::msghdr {
    // SAFETY: an all-zero message header is a valid value.
    unsafe { zeroed() }
}

/// Turns an option of a socket on.
pub(crate) fn turn_on(socket: &Socket, level: libc::c_int, option: libc::c_int) -> Result<(), Error> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which is valid for reading.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
