//! UDP sockets behind io_uring: submissions and completions pass through memory that the kernel shares with the
//! process.
//!
//! Each socket has a ring of its own. One multishot receive fills buffers that were provided before; while nothing
//! arrives, polling the socket reads memory and makes no call. A batch of sends is one submission, straight from the
//! term buffers. With kernel polling a kernel thread, which all sockets of the transport share, takes the
//! submissions, and no call is made while it is awake.

mod buffers;

use crate::segmentation;
use crate::send_queue::{BATCH, QUEUE_CAPACITY, SendHeaders, SendQueue};
use crate::udp::{self, UdpTransport};
use buffers::{BUFFER_COUNT, Buffers};
use harrier_ringbuf::transport::{
    Arrival, BufferLimits, InterfaceAddress, QueueFull, SendBuffer, SocketSpec,
};
use harrier_ringbuf::{Datagrams, Transport, TransportError};
use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use socket2::Socket;
use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Number of completions that can wait: those of all buffers and of a whole batch.
const COMPLETIONS: u32 = 128;
/// Marks the completions of the multishot receive; sends carry the index of their message.
const RECEIVE: u64 = u64::MAX;
/// Number of attempts to bind an address that is in use, with kernel polling, and the pause between them.
const BIND_ATTEMPTS: usize = 200;
const BIND_INTERVAL: Duration = Duration::from_millis(1);
/// Datagrams, or runs of them, that one receive delivers.
const RECEIVE_BATCH: usize = 16;
/// Time for which the kernel thread stays awake without work, ms.
const KERNEL_IDLE_MS: u32 = 50;
/// Longest wait for the end of a receive that is cancelled, ns; it takes microseconds.
const CANCEL_NS: u32 = 100_000_000;
/// Number of attempts to cancel it.
const CANCEL_ATTEMPTS: usize = 10;
/// Number of polls of the completions before the core is offered to others, with kernel polling.
const SPINS: u32 = 1_000;

/// Opens sockets of the host behind io_uring.
#[derive(Clone)]
pub struct UringTransport {
    segmentation: bool,
    /// The ring whose kernel thread all sockets share.
    poller: Option<Arc<IoUring>>,
}

impl UringTransport {
    /// Checks that the kernel has the needed features by sending a datagram to itself.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unavailable`] says what the kernel lacks or forbids and what to do about it.
    pub fn new(segmentation: bool, kernel_polling: bool) -> Result<Self, TransportError> {
        let poller = kernel_polling
            .then(|| IoUring::builder().setup_sqpoll(KERNEL_IDLE_MS).build(1))
            .transpose()
            .map_err(unavailable)?
            .map(Arc::new);
        let transport = Self { segmentation, poller };
        transport.check().map_err(|error| match error {
            TransportError::Io { source, .. } | TransportError::Open { source, .. } => unavailable(source),
            other => other,
        })?;
        Ok(transport)
    }

    fn check(&self) -> Result<(), TransportError> {
        let mut socket = self.open(&SocketSpec::unicast(SocketAddr::from(([127, 0, 0, 1], 0))))?;
        let local = socket.local;
        socket.arm()?;
        let _queued = socket.submit(0, SendBuffer::Copied(b"harrier"), Some(local));
        let mut outcome = Ok(());
        socket.complete(&mut |_, sent| outcome = sent.map(|_| ()));
        outcome?;
        // A datagram to oneself has arrived when the send ends, but a kernel thread may need some time for it.
        for _ in 0..SPINS {
            let mut is_whole = false;
            socket.receive(&mut |bytes, _| is_whole |= bytes == b"harrier")?;
            if is_whole {
                return Ok(());
            }
            std::thread::yield_now();
        }
        let source = Error::new(ErrorKind::Unsupported, "a datagram to itself does not arrive");
        Err(TransportError::Io { operation: "receive", local, source })
    }

    /// Binds a socket. The kernel thread closes sockets somewhat later than their owners do, so an address may become
    /// free.
    #[expect(clippy::disallowed_methods, reason = "sockets are opened by whoever may block")]
    fn bind(&self, spec: &SocketSpec) -> Result<Socket, TransportError> {
        let mut attempts = if self.poller.is_some() { BIND_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match udp::open_socket(spec) {
                Err(TransportError::Open { source, .. })
                    if source.kind() == ErrorKind::AddrInUse && attempts > 0 =>
                {
                    std::thread::sleep(BIND_INTERVAL);
                }
                outcome => return outcome,
            }
        }
    }

