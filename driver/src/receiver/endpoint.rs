//! A socket that subscriptions receive from (spec 02 §3.1, §3.2).

use std::net::SocketAddr;

use harrier_protocol::udp::{RTTM_LENGTH, Rttm, STATUS_MESSAGE_TAGGED_LENGTH, StatusMessage, flag};
use harrier_ringbuf::Datagrams;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::transport::SendBuffer;

use super::PENDING_SETUP_TIMEOUT_NS;
use super::dispatcher::Dispatcher;
use crate::sender::DESTINATION_TIMEOUT_NS;
use crate::sender::endpoint::ERROR_INTERVAL_NS;
use crate::system_counters::{SystemCounter, SystemCounters};

/// Frames that may wait for the end of a poll.
const OUTBOX_CAPACITY: usize = 64;

/// The socket of a receive channel.
pub(crate) struct ReceiveEndpoint<S> {
    pub(crate) id: u64,
    pub(crate) socket: S,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) outbox: Outbox,
    /// Where a sender is asked for SETUPs although nothing was heard of it.
    pub(crate) control: Option<SocketAddr>,
    resolves: bool,
    last_request_ns: i64,
    last_heard_ns: i64,
    next_error_ns: i64,
    /// Counters of the channel, freed by the conductor.
    pub(crate) counters: Vec<AtomicCounter>,
}

/// What an endpoint says of itself in every frame, and frames that wait while the socket is being read.
pub(crate) struct Outbox {
    pub(crate) receiver_id: i64,
    pub(crate) group_tag: Option<i64>,
    pub(crate) has_heard: bool,
    frames: Vec<Waiting>,
}

enum Waiting {
    SetupRequest { session_id: i32, stream_id: i32, to: SocketAddr },
    RoundTrip { rttm: Rttm, to: SocketAddr },
}

impl Outbox {
    pub(crate) fn ask_for_setup(&mut self, session_id: i32, stream_id: i32, to: SocketAddr) {
        if self.frames.len() < OUTBOX_CAPACITY {
            self.frames.push(Waiting::SetupRequest { session_id, stream_id, to });
        }
    }

    pub(crate) fn reply_round_trip(&mut self, rttm: Rttm, to: SocketAddr) {
        if self.frames.len() < OUTBOX_CAPACITY {
            let rttm = Rttm { flags: 0, reception_delta_ns: 0, ..rttm };
            self.frames.push(Waiting::RoundTrip { rttm, to });
        }
    }
}

impl<S: Datagrams> ReceiveEndpoint<S> {
    pub(crate) fn new(
        id: u64,
        socket: S,
        receiver_id: i64,
        group_tag: Option<i64>,
        control: Option<SocketAddr>,
        counters: Vec<AtomicCounter>,
    ) -> Self {
        let frames = Vec::with_capacity(OUTBOX_CAPACITY);
        Self {
            id,
            socket,
            dispatcher: Dispatcher::default(),
            outbox: Outbox { receiver_id, group_tag, has_heard: false, frames },
            control,
            resolves: control.is_some(),
            last_request_ns: 0,
            last_heard_ns: 0,
            next_error_ns: i64::MIN,
            counters,
        }
    }

    /// The receiver has taken the endpoint.
    pub(crate) fn start(&mut self, now_ns: i64, system: &SystemCounters) {
        self.last_heard_ns = now_ns;
        self.request_periodic_setup(now_ns, system);
    }

    fn request_periodic_setup(&mut self, now_ns: i64, system: &SystemCounters) {
        if let Some(control) = self.control {
            self.last_request_ns = now_ns;
            self.send_setup_request(0, 0, control, system);
        }
    }

    pub(crate) fn set_control(&mut self, address: SocketAddr) {
        self.control = Some(address);
    }

