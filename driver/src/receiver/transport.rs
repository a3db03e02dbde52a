//! Sockets of a receive endpoint, and the connections of an image through them (spec 02 §3.1, §3.12, §3.13).

use std::net::SocketAddr;

use harrier_ringbuf::Datagrams;
use harrier_ringbuf::transport::SendBuffer;

use super::PENDING_SETUP_TIMEOUT_NS;
use crate::error_notes::RepeatedError;
use crate::sender::DESTINATION_TIMEOUT_NS;
use crate::system_counters::{SystemCounter, SystemCounters};

/// Time for which a socket that has received something is polled in every duty cycle, ns.
const ATTENTION_NS: i64 = 1_000_000;

/// Multicast parameters of a receive channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MulticastGroup {
    /// Address of the control group: that of the data group with its last byte plus 1. All control frames go there.
    pub(crate) control: SocketAddr,
    /// Time to live of control frames.
    pub(crate) ttl: i32,
}

/// One socket of an endpoint: its own, or that of a destination of a multi-destination subscription.
pub(crate) struct ReceiveTransport<S> {
    /// Correlation id of the command that added the destination; -1 for the endpoint's own socket.
    pub(crate) registration_id: i64,
    pub(crate) socket: S,
    /// Address to ask for SETUPs before a packet has arrived from there.
    pub(super) control: Option<SocketAddr>,
    pub(super) group: Option<MulticastGroup>,
    last_request_ns: i64,
    last_heard_ns: i64,
    /// Failed sends and receives. They are reported when the socket is polled.
    pub(super) error: RepeatedError,
    attention_until_ns: i64,
    next_poll_ns: i64,
}

impl<S: Datagrams> ReceiveTransport<S> {
    /// Wraps an open socket. `control` is the channel's explicit control address; `group` is `None` for unicast.
    pub(crate) fn new(
        registration_id: i64,
        socket: S,
        control: Option<SocketAddr>,
        group: Option<MulticastGroup>,
    ) -> Self {
        Self {
            registration_id,
            socket,
            control,
            group,
            last_request_ns: 0,
            last_heard_ns: 0,
            error: RepeatedError::default(),
            attention_until_ns: i64::MIN,
            next_poll_ns: i64::MIN,
        }
    }

    /// Starts the socket's timers when the receiver takes it.
    pub(super) fn start(&mut self, now_ns: i64) {
        self.last_heard_ns = now_ns;
    }

    /// Returns the address for frames before a packet has arrived; `None` when it is the source of the first packet.
    pub(super) fn preset_address(&self) -> Option<SocketAddr> {
        self.group.map(|group| group.control).or(self.control)
    }

    pub(super) fn note_heard(&mut self, now_ns: i64) {
        self.last_heard_ns = now_ns;
    }

    /// Returns the address to ask for SETUPs when a request is due.
    pub(super) fn take_due_request(&mut self, now_ns: i64) -> Option<SocketAddr> {
        let control = self.control?;
        (now_ns > self.last_request_ns + PENDING_SETUP_TIMEOUT_NS).then(|| {
            self.last_request_ns = now_ns;
            control
        })
    }

    /// Returns the address to ask for SETUPs at once.
    pub(super) fn take_request(&mut self, now_ns: i64) -> Option<SocketAddr> {
        self.last_request_ns = now_ns;
        self.control
    }

    /// Time of the next request for SETUPs, ns.
    pub(super) fn next_request_ns(&self) -> Option<i64> {
        self.control.map(|_| self.last_request_ns + PENDING_SETUP_TIMEOUT_NS + 1)
    }

    /// True when the control name should be resolved again (spec 02 §3.16).
    pub(super) fn is_resolution_due(&mut self, now_ns: i64) -> bool {
        if self.control.is_none() || now_ns <= self.last_heard_ns + DESTINATION_TIMEOUT_NS {
            return false;
        }
        self.last_heard_ns = now_ns;
        true
    }

    /// Time at which the socket is polled next, ns; it lies in the past when the socket is due.
    #[inline]
    pub(super) fn next_poll_ns(&self) -> i64 {
        self.next_poll_ns
    }

