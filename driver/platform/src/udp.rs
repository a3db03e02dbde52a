//! UDP sockets in batches.

mod multicast;
mod stamped;

use crate::control::{self, Control};
use crate::segmentation;
use crate::send_queue::{BATCH, SendHeaders, SendQueue};
use harrier_ringbuf::transport::{
    Arrival, BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec, TransportOptions,
};
use harrier_ringbuf::{Datagrams, Transport, TransportError};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Error, ErrorKind};
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;

use multicast::{interfaces, set_multicast};
pub(crate) use stamped::{epoch_ns, stamp_of};

/// Length of the longest datagram, bytes.
pub(crate) const MAX_DATAGRAM_LENGTH: usize = 65_536;

/// Number of datagrams found at once from which a stream counts as fast.
const FAST_STREAM: usize = 4;
/// Number of receives in a row while the system coalesces datagrams.
const COALESCED_RECEIVES: usize = 4;

/// Opens sockets of the host; where the kernel can, it cuts and coalesces runs of datagrams (UDP GSO and GRO).
#[derive(Debug, Default, Clone, Copy)]
pub struct UdpTransport;

/// A non-blocking UDP socket.
///
/// When the network reports that a peer does not listen (ECONNREFUSED and similar errors), the socket does not fail:
/// the datagram counts as lost.
pub struct UdpSocket {
    socket: Socket,
    local: SocketAddr,
    options: TransportOptions,
    queue: SendQueue,
    headers: Box<SendHeaders>,
    received: Box<[u8]>,
    /// The system cuts runs of datagrams of one length.
    cuts_runs: bool,
    /// The system may coalesce datagrams of one length.
    may_coalesce: bool,
    /// The system coalesces them.
    coalesces: bool,
    /// The last receive found several datagrams, or one right after another.
    is_busy: bool,
    /// The last receive found a datagram.
    was_received: bool,
}

/// Result of one call that received into the buffer. Of the header's pointers only the one to the caller's control
/// area is still valid.
struct Message {
    length: usize,
    address: libc::sockaddr_storage,
    header: libc::msghdr,
}

/// Result of one receive.
#[derive(Default)]
struct Received {
    datagrams: usize,
    bytes: usize,
    /// The system has coalesced several datagrams.
    is_coalesced: bool,
}

fn storage_len() -> libc::socklen_t {
    size_of::<libc::sockaddr_storage>() as libc::socklen_t
}

impl UdpSocket {
    /// Opens a socket; with segmentation the kernel cuts and coalesces runs where it can.
    pub(crate) fn open(spec: &SocketSpec, options: &TransportOptions) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Open { address: spec.bind, source };
        let socket = open_socket(spec)?;
        let local = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(spec.bind);
        // Coalesced datagrams would have one time stamp.
        Ok(Self::new(socket, local, options, options.segmentation && !spec.stamps))
    }

    fn new(socket: Socket, local: SocketAddr, options: &TransportOptions, may_coalesce: bool) -> Self {
        let received = vec![0; BATCH * MAX_DATAGRAM_LENGTH].into_boxed_slice();
        let cuts_runs = options.segmentation && segmentation::cuts_runs(&socket);
        Self {
            socket,
            local,
            options: TransportOptions {
                receive_batch: options.receive_batch.clamp(1, BATCH),
                send_batch: options.send_batch.clamp(1, BATCH),
                ..*options
            },
            queue: SendQueue::new(),
            headers: SendHeaders::new(),
            received,
            cuts_runs,
            may_coalesce,
            coalesces: false,
            is_busy: false,
            was_received: false,
        }
    }

    fn failure(&self, operation: &'static str, source: Error) -> TransportError {
        TransportError::Io { operation, local: self.local, source }
    }
}

pub(crate) fn is_no_room(error: &Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

pub(crate) fn is_lost(error: &Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN)
    )
}

impl Datagrams for UdpSocket {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError> {
        self.socket.connect(&to.into()).map_err(|source| self.failure("connect", source))
    }