    /// A subscription was added: one session is asked for at once where its sender is known.
    pub(crate) fn on_interest(
        &mut self,
        stream_id: i32,
        session_id: Option<i32>,
        now_ns: i64,
        system: &SystemCounters,
    ) {
        match (self.control, session_id) {
            (Some(control), Some(session_id)) => {
                self.send_setup_request(session_id, stream_id, control, system);
            }
            (Some(_), None) => self.request_periodic_setup(now_ns, system),
            (None, _) => {}
        }
    }

    pub(crate) fn note_activity(&mut self, now_ns: i64) {
        if std::mem::take(&mut self.outbox.has_heard) {
            self.last_heard_ns = now_ns;
        }
    }

    pub(crate) fn is_resolution_due(&mut self, now_ns: i64) -> bool {
        if !self.resolves || now_ns <= self.last_heard_ns + DESTINATION_TIMEOUT_NS {
            return false;
        }
        self.last_heard_ns = now_ns;
        true
    }

    /// True when a failed receive may be reported: at most once a second, for it fails again in every duty cycle.
    pub(crate) fn may_report(&mut self, now_ns: i64) -> bool {
        let may = now_ns >= self.next_error_ns;
        if may {
            self.next_error_ns = now_ns + ERROR_INTERVAL_NS;
        }
        may
    }

    /// Sends what had to wait while the socket was read.
    #[inline]
    pub(crate) fn flush_outbox(&mut self, system: &SystemCounters) {
        while let Some(waiting) = self.outbox.frames.pop() {
            match waiting {
                Waiting::SetupRequest { session_id, stream_id, to } => {
                    self.send_setup_request(session_id, stream_id, to, system);
                }
                Waiting::RoundTrip { rttm, to } => {
                    let mut buffer = [0; RTTM_LENGTH];
                    if let Ok(length) = rttm.encode(&mut buffer) {
                        self.send(&buffer[..length], to, system);
                    }
                }
            }
        }
    }

    /// Asks again where the sender is known, and forgets requests that nobody answered (spec 02 §3.0, 4).
    pub(crate) fn check_pending_setups(&mut self, now_ns: i64, system: &SystemCounters) {
        self.dispatcher.expire_setups(now_ns, PENDING_SETUP_TIMEOUT_NS);
        let is_due = now_ns > self.last_request_ns + PENDING_SETUP_TIMEOUT_NS;
        if self.control.is_some() && is_due && self.dispatcher.has_interest() {
            self.request_periodic_setup(now_ns, system);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<i64> {
        let expiry = self.dispatcher.next_expiry_ns();
        let periodic = self.control.filter(|_| self.dispatcher.has_interest()).map(|_| self.last_request_ns);
        let earliest = match (expiry, periodic) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        earliest.map(|since| since + PENDING_SETUP_TIMEOUT_NS + 1)
    }

    fn send_setup_request(
        &mut self,
        session_id: i32,
        stream_id: i32,
        to: SocketAddr,
        system: &SystemCounters,
    ) {
        let status = StatusMessage {
            flags: flag::SM_SEND_SETUP,
            session_id,
            stream_id,
            consumption_term_id: 0,
            consumption_term_offset: 0,
            receiver_window: 0,
            receiver_id: self.outbox.receiver_id,
            group_tag: self.outbox.group_tag,
        };
        let mut buffer = [0; STATUS_MESSAGE_TAGGED_LENGTH];
        if let Ok(length) = status.encode(&mut buffer) {
            self.send(&buffer[..length], to, system);
        }
    }

    /// Sends one control frame; true when it went out whole.
    pub(crate) fn send(&mut self, frame: &[u8], to: SocketAddr, system: &SystemCounters) -> bool {
        if self.socket.submit(0, SendBuffer::Copied(frame), Some(to)).is_err() {
            return false;
        }
        let mut sent_bytes = 0;
        self.socket.complete(&mut |_, outcome| sent_bytes += outcome.unwrap_or(0));
        system.get(SystemCounter::BytesSent).add(sent_bytes as i64);
        if sent_bytes < frame.len() {
            system.get(SystemCounter::ShortSends).increment();
        }
        sent_bytes == frame.len()
    }
}