    /// Notes that a poll of the socket gave `bytes`. A quiet socket rests for `rest_ns`.
    #[inline]
    pub(super) fn note_poll(&mut self, bytes: usize, rest_ns: i64, now_ns: i64) {
        if bytes > 0 {
            self.attention_until_ns = now_ns + ATTENTION_NS;
        }
        if now_ns >= self.attention_until_ns {
            self.next_poll_ns = now_ns + rest_ns;
        }
    }

    /// Sends one control frame; returns true when all of it was sent.
    pub(super) fn send(&mut self, frame: &[u8], to: SocketAddr, system: &SystemCounters) -> bool {
        if self.socket.submit(0, SendBuffer::Copied(frame), Some(to)).is_err() {
            return false;
        }
        let mut sent_bytes = 0;
        let error = &mut self.error;
        self.socket.complete(&mut |_, outcome| match outcome {
            Ok(sent) => sent_bytes += sent,
            Err(failure) => error.note_transport(&failure),
        });
        system.get(SystemCounter::BytesSent).add(sent_bytes as i64);
        if sent_bytes < frame.len() {
            system.get(SystemCounter::ShortSends).increment();
        }
        sent_bytes == frame.len()
    }
}

/// The sender of an image, as one transport sees it.
#[derive(Debug, Clone, Copy)]
struct Connection {
    address: SocketAddr,
    last_packet_ns: i64,
    has_eos: bool,
}

/// The connections of an image, by transport.
#[derive(Debug, Default)]
pub(super) struct Connections {
    list: Vec<Option<Connection>>,
    eos_position: i64,
}

impl Connections {
    /// Notes a packet that came through a transport. The first packet determines the address for answers.
    #[inline]
    pub(super) fn touch(&mut self, transport: usize, address: SocketAddr, now_ns: i64) {
        match self.list.get_mut(transport) {
            Some(Some(connection)) => connection.last_packet_ns = now_ns,
            _ => self.add(transport, address, now_ns),
        }
    }

    #[cold]
    fn add(&mut self, transport: usize, address: SocketAddr, now_ns: i64) {
        if self.list.len() <= transport {
            self.list.resize(transport + 1, None);
        }
        self.list[transport] = Some(Connection { address, last_packet_ns: now_ns, has_eos: false });
    }

    /// Removes the connection of a destination.
    pub(super) fn remove(&mut self, transport: usize) {
        if let Some(connection) = self.list.get_mut(transport) {
            *connection = None;
        }
    }

    /// Notes that the end of the stream came through a transport.
    pub(super) fn set_eos(&mut self, transport: usize, position: i64) {
        self.eos_position = self.eos_position.max(position);
        if let Some(Some(connection)) = self.list.get_mut(transport) {
            connection.has_eos = true;
        }
    }

    /// Returns the end of the stream, once each of `transports` transports has received it.
    pub(super) fn end_position(&self, transports: usize) -> Option<i64> {
        let mut connections = self.list.iter().flatten();
        let have_ended = connections.clone().count() >= transports && connections.all(|one| one.has_eos);
        have_ended.then_some(self.eos_position)
    }

    /// Addresses of control frames: all senders that were heard in the last 5 s, or with `is_all` all senders.
    pub(super) fn targets(
        &self,
        is_all: bool,
        now_ns: i64,
    ) -> impl Iterator<Item = (usize, SocketAddr)> + '_ {
        self.list.iter().enumerate().filter_map(move |(transport, connection)| {
            let connection = connection.as_ref()?;
            let is_heard = is_all || now_ns <= connection.last_packet_ns + DESTINATION_TIMEOUT_NS;
            is_heard.then_some((transport, connection.address))
        })
    }

    /// Number of connections that were heard within a time.
    pub(super) fn count_alive(&self, timeout_ns: i64, now_ns: i64) -> usize {
        self.list.iter().flatten().filter(|one| now_ns - one.last_packet_ns <= timeout_ns).count()
    }
}