    fn ring(&self) -> Result<IoUring, Error> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_cqsize(COMPLETIONS).setup_submit_all();
        match &self.poller {
            Some(poller) => builder.setup_sqpoll(KERNEL_IDLE_MS).setup_attach_wq(poller.as_raw_fd()),
            // The kernel sets a flag in memory when a datagram arrives, and does not interrupt the thread for it.
            None => builder.setup_coop_taskrun().setup_taskrun_flag(),
        };
        builder.build(QUEUE_CAPACITY as u32)
    }
}

/// Receives a datagram, its source and the system's time stamp.
type Visit<'a> = dyn FnMut(&[u8], SocketAddr, Option<i64>) + 'a;

fn unavailable(reason: Error) -> TransportError {
    let remedy = match reason.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "allow it with `sysctl kernel.io_uring_disabled=0` and in the container's seccomp profile, or set harrier.driver.transport=sockets"
        }
        Some(libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP) => {
            "it needs Linux 6.0 or later with io_uring built in; set harrier.driver.transport=sockets"
        }
        Some(libc::ENOMEM) => "raise the limit of locked memory, or set harrier.driver.transport=sockets",
        Some(libc::EMFILE | libc::ENFILE) => {
            "raise the limit of open files, or set harrier.driver.transport=sockets"
        }
        _ => "set harrier.driver.transport=sockets",
    };
    TransportError::Unavailable { name: "io_uring", reason, remedy }
}

impl Transport for UringTransport {
    type Socket = UringSocket;

    fn open(&self, spec: &SocketSpec) -> Result<UringSocket, TransportError> {
        let failed = |source| TransportError::Open { address: spec.bind, source };
        let socket = self.bind(spec)?;
        let local = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(spec.bind);
        let cuts_runs = self.segmentation && segmentation::cuts_runs(&socket);
        if self.segmentation && !spec.stamps {
            // Coalesced datagrams would have one time stamp. Where the kernel cannot coalesce, datagrams arrive one
            // by one.
            segmentation::coalesce(&socket);
        }
        let ring = self.ring().map_err(failed)?;
        let buffers = Buffers::register(&ring).map_err(failed)?;
        Ok(UringSocket {
            ring,
            socket,
            local,
            buffers: Some(buffers),
            queue: SendQueue::new(),
            headers: SendHeaders::new(),
            results: [0; BATCH],
            received: VecDeque::with_capacity(COMPLETIONS as usize),
            cuts_runs,
            is_armed: false,
            is_broken: false,
            _poller: self.poller.clone(),
        })
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        UdpTransport.resolve(host, port)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        UdpTransport.interfaces()
    }

    fn buffer_limits(&self) -> BufferLimits {
        UdpTransport.buffer_limits()
    }
}

/// A UDP socket with a ring of its own.
///
/// As with plain sockets, a datagram counts as lost when the network reports that its peer does not listen.
pub struct UringSocket {
    ring: IoUring,
    socket: Socket,
    local: SocketAddr,
    /// Leaked when the kernel may still write to them.
    buffers: Option<Box<Buffers>>,
    queue: SendQueue,
    headers: Box<SendHeaders>,
    /// Results of the batch that is being sent: bytes, or a negative error number.
    results: [i32; BATCH],
    /// Completions of the receive that arrived while those of sends were awaited.
    received: VecDeque<cqueue::Entry>,
    cuts_runs: bool,
    /// The kernel owns the receive.
    is_armed: bool,
    /// The kernel has refused a call on the ring; the ring is not used again.
    is_broken: bool,
    _poller: Option<Arc<IoUring>>,
}

impl UringSocket {
    fn failure(&self, operation: &'static str, source: Error) -> TransportError {
        TransportError::Io { operation, local: self.local, source }
    }

