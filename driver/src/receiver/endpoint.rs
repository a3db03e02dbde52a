//! The sockets that the subscriptions of a channel receive from (spec 02 §3.1, §3.2, §3.12).

use std::net::SocketAddr;

use harrier_protocol::udp::{RTTM_LENGTH, Rttm, STATUS_MESSAGE_TAGGED_LENGTH, StatusMessage, flag};
use harrier_ringbuf::Datagrams;
use harrier_ringbuf::counters::AtomicCounter;

use super::PENDING_SETUP_TIMEOUT_NS;
use super::dispatcher::Dispatcher;
use super::transport::ReceiveTransport;
use crate::system_counters::SystemCounters;
use crate::timestamps::{ReceiveOffsets, ReceiveStamper};

/// Frames that may wait for the end of a poll.
const OUTBOX_CAPACITY: usize = 64;

/// A receive channel: one socket, or one for each destination.
pub(crate) struct ReceiveEndpoint<S> {
    pub(crate) id: u64,
    /// By index; a place whose destination has gone is used again.
    pub(super) transports: Vec<Option<Box<ReceiveTransport<S>>>>,
    pub(super) dispatcher: Dispatcher,
    pub(super) outbox: Outbox,
    /// Writes times into what arrives.
    pub(super) stamper: Option<ReceiveStamper>,
    /// Counters of the channel, freed by the conductor.
    pub(crate) counters: Vec<AtomicCounter>,
}

/// What an endpoint says of itself in every frame, and frames that wait while a socket is being read.
pub(super) struct Outbox {
    pub(super) receiver_id: i64,
    pub(super) group_tag: Option<i64>,
    pub(super) has_heard: bool,
    frames: Vec<Waiting>,
}

enum Waiting {
    SetupRequest { session_id: i32, stream_id: i32, to: SocketAddr },
    RoundTrip { rttm: Rttm, to: SocketAddr },
}

impl Outbox {
    pub(super) fn ask_for_setup(&mut self, session_id: i32, stream_id: i32, to: SocketAddr) {
        if self.frames.len() < OUTBOX_CAPACITY {
            self.frames.push(Waiting::SetupRequest { session_id, stream_id, to });
        }
    }

    pub(super) fn reply_round_trip(&mut self, rttm: Rttm, to: SocketAddr) {
        if self.frames.len() < OUTBOX_CAPACITY {
            let rttm = Rttm { flags: 0, reception_delta_ns: 0, ..rttm };
            self.frames.push(Waiting::RoundTrip { rttm, to });
        }
    }
}

impl<S: Datagrams> ReceiveEndpoint<S> {
    /// An endpoint on its own socket, or on none yet for `control-mode=manual`, whose destinations come by command.
    pub(crate) fn new(
        id: u64,
        transports: Vec<Option<Box<ReceiveTransport<S>>>>,
        receiver_id: i64,
        group_tag: Option<i64>,
        counters: Vec<AtomicCounter>,
    ) -> Self {
        let frames = Vec::with_capacity(OUTBOX_CAPACITY);
        Self {
            id,
            transports,
            dispatcher: Dispatcher::default(),
            outbox: Outbox { receiver_id, group_tag, has_heard: false, frames },
            stamper: None,
            counters,
        }
    }

    /// Makes it write times into what arrives.
    pub(crate) fn stamping(mut self, offsets: ReceiveOffsets) -> Self {
        self.stamper = ReceiveStamper::new(offsets);
        self
    }

    /// The receiver has taken the endpoint.
    pub(super) fn start(&mut self, now_ns: i64, system: &SystemCounters) {
        for index in 0..self.transports.len() {
            self.start_transport(index, now_ns, system);
        }
    }

    /// The receiver gives the endpoint away, to be closed.
    pub(super) fn retire(&mut self) {
        for transport in self.transports.iter_mut().flatten() {
            transport.socket.retire();
        }
    }

    fn start_transport(&mut self, index: usize, now_ns: i64, system: &SystemCounters) {
        let Some(transport) = &mut self.transports[index] else { return };
        transport.start(now_ns);
        if let Some(control) = transport.take_request(now_ns) {
            self.send_setup_request(index, (0, 0), control, system);
        }
    }

