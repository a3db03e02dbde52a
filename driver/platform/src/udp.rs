//! UDP sockets in batches.

mod multicast;
mod stamped;

use harrier_ringbuf::transport::{
    Arrival, BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec,
};
use harrier_ringbuf::{AtomicBuffer, Datagrams, Region, Transport, TransportError};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Error, ErrorKind};
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;

use multicast::{interfaces, set_multicast};
use stamped::epoch_ns;

/// Datagrams taken or sent with one system call.
const BATCH: usize = 16;
/// Submissions that can wait.
const QUEUE_CAPACITY: usize = 64;
/// Longest control frame; longer ones are sent from a log.
const INLINE_LENGTH: usize = 2_048;
/// Longest datagram.
const MAX_DATAGRAM_LENGTH: usize = 65_536;

/// Opens sockets of the host.
#[derive(Debug, Default, Clone, Copy)]
pub struct UdpTransport;

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

/// A non-blocking UDP socket.
///
/// Reports of the network that a peer does not listen (ECONNREFUSED and its kin) are not failures of this socket: the
/// datagram counts as lost.
pub struct UdpSocket {
    socket: Socket,
    local: SocketAddr,
    /// The first `queued` entries wait to be sent; all keep their buffers for reuse.
    queue: Vec<Submission>,
    queued: usize,
    received: Box<[u8]>,
    /// The last receive found several datagrams, or one right after another.
    is_busy: bool,
    /// The last receive found something.
    was_received: bool,
}

fn storage_len() -> libc::socklen_t {
    size_of::<libc::sockaddr_storage>() as libc::socklen_t
}

impl UdpSocket {
    fn new(socket: Socket, local: SocketAddr) -> Self {
        let queue = (0..QUEUE_CAPACITY)
            .map(|_| Submission {
                token: 0,
                to: None,
                payload: Payload::Inline { length: 0 },
                bytes: Box::new([0; INLINE_LENGTH]),
            })
            .collect();
        let received = vec![0; BATCH * MAX_DATAGRAM_LENGTH].into_boxed_slice();
        Self { socket, local, queue, queued: 0, received, is_busy: false, was_received: false }
    }

    fn failure(&self, operation: &'static str, source: Error) -> TransportError {
        TransportError::Io { operation, local: self.local, source }
    }

    /// Sends one submission with the cheapest call.
    fn send_one(&self, submission: &Submission) -> Result<usize, Error> {
        let (address, length) = range(submission);
        let (to, to_length) = match &submission.to {
            Some(to) => (to.as_ptr().cast::<libc::sockaddr>(), to.len()),
            None => (std::ptr::null(), 0),
        };
        // SAFETY: the range is kept alive by the submission, the kernel only reads it; the address is valid or absent.
        let sent = unsafe {
            libc::sendto(self.socket.as_raw_fd(), address.cast(), length, libc::MSG_DONTWAIT, to, to_length)
        };
        if sent >= 0 { Ok(sent as usize) } else { Err(Error::last_os_error()) }
    }
}

/// Address and length of what a submission sends.
fn range(submission: &Submission) -> (*const u8, usize) {
    match &submission.payload {
        Payload::Log { buffer, offset, length } => {
            (buffer.as_ptr().wrapping_add(*offset).cast_const(), *length)
        }
        Payload::Inline { length } => (submission.bytes.as_ptr(), *length),
    }
}