    /// Passes submissions on and lets the kernel finish its work for this ring.
    fn enter(&mut self) -> Result<(), Error> {
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Completions must be consumed first; they wait in memory.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts the receive.
    fn arm(&mut self) -> Result<(), TransportError> {
        let Some(buffers) = &self.buffers else { return Ok(()) };
        let entry =
            opcode::RecvMsgMulti::new(Fd(self.socket.as_raw_fd()), buffers.template(), buffers::GROUP)
                .build()
                .user_data(RECEIVE);
        // SAFETY: the template and the buffers live until the receive has been taken back.
        let is_queued = unsafe { self.ring.submission().push(&entry).is_ok() };
        self.is_armed = is_queued;
        self.enter().map_err(|source| self.failure("receive", source))
    }

    /// Cancels the receive; false when the kernel may still own it.
    fn cancel(&mut self) -> bool {
        for _ in 0..CANCEL_ATTEMPTS {
            let Self { ring, received, is_armed, .. } = self;
            // The last completion says that the kernel no longer uses the buffers.
            for completion in received.drain(..).chain(ring.completion()) {
                if completion.user_data() == RECEIVE && !cqueue::more(completion.flags()) {
                    *is_armed = false;
                }
            }
            if !self.is_armed {
                return true;
            }
            let patience = Timespec::new().nsec(CANCEL_NS);
            // The receive may have ended by itself, or the kernel thread may not have taken it yet.
            let _outcome =
                self.ring.submitter().register_sync_cancel(Some(patience), CancelBuilder::user_data(RECEIVE));
            if self.enter().is_err() {
                return false;
            }
        }
        false
    }

    /// Submits a batch and waits until the kernel has taken it.
    fn send(&mut self, from: usize) -> Result<usize, Error> {
        let flags = libc::MSG_DONTWAIT;
        let socket = Fd(self.socket.as_raw_fd());
        let is_single = self.queue.len() - from == 1;
        let count = match self.queue.connected_range(from).filter(|_| is_single) {
            Some((address, length)) => {
                let entry = opcode::Send::new(socket, address, length as u32).flags(flags).build();
                self.headers.ends[0] = from + 1;
                // SAFETY: the submission keeps the range until it has completed.
                unsafe { self.ring.submission().push(&entry.user_data(0)) }.map_err(Error::other)?;
                1
            }
            None => {
                let count = self.queue.fill(from, BATCH, self.cuts_runs, &mut self.headers);
                let mut submission = self.ring.submission();
                for index in 0..count {
                    let header = &raw const self.headers.messages[index].msg_hdr;
                    let entry = opcode::SendMsg::new(socket, header).flags(flags as u32).build();
                    // SAFETY: headers and ranges stay until all of the batch have completed.
                    unsafe { submission.push(&entry.user_data(index as u64)) }.map_err(Error::other)?;
                }
                count
            }
        };
        let mut pending = count;
        let mut spins = 0;
        loop {
            self.enter()?;
            for completion in self.ring.completion() {
                match completion.user_data() {
                    RECEIVE => self.received.push_back(completion),
                    index => {
                        self.results[index as usize % BATCH] = completion.result();
                        pending -= 1;
                    }
                }
            }
            if pending == 0 {
                return Ok(count);
            }
            spins += 1;
            if spins > SPINS {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Reports the datagrams of one message. A run that was refused is sent again, datagram by datagram.
    fn report(
        &mut self,
        range: std::ops::Range<usize>,
        result: i32,
        visit: &mut dyn FnMut(u64, Result<usize, TransportError>),
    ) {
        if result >= 0 {
            return range.for_each(|index| visit(self.queue.token(index), Ok(self.queue.length(index))));
        }
        let error = Error::from_raw_os_error(-result);
        let is_refused_run = range.len() > 1 && segmentation::is_refused(&error);
        if is_refused_run {
            self.cuts_runs = false;
        }
        for index in range {
            let sent = if is_refused_run {
                self.queue.send_one(index, self.socket.as_raw_fd())
            } else {
                Err(Error::from_raw_os_error(-result))
            };
            let outcome = match sent {
                Err(error) if udp::is_no_room(&error) => Ok(0),
                Err(error) if udp::is_lost(&error) => Ok(self.queue.length(index)),
                Err(error) => Err(self.failure("send", error)),
                Ok(length) => Ok(length),
            };
            visit(self.queue.token(index), outcome);
        }
    }

    /// Returns the next completion of the receive; calls the kernel when it has work to finish.
    fn next_received(&mut self, may_enter: bool) -> Result<Option<cqueue::Entry>, TransportError> {
        if let Some(completion) = self.received.pop_front() {
            return Ok(Some(completion));
        }
        if let Some(completion) = self.ring.completion().next() {
            return Ok(Some(completion));
        }
        let submission = self.ring.submission();
        let must_enter = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if !may_enter || !must_enter {
            return Ok(None);
        }
        self.enter().map_err(|source| self.failure("receive", source))?;
        Ok(self.ring.completion().next())
    }

    /// Delivers arrived datagrams with the system's time stamps.
    fn poll(&mut self, visit: &mut Visit<'_>) -> Result<usize, TransportError> {
        if self.is_broken {
            return Ok(0);
        }
        if !self.is_armed && self.received.is_empty() {
            self.arm()?;
        }
        let mut bytes = 0;
        for turn in 0..RECEIVE_BATCH {
            let Some(completion) = self.next_received(turn == 0)? else { break };
            bytes += self.deliver(&completion, visit)?;
        }
        Ok(bytes)
    }

    /// Delivers the datagrams of one completion of the receive; returns their length.
    fn deliver(
        &mut self,
        completion: &cqueue::Entry,
        visit: &mut Visit<'_>,
    ) -> Result<usize, TransportError> {
        if !cqueue::more(completion.flags()) {
            self.is_armed = false;
        }
        let mut bytes = 0;
        if let (Some(id), Some(buffers)) = (cqueue::buffer_select(completion.flags()), &mut self.buffers) {
            if completion.result() >= 0
                && let Some(message) = buffers.message(id)
            {
                bytes = message.payload.len();
                for datagram in segmentation::datagrams(message.payload, message.segment) {
                    visit(datagram, message.source, message.media_epoch_ns);
                }
            }
            buffers.provide(id);
        }
        if completion.result() >= 0 {
            return Ok(bytes);
        }
        let error = Error::from_raw_os_error(-completion.result());
        let is_nothing = udp::is_no_room(&error)
            || udp::is_lost(&error)
            || matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECANCELED));
        if is_nothing { Ok(0) } else { Err(self.failure("receive", error)) }
    }
}

impl Datagrams for UringSocket {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn reconnect(&mut self, to: SocketAddr) -> Result<(), TransportError> {
        self.socket.connect(&to.into()).map_err(|source| self.failure("connect", source))
    }

    fn retire(&mut self) {
        self.cancel();
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
            let sent =
                if self.is_broken { Err(Error::other("the ring has failed")) } else { self.send(done) };
            match sent {
                Ok(count) => {
                    for message in 0..count {
                        let end = self.headers.ends[message];
                        self.report(done..end, self.results[message], visit);
                        done = end;
                    }
                }
                Err(error) => {
                    // It is unknown what the kernel still uses, so the queue keeps its logs.
                    self.is_broken = true;
                    visit(self.queue.token(done), Err(self.failure("send", error)));
                    return queued;
                }
            }
        }
        self.queue.clear();
        queued
    }

    fn receive(&mut self, visit: &mut dyn FnMut(&[u8], SocketAddr)) -> Result<usize, TransportError> {
        self.poll(&mut |datagram, source, _| visit(datagram, source))
    }

    fn receive_stamped(
        &mut self,
        visit: &mut dyn FnMut(&[u8], SocketAddr, &Arrival),
    ) -> Result<usize, TransportError> {
        self.poll(&mut |datagram, source, media_epoch_ns| {
            let arrival = Arrival { media_epoch_ns, channel_epoch_ns: Some(udp::epoch_ns()) };
            visit(datagram, source, &arrival);
        })
    }

    fn epoch_ns(&self) -> Option<i64> {
        Some(udp::epoch_ns())
    }
}

impl Drop for UringSocket {
    fn drop(&mut self) {
        if !self.cancel() {
            // The kernel may still write to the buffers, so they are leaked rather than reused.
            std::mem::forget(self.buffers.take());
        }
    }
}

const _: () = assert!(COMPLETIONS as usize >= BUFFER_COUNT + BATCH + 2);

#[cfg(test)]
mod tests;
