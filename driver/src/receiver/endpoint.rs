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

/// Most frames that wait for the end of a poll.
const OUTBOX_CAPACITY: usize = 64;

/// A receive channel: one socket, or one for each destination.
pub(crate) struct ReceiveEndpoint<S> {
    pub(crate) id: u64,
    /// Transports by index. The index of a removed destination is used again.
    pub(super) transports: Vec<Option<Box<ReceiveTransport<S>>>>,
    pub(super) dispatcher: Dispatcher,
    pub(super) outbox: Outbox,
    /// Writes time stamps into received datagrams.
    pub(super) stamper: Option<ReceiveStamper>,
    /// Counters of the channel, freed by the conductor.
    pub(crate) counters: Vec<AtomicCounter>,
}

/// Identity of an endpoint in its frames, and frames that wait while a socket is being read.
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
    /// Creates an endpoint on its own socket. With `control-mode=manual` it starts without one, and commands add
    /// destinations.
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

    /// Makes the endpoint write time stamps into received datagrams.
    pub(crate) fn stamping(mut self, offsets: ReceiveOffsets) -> Self {
        self.stamper = ReceiveStamper::new(offsets);
        self
    }

    /// Starts the endpoint when the receiver takes it.
    pub(super) fn start(&mut self, now_ns: i64, system: &SystemCounters) {
        for index in 0..self.transports.len() {
            self.start_transport(index, now_ns, system);
        }
    }

    /// Prepares the endpoint's sockets for their close by another agent.
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

    /// Adds a destination; returns its index and its preset address.
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

    /// Removes a destination and closes its socket; returns its index.
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

    /// Sets the new address of a control name: that of a destination, or with -1 that of the endpoint's own socket.
    pub(super) fn set_control(&mut self, registration_id: i64, address: SocketAddr) {
        for transport in self.transports.iter_mut().flatten() {
            if transport.registration_id == registration_id && transport.control.is_some() {
                transport.control = Some(address);
            }
        }
    }

    /// Handles a new subscription: requests a SETUP at once from senders whose address is known.
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

    /// Ends the poll of a socket: updates its connections and sends the frames that had to wait.
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

    /// Repeats requests to known senders, and forgets requests that nobody answered (spec 02 §3.0, 4).
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

    /// Requests the SETUP of a (session, stream); (0, 0) stands for all streams of the channel.
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