    fn batch_length(&self) -> usize {
        if self.cuts_runs { segmentation::MAX_SEGMENTS } else { BATCH }
    }

    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull> {
        self.queue.submit(token, bytes, to)
    }

    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize {
        let queued = self.queue.len();
        let mut done = 0;
        while done < queued {
            let sent = if queued - done == 1 {
                self.queue.send_one(done, self.socket.as_raw_fd()).map(|length| (1, Some(length)))
            } else {
                self.send_batch(done).map(|count| (count, None))
            };
            match sent {
                Ok((count, length)) => {
                    for index in done..done + count {
                        visit(
                            self.queue.token(index),
                            Ok(length.unwrap_or_else(|| self.queue.length(index))),
                        );
                    }
                    done += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_no_room(&error) => {
                    // The system has no room: all remaining submissions are short sends.
                    for index in done..queued {
                        visit(self.queue.token(index), Ok(0));
                    }
                    done = queued;
                }
                Err(error)
                    if segmentation::is_refused(&error)
                        && self.queue.run_end(done, self.cuts_runs) > done + 1 =>
                {
                    // This path does not take runs: from now on the datagrams are sent one by one.
                    self.cuts_runs = false;
                }
                Err(error) => {
                    let outcome = self.outcome(error, self.queue.length(done));
                    visit(self.queue.token(done), outcome);
                    done += 1;
                }
            }
        }
        self.queue.clear();
        queued
    }

    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
        // Most receives find nothing or one datagram, and the call for one datagram costs the least. A stream is
        // worth the call for many datagrams. A fast stream is worth coalescing, which makes every later receive more
        // expensive. Coalesced datagrams are received into one buffer, piece by piece, which stays in the cache.
        let mut got = match (self.is_busy, self.coalesces) {
            (true, _) => self.receive_batch(visit)?,
            (false, true) => self.receive_coalesced(visit)?,
            (false, false) => self.receive_one(visit)?,
        };
        self.is_busy = !got.is_coalesced && (got.datagrams > 1 || (got.datagrams == 1 && self.was_received));
        if self.may_coalesce && !self.coalesces && got.datagrams >= FAST_STREAM {
            self.coalesces = segmentation::coalesce(&self.socket);
            self.may_coalesce = self.coalesces;
        }
        self.was_received = got.datagrams > 0;
        let mut bytes = got.bytes;
        for _ in 1..COALESCED_RECEIVES {
            if !got.is_coalesced {
                break;
            }
            got = self.receive_coalesced(visit)?;
            bytes += got.bytes;
        }
        Ok(bytes)
    }

    fn receive_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        let mut bytes = 0;
        for _ in 0..self.options.receive_batch {
            let received = self.receive_one_stamped(visit)?;
            if received == 0 {
                break;
            }
            bytes += received;
        }
        Ok(bytes)
    }

    fn epoch_ns(&self) -> Option<i64> {
        Some(epoch_ns())
    }
}

impl UdpSocket {
    /// Receives one datagram with the cheapest call.
    fn receive_one(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<Received, TransportError> {
        // SAFETY: an all-zero address is a valid value to be filled in below.
        let mut address: libc::sockaddr_storage = unsafe { zeroed() };
        let mut address_length = storage_len();
        // SAFETY: the buffer has `MAX_DATAGRAM_LENGTH` bytes, and address and length are valid for writing.
        let received = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                self.received.as_mut_ptr().cast(),
                MAX_DATAGRAM_LENGTH,
                libc::MSG_DONTWAIT,
                (&raw mut address).cast(),
                &raw mut address_length,
            )
        };
        if received < 0 {
            return self.nothing_received(Error::last_os_error());
        }
        Ok(deliver(&self.received[..received as usize], None, &address, visit))
    }

    /// Receives datagrams that the system has coalesced.
    fn receive_coalesced(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr),
    ) -> Result<Received, TransportError> {
        let mut control = Control::EMPTY;
        let Some(message) = self.receive_message(&mut control)? else { return Ok(Received::default()) };
        // SAFETY: the receive was successful, and its control area is above.
        let segment = unsafe { segmentation::segment_length(&message.header) };
        Ok(deliver(&self.received[..message.length], segment, &message.address, visit))
    }

    /// Receives once, with control messages; `None` when nothing has arrived.
    fn receive_message(&mut self, control: &mut Control) -> Result<Option<Message>, TransportError> {
        // SAFETY: an all-zero address is a valid value to be filled in below.
        let mut address: libc::sockaddr_storage = unsafe { zeroed() };
        let mut vector =
            libc::iovec { iov_base: self.received.as_mut_ptr().cast(), iov_len: MAX_DATAGRAM_LENGTH };
        let mut header = control::empty_header();
        header.msg_name = (&raw mut address).cast();
        header.msg_namelen = storage_len();
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        control.receive_into(&mut header);
        // SAFETY: the header points to an address, one vector over the buffer and the control area, all valid for writing.
        let received = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
        if received < 0 {
            return self.nothing_received(Error::last_os_error()).map(|_| None);
        }
        Ok(Some(Message { length: received as usize, address, header }))
    }

    /// Distinguishes an empty socket from a broken one.
    fn nothing_received(&self, error: Error) -> Result<Received, TransportError> {
        let is_nothing =
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) || is_lost(&error);
        if is_nothing { Ok(Received::default()) } else { Err(self.failure("receive", error)) }
    }

    /// Receives all datagrams that have arrived with one call.
    fn receive_batch(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr),
    ) -> Result<Received, TransportError> {
        // SAFETY: all-zero message headers and addresses are valid values to be filled in below.
        let mut addresses: [libc::sockaddr_storage; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let mut controls = [Control::EMPTY; BATCH];
        for (index, chunk) in self.received.chunks_exact_mut(MAX_DATAGRAM_LENGTH).enumerate() {
            vectors[index] = libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut addresses[index]).cast();
            header.msg_namelen = storage_len();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
            if self.coalesces {
                controls[index].receive_into(header);
            }
        }
        // SAFETY: every header points to an address, one vector over a buffer and a control area of its own, all alive
        // until the end of this function.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                self.options.receive_batch as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return self.nothing_received(Error::last_os_error());
        }
        let mut all = Received::default();
        for index in 0..count as usize {
            let length = (messages[index].msg_len as usize).min(MAX_DATAGRAM_LENGTH);
            // SAFETY: the receive was successful for the first `count` headers, and their control areas are on the stack.
            let segment = unsafe { segmentation::segment_length(&messages[index].msg_hdr) };
            let start = index * MAX_DATAGRAM_LENGTH;
            let one = deliver(&self.received[start..start + length], segment, &addresses[index], visit);
            all.datagrams += one.datagrams;
            all.bytes += one.bytes;
            all.is_coalesced |= one.is_coalesced;
        }
        Ok(all)
    }

    /// Sends several submissions with one call; returns the number that the system took.
    fn send_batch(&mut self, from: usize) -> Result<usize, Error> {
        let count = self.queue.fill(from, self.options.send_batch, self.cuts_runs, &mut self.headers);
        let socket = self.socket.as_raw_fd();
        let messages = &mut self.headers.messages;
        // SAFETY: every header points to vectors over ranges that their submissions keep alive, and to a control area of
        // its own; the kernel only reads the ranges and addresses.
        let sent = unsafe {
            if count == 1 {
                let bytes = libc::sendmsg(socket, &raw const messages[0].msg_hdr, libc::MSG_DONTWAIT);
                if bytes < 0 { -1 } else { 1 }
            } else {
                libc::sendmmsg(socket, messages.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
            }
        };
        if sent > 0 { Ok(self.headers.ends[sent as usize - 1] - from) } else { Err(Error::last_os_error()) }
    }

    /// Outcome of a datagram that the system refused although it had room.
    fn outcome(&self, error: Error, length: usize) -> Result<usize, TransportError> {
        if is_lost(&error) { Ok(length) } else { Err(self.failure("send", error)) }
    }
}