fn is_no_room(error: &Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn is_lost(error: &Error) -> bool {
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

    fn submit(&mut self, token: u64, bytes: SendBuffer<'_>, to: Option<SocketAddr>) -> Result<(), QueueFull> {
        let Some(entry) = self.queue.get_mut(self.queued) else { return Err(QueueFull) };
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

    fn complete(&mut self, visit: &mut dyn FnMut(u64, Result<usize, TransportError>)) -> usize {
        let queued = std::mem::take(&mut self.queued);
        let mut done = 0;
        while done < queued {
            let sent = if queued - done == 1 {
                self.send_one(&self.queue[done]).map(|length| (1, Some(length)))
            } else {
                self.send_batch(done, queued).map(|count| (count, None))
            };
            match sent {
                Ok((count, length)) => {
                    for submission in &self.queue[done..done + count] {
                        visit(submission.token, Ok(length.unwrap_or_else(|| range(submission).1)));
                    }
                    done += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_no_room(&error) => {
                    // The system has no room: everything left is a short send.
                    for submission in &self.queue[done..queued] {
                        visit(submission.token, Ok(0));
                    }
                    done = queued;
                }
                Err(error) => {
                    let token = self.queue[done].token;
                    let lost = is_lost(&error);
                    let length = range(&self.queue[done]).1;
                    visit(token, if lost { Ok(length) } else { Err(self.failure("send", error)) });
                    done += 1;
                }
            }
        }
        for submission in &mut self.queue[..queued] {
            // Lets go of the log, which may be unmapped from now on.
            submission.payload = Payload::Inline { length: 0 };
        }
        queued
    }

    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
        // Most receives find nothing or a single datagram, and the call for one costs the least; a stream of them is worth
        // the call for many.
        let (count, bytes) = if self.is_busy { self.receive_batch(visit)? } else { self.receive_one(visit)? };
        self.is_busy = count > 1 || (count == 1 && self.was_received);
        self.was_received = count > 0;
        Ok(bytes)
    }

    fn receive_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        let mut bytes = 0;
        for _ in 0..BATCH {
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
    /// Receives one datagram with the cheapest call; returns datagrams and bytes.
    fn receive_one(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr),
    ) -> Result<(usize, usize), TransportError> {
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
            return self.nothing_received(Error::last_os_error()).map(|()| (0, 0));
        }
        let length = received as usize;
        if let Some(source) = socket_address(&address) {
            visit(&self.received[..length], source);
        }
        Ok((1, length))
    }

    /// Tells an empty socket from a broken one.
    fn nothing_received(&self, error: Error) -> Result<(), TransportError> {
        let is_nothing =
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) || is_lost(&error);
        if is_nothing { Ok(()) } else { Err(self.failure("receive", error)) }
    }

    /// Receives what is there with one call; returns datagrams and bytes.
    fn receive_batch(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr),
    ) -> Result<(usize, usize), TransportError> {
        // SAFETY: all-zero message headers and addresses are valid values to be filled in below.
        let mut addresses: [libc::sockaddr_storage; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (index, chunk) in self.received.chunks_exact_mut(MAX_DATAGRAM_LENGTH).enumerate() {
            vectors[index] = libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut addresses[index]).cast();
            header.msg_namelen = storage_len();
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
        }
        // SAFETY: every header points to an address and one vector over a buffer of its own, all alive until the end of
        // this function.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return self.nothing_received(Error::last_os_error()).map(|()| (0, 0));
        }
        let mut bytes = 0;
        for index in 0..count as usize {
            let length = (messages[index].msg_len as usize).min(MAX_DATAGRAM_LENGTH);
            let Some(source) = socket_address(&addresses[index]) else { continue };
            let start = index * MAX_DATAGRAM_LENGTH;
            visit(&self.received[start..start + length], source);
            bytes += length;
        }
        Ok((count as usize, bytes))
    }

    /// Sends several submissions with one call; returns how many the system took.
    fn send_batch(&self, from: usize, to: usize) -> Result<usize, Error> {
        let count = (to - from).min(BATCH);
        // SAFETY: all-zero message headers are valid values to be filled in below.
        let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for (index, submission) in self.queue[from..from + count].iter().enumerate() {
            let (address, length) = range(submission);
            vectors[index] = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: length };
            let header = &mut messages[index].msg_hdr;
            if let Some(to) = &submission.to {
                header.msg_name = to.as_ptr().cast_mut().cast();
                header.msg_namelen = to.len();
            }
            header.msg_iov = &raw mut vectors[index];
            header.msg_iovlen = 1;
        }
        // SAFETY: every header points to one vector over a range that its submission keeps alive; the kernel only reads
        // the ranges and addresses.
        let sent = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        if sent >= 0 { Ok(sent as usize) } else { Err(Error::last_os_error()) }
    }
}

fn socket_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
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
        let failed = |source| TransportError::Open { address: spec.bind, source };
        let socket = open_socket(spec).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(spec.bind);
        Ok(UdpSocket::new(socket, local))
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
        // The kernel reports twice what was asked for; the driver's files hold what was asked for.
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