    /// Puts a destination to use; returns its index and the address that is preset for it.
    pub(super) fn add_destination(
        &mut self,
        transport: Box<ReceiveTransport<S>>,
        now_ns: i64,
        system: &SystemCounters,
    ) -> (usize, Option<SocketAddr>) {
        let preset = transport.preset_address();
        let index = self.transports.iter().position(Option::is_none).unwrap_or(self.transports.len());
        match self.transports.get_mut(index) {
            Some(place) => *place = Some(transport),
            None => self.transports.push(Some(transport)),
        }
        self.start_transport(index, now_ns, system);
        (index, preset)
    }

    /// Takes a destination away; returns where it was. Its socket is closed.
    pub(super) fn remove_destination(&mut self, registration_id: i64) -> Option<usize> {
        let index = self.transports.iter().position(|transport| {
            transport.as_ref().is_some_and(|transport| transport.registration_id == registration_id)
        })?;
        self.transports[index] = None;
        Some(index)
    }

    /// Number of sockets.
    pub(super) fn transport_count(&self) -> usize {
        self.transports.iter().flatten().count()
    }

    /// The control name of a destination, or with -1 of its own socket, has another address now.
    pub(super) fn set_control(&mut self, registration_id: i64, address: SocketAddr) {
        for transport in self.transports.iter_mut().flatten() {
            if transport.registration_id == registration_id && transport.control.is_some() {
                transport.control = Some(address);
            }
        }
    }

    /// A subscription was added: its sender is asked at once where it is known.
    pub(super) fn on_interest(
        &mut self,
        stream_id: i32,
        session_id: Option<i32>,
        now_ns: i64,
        system: &SystemCounters,
    ) {
        for index in 0..self.transports.len() {
            let Some(transport) = &mut self.transports[index] else { continue };
            let (control, asked) = match session_id {
                Some(session_id) => (transport.control, (session_id, stream_id)),
                None => (transport.take_request(now_ns), (0, 0)),
            };
            if let Some(control) = control {
                self.send_setup_request(index, asked, control, system);
            }
        }
    }

    /// Notes what was heard while a socket was read, and sends what had to wait.
    #[inline]
    pub(super) fn end_poll(&mut self, index: usize, system: &SystemCounters, now_ns: i64) {
        if std::mem::take(&mut self.outbox.has_heard)
            && let Some(transport) = &mut self.transports[index]
        {
            transport.note_heard(now_ns);
        }
        while let Some(waiting) = self.outbox.frames.pop() {
            match waiting {
                Waiting::SetupRequest { session_id, stream_id, to } => {
                    self.send_setup_request(index, (session_id, stream_id), to, system);
                }
                Waiting::RoundTrip { rttm, to } => {
                    let mut buffer = [0; RTTM_LENGTH];
                    if let Ok(length) = rttm.encode(&mut buffer) {
                        self.send(index, &buffer[..length], to, system);
                    }
                }
            }
        }
    }

    /// Asks again where the sender is known, and forgets requests that nobody answered (spec 02 §3.0, 4).
    pub(super) fn check_pending_setups(&mut self, now_ns: i64, system: &SystemCounters) {
        self.dispatcher.expire_setups(now_ns, PENDING_SETUP_TIMEOUT_NS);
        if !self.dispatcher.has_interest() {
            return;
        }
        for index in 0..self.transports.len() {
            let Some(transport) = &mut self.transports[index] else { continue };
            if let Some(control) = transport.take_due_request(now_ns) {
                self.send_setup_request(index, (0, 0), control, system);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<i64> {
        let expiry = self.dispatcher.next_expiry_ns().map(|since| since + PENDING_SETUP_TIMEOUT_NS + 1);
        let has_interest = self.dispatcher.has_interest();
        let requests = self.transports.iter().flatten().filter_map(|transport| transport.next_request_ns());
        requests.filter(|_| has_interest).chain(expiry).min()
    }

    /// Asks for a SETUP of a (session, stream); of (0, 0) for all on the channel.
    fn send_setup_request(
        &mut self,
        index: usize,
        (session_id, stream_id): (i32, i32),
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
            self.send(index, &buffer[..length], to, system);
        }
    }

    /// Sends one control frame through a transport; false when it did not go out whole.
    pub(super) fn send(
        &mut self,
        index: usize,
        frame: &[u8],
        to: SocketAddr,
        system: &SystemCounters,
    ) -> bool {
        match self.transports.get_mut(index) {
            Some(Some(transport)) => transport.send(frame, to, system),
            _ => false,
        }
    }
}