/// Passes the datagrams of one receive to `visit`.
fn deliver(
    bytes: &[u8],
    segment: Option<usize>,
    address: &libc::sockaddr_storage,
    visit: &mut dyn FnMut(&[u8], SocketAddr),
) -> Received {
    let Some(source) = socket_address(address) else {
        return Received { datagrams: 1, ..Received::default() };
    };
    let mut datagrams = 0;
    for datagram in segmentation::datagrams(bytes, segment) {
        datagrams += 1;
        visit(datagram, source);
    }
    Received {
        datagrams,
        bytes: bytes.len(),
        is_coalesced: segment.is_some_and(|length| length < bytes.len()),
    }
}

pub(crate) fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds an IPv4 address.
            let address: &libc::sockaddr_in = unsafe { &*(&raw const *storage).cast() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds an IPv6 address.
            let address: &libc::sockaddr_in6 = unsafe { &*(&raw const *storage).cast() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(SocketAddr::new(ip.into(), u16::from_be(address.sin6_port)))
        }
        _ => None,
    }
}

impl Transport for UdpTransport {
    type Socket = UdpSocket;

    fn open(&self, spec: &SocketSpec) -> Result<UdpSocket, TransportError> {
        UdpSocket::open(spec, &TransportOptions::default())
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        let unknown = || TransportError::UnknownHost { name: host.to_owned() };
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let all: Vec<SocketAddr> = (name, port).to_socket_addrs().map_err(|_| unknown())?.collect();
        all.iter().find(|address| address.is_ipv4()).or(all.first()).copied().ok_or_else(unknown)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        interfaces()
    }

    fn buffer_limits(&self) -> BufferLimits {
        let Ok(socket) = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)) else {
            return BufferLimits::default();
        };
        // The kernel reports twice the requested length; the driver's files contain the requested length.
        let default_sndbuf = socket.send_buffer_size().unwrap_or(0) / 2;
        let default_rcvbuf = socket.recv_buffer_size().unwrap_or(0) / 2;
        let _capped = socket.set_send_buffer_size(i32::MAX as usize / 2);
        let _capped = socket.set_recv_buffer_size(i32::MAX as usize / 2);
        BufferLimits {
            default_sndbuf,
            max_sndbuf: socket.send_buffer_size().unwrap_or(0) / 2,
            default_rcvbuf,
            max_rcvbuf: socket.recv_buffer_size().unwrap_or(0) / 2,
        }
    }
}

/// Opens a socket and connects it when the spec names a peer.
pub(crate) fn open_socket(spec: &SocketSpec) -> Result<Socket, TransportError> {
    let socket = bind(spec).map_err(|source| TransportError::Open { address: spec.bind, source })?;
    if let Some(address) = spec.connect {
        socket.connect(&address.into()).map_err(|source| TransportError::Connect { address, source })?;
    }
    Ok(socket)
}

fn bind(spec: &SocketSpec) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::for_address(spec.bind), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if spec.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if spec.stamps {
        control::turn_on(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
    }
    if spec.sndbuf_length > 0 {
        socket.set_send_buffer_size(spec.sndbuf_length)?;
    }
    if spec.rcvbuf_length > 0 {
        socket.set_recv_buffer_size(spec.rcvbuf_length)?;
    }
    socket.bind(&spec.bind.into())?;
    if let Some(multicast) = &spec.multicast {
        set_multicast(&socket, multicast)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