fn open_socket(spec: &SocketSpec) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::for_address(spec.bind), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if spec.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if spec.stamps {
        UdpSocket::enable_stamps(&socket)?;
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
    if let Some(peer) = spec.connect {
        socket.connect(&peer.into())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> UdpSocket {
        UdpTransport.open(&SocketSpec::unicast("127.0.0.1:0".parse().unwrap())).unwrap()
    }

    fn receive_all(socket: &mut UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        while seen.len() < count {
            socket.receive(&mut |bytes, _| seen.push(bytes.to_vec())).unwrap();
            std::thread::yield_now();
        }
        seen
    }

    #[test]
    fn datagrams_of_all_lengths_arrive() {
        let (mut from, mut to) = (socket(), socket());
        let log = AtomicBuffer::heap(65_536);
        log.copy_in(0, &(0..65_536).map(|byte| byte as u8).collect::<Vec<_>>());
        for length in [1, 32, 1_408, 60_000] {
            let buffer = SendBuffer::Log { buffer: &log, offset: 32, length };
            from.submit(7, buffer, Some(to.local_address())).unwrap();
            let mut completions = Vec::new();
            assert_eq!(from.complete(&mut |token, sent| completions.push((token, sent.unwrap()))), 1);
            assert_eq!(completions, [(7, length)]);
            let expected: Vec<u8> = (32..32 + length).map(|byte| byte as u8).collect();
            assert_eq!(receive_all(&mut to, 1), [expected]);
        }
    }

    #[test]
    fn batches_arrive_in_order() {
        let (mut from, mut to) = (socket(), socket());
        for number in 0..40_u8 {
            from.submit(u64::from(number), SendBuffer::Copied(&[number; 8]), Some(to.local_address()))
                .unwrap();
        }
        let mut tokens = Vec::new();
        assert_eq!(from.complete(&mut |token, _| tokens.push(token)), 40);
        assert_eq!(tokens, (0..40).collect::<Vec<_>>());
        assert_eq!(receive_all(&mut to, 40), (0..40_u8).map(|number| vec![number; 8]).collect::<Vec<_>>());
    }

    #[test]
    fn the_system_stamps_what_arrives_when_it_is_asked_to() {
        let spec = SocketSpec { stamps: true, ..SocketSpec::unicast("127.0.0.1:0".parse().unwrap()) };
        for (mut to, is_stamped) in [(UdpTransport.open(&spec).unwrap(), true), (socket(), false)] {
            let mut from = socket();
            let before_ns = epoch_ns();
            for number in 0..3_u8 {
                from.submit(0, SendBuffer::Copied(&[number; 8]), Some(to.local_address())).unwrap();
            }
            from.complete(&mut |_, _| ());
            let mut arrivals = Vec::new();
            while arrivals.len() < 3 {
                to.receive_stamped(&mut |bytes, source, arrival| {
                    assert_eq!((bytes[0] as usize, source), (arrivals.len(), from.local_address()));
                    arrivals.push(*arrival);
                })
                .unwrap();
            }
            let after_ns = epoch_ns();
            for arrival in arrivals {
                let channel_ns = arrival.channel_epoch_ns.unwrap();
                assert!(before_ns <= channel_ns && channel_ns <= after_ns);
                assert_eq!(arrival.media_epoch_ns.is_some(), is_stamped);
                assert!(arrival.media_epoch_ns.is_none_or(|ns| before_ns <= ns && ns <= channel_ns));
            }
        }
    }

    #[test]
    fn a_full_queue_says_so_and_nothing_received_is_no_error() {
        let (mut from, mut to) = (socket(), socket());
        for _ in 0..QUEUE_CAPACITY {
            from.submit(0, SendBuffer::Copied(b"x"), Some(to.local_address())).unwrap();
        }
        assert_eq!(from.submit(0, SendBuffer::Copied(b"x"), None), Err(QueueFull));
        assert_eq!(to.receive(&mut |_, _| ()).unwrap(), 0);
    }

    #[test]
    fn a_port_in_use_is_told_with_its_address() {
        let first = socket();
        let Err(error) = UdpTransport.open(&SocketSpec::unicast(first.local_address())) else {
            panic!("two sockets on one port");
        };
        assert!(error.to_string().contains(&first.local_address().to_string()), "{error}");
        assert!(UdpTransport.resolve("no-such-host.invalid", 1).is_err());
        assert!(UdpTransport.resolve("localhost", 1).unwrap().ip().is_loopback());
    }
}
