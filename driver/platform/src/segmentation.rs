//! Segmentation of sends and coalescing of receives by the kernel (UDP GSO and GRO). Datagrams of one length that
//! follow each other pass the kernel as one, and the kernel cuts or joins them at its edges. Peers see the same
//! datagrams either way.

use crate::control;
use socket2::Socket;
use std::io::Error;
use std::os::fd::AsRawFd;

/// Most datagrams of one run; all kernels with UDP_SEGMENT take this many.
pub(crate) const MAX_SEGMENTS: usize = 64;
/// Most bytes of one run: it must fit into one IP packet with its headers.
pub(crate) const MAX_RUN_LENGTH: usize = 65_000;

/// Returns the length of the datagrams that the system has joined in one receive; `None` when it is a single
/// datagram.
///
/// # Safety
///
/// A successful receive has filled in `header`, and its control area still exists.
pub(crate) unsafe fn segment_length(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: as the caller says; such messages hold an int.
    let length: libc::c_int = unsafe { control::find(header, libc::SOL_UDP, libc::UDP_GRO) }?;
    usize::try_from(length).ok().filter(|length| *length > 0)
}

/// Returns the datagrams of one receive.
pub(crate) fn datagrams(bytes: &[u8], segment: Option<usize>) -> impl Iterator<Item = &[u8]> {
    let length = segment.unwrap_or(bytes.len()).max(1);
    // An empty datagram counts as one.
    let single = bytes.is_empty().then_some(bytes);
    single.into_iter().chain(bytes.chunks(length))
}

/// Returns the number of datagrams, from the first on, that can be sent as one run. They must have one length; the
/// last one may be shorter. `next` returns the length of the datagram at an index, or `None` when it does not belong
/// to the run.
pub(crate) fn run_length(next: impl Fn(usize) -> Option<usize>) -> usize {
    let Some(first) = next(0) else { return 1 };
    let mut total = first;
    let mut count = 1;
    while count < MAX_SEGMENTS {
        let Some(length) = next(count) else { break };
        total += length;
        if length == 0 || length > first || total > MAX_RUN_LENGTH {
            break;
        }
        count += 1;
        if length < first {
            break;
        }
    }
    count
}

/// True for the errors with which the system refuses a run although it would send its datagrams one by one: the
/// datagrams are longer than the path MTU, or the device lacks a feature.
pub(crate) fn is_refused(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// True when the kernel cuts runs into datagrams.
pub(crate) fn cuts_runs(socket: &Socket) -> bool {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value and its length are valid for writing.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    outcome == 0
}

/// Asks the kernel to coalesce datagrams of one length; false when it cannot.
pub(crate) fn coalesce(socket: &Socket) -> bool {
    control::turn_on(socket, libc::SOL_UDP, libc::UDP_GRO).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lengths: &[usize]) -> usize {
        run_length(|index| lengths.get(index).copied())
    }

    #[test]
    fn a_run_ends_with_the_first_shorter_datagram() {
        assert_eq!(run(&[100, 100, 100]), 3);
        assert_eq!(run(&[100, 100, 60, 100]), 3);
        assert_eq!(run(&[100, 101]), 1);
        assert_eq!(run(&[100, 0]), 1);
        assert_eq!(run(&[]), 1);
    }

    #[test]
    fn a_run_is_no_longer_than_the_kernel_takes() {
        assert_eq!(run(&[1_408; 200]), MAX_RUN_LENGTH / 1_408);
        assert_eq!(run(&[32; 200]), MAX_SEGMENTS);
        assert_eq!(run(&[60_000; 4]), 1);
    }

    #[test]
    fn what_came_together_is_told_apart() {
        let lengths = |bytes: &[u8], segment| datagrams(bytes, segment).map(<[u8]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[0; 250], Some(100)), [100, 100, 50]);
        assert_eq!(lengths(&[0; 250], None), [250]);
        assert_eq!(lengths(&[], None), [0]);
        assert_eq!(lengths(&[], Some(100)), [0]);
    }
}
