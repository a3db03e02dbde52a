//! The receiver's half of an image (spec 02 §3.4–3.9).

mod slab;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use harrier_protocol::ErrorCode;
use harrier_protocol::udp::{
    DataFrames, ERROR_HEADER_LENGTH, ErrorFrame, MAX_ERROR_TEXT_LENGTH, NAK_LENGTH, Nak,
    RESPONSE_SETUP_LENGTH, RTTM_LENGTH, ResponseSetup, Rttm, STATUS_MESSAGE_TAGGED_LENGTH, StatusMessage,
    flag,
};
use harrier_ringbuf::Datagrams;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::logbuffer::LogBuffers;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::position::{
    check_advance, compute_max_message_length, compute_position, compute_term_id_from_position,
    compute_term_offset_from_position, index_by_position,
};
use harrier_ringbuf::rebuild::{fill_gap, insert};

use super::endpoint::ReceiveEndpoint;
use super::transport::Connections;
use crate::handover::{ImageShared, ImageState, MissingRange};
use crate::system_counters::{SystemCounter, SystemCounters};

pub(crate) use slab::ImageSlab;

/// Longest plausible round trip, ns. A later reply does not belong to a request of this image.
const MAX_RTT_NS: i64 = 10_000_000_000;

/// Parts of an image that the conductor provides.
pub(crate) struct ReceiveImageSetup {
    pub(crate) log: LogBuffers,
    pub(crate) is_reliable: bool,
    pub(crate) max_window: i32,
    pub(crate) initial_window: i32,
    pub(crate) join_position: i64,
    pub(crate) status_timeout_ns: i64,
    pub(crate) liveness_timeout_ns: i64,
    /// Time between two measurements of the round trip, ns; `None` when the round trip is not measured.
    pub(crate) rtt_interval_ns: Option<i64>,
    pub(crate) high_water_mark: AtomicCounter,
    pub(crate) rebuild_position: AtomicCounter,
    pub(crate) naks_sent: AtomicCounter,
    pub(crate) shared: Arc<ImageShared>,
    pub(crate) control: SocketAddr,
}

/// Route on which a datagram arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// Index of the transport.
    pub(super) transport: usize,
    /// Address for answers: the control group of multicast, else the source of the datagram.
    pub(super) address: SocketAddr,
    /// Number of transports of the endpoint.
    pub(super) transports: usize,
}

/// The receiver's half of an image.
pub(crate) struct ReceiveImage {
    pub(crate) correlation_id: i64,
    pub(crate) endpoint_id: u64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    setup: ReceiveImageSetup,
    bits: u32,
    initial_term_id: i32,
    term_length: i64,
    last_status_position: i64,
    /// Position that no frame may reach beyond: half a term from the last status message, within the allocated pages.
    limit: i64,
    next_status_position: i64,
    window: i32,
    status_change: i64,
    loss_change: i64,
    status_deadline_ns: i64,
    last_packet_ns: i64,
    last_rtt_ns: i64,
    /// Last measured round trip, ns.
    rtt_ns: i64,
    /// Index at which the endpoint was found last.
    pub(super) endpoint_place: usize,
    sends_status: bool,
    /// True when a status message has told the sender that nobody receives any more.
    has_sent_eos: bool,
    has_eos: bool,
    rejected: Option<String>,
    connections: Connections,
    /// Session that answers a request stream, and the time of the next report to the sender, ns. Every status message
    /// reports it until the sender has heard the session (spec 02 §2.12).
    response_session: Option<(i32, Option<i64>)>,
}

/// True when a sender may be at `position`, which is beyond the window that it was granted. Only the padding at the end
/// of a term carries a sender past its window, so it is at the start of a term, by less than the longest message.
///
/// If all datagrams of the window are lost, only heartbeats from there reveal the gap: an image that dropped them would
/// send no NAK and end. A sender at any other position does not retransmit the gap (spec 02 §2.7), and an image that it
/// kept alive would wait for ever.
fn is_behind_padding(position: i64, window_end: i64, term_length: i64) -> bool {
    position % term_length == 0
        && position - window_end < compute_max_message_length(term_length as usize) as i64
}

impl ReceiveImage {
    pub(crate) fn new(
        correlation_id: i64,
        endpoint_id: u64,
        session_id: i32,
        stream_id: i32,
        setup: ReceiveImageSetup,
    ) -> Self {
        Self {
            correlation_id,
            endpoint_id,
            session_id,
            stream_id,
            bits: setup.log.position_bits_to_shift(),
            initial_term_id: setup.log.initial_term_id(),
            term_length: setup.log.term_length() as i64,
            last_status_position: setup.join_position,
            limit: setup.join_position,
            next_status_position: setup.join_position,
            window: setup.initial_window,
            status_change: 0,
            loss_change: 0,
            status_deadline_ns: 0,
            last_packet_ns: 0,
            last_rtt_ns: 0,
            rtt_ns: 0,
            endpoint_place: 0,
            sends_status: true,
            has_sent_eos: false,
            has_eos: false,
            rejected: None,
            connections: Connections::default(),
            response_session: None,
            setup,
        }
    }

    /// Starts the image, whose SETUP came through a transport. The first status message is due at once.
    pub(super) fn activate(&mut self, transport: usize, now_ns: i64) {
        self.connections.touch(transport, self.setup.control, now_ns);
        self.last_packet_ns = now_ns;
        self.status_deadline_ns = now_ns - 1;
        self.last_rtt_ns = now_ns;
        self.setup.shared.advance(ImageState::Active, now_ns);
        self.setup.log.set_active_transport_count(1);
    }

    /// Stops the image when its last subscription is gone or no data arrives any more.
    pub(crate) fn deactivate(&mut self, now_ns: i64) {
        if self.setup.shared.advance(ImageState::Draining, now_ns) {
            self.status_deadline_ns = now_ns - 1;
            // Packets may still arrive, but none of them gets into the image.
            self.setup.log.set_active_transport_count(0);
        }
    }

    pub(crate) fn reject(&mut self, reason: String) {
        self.rejected = Some(reason);
        self.status_deadline_ns = 0;
    }

    /// True when the stream has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_eos
    }

    /// Takes a SETUP for the image. A SETUP alone keeps no image alive, because its sender may be far away from the
    /// image (spec 02 §3.2).
    pub(super) fn on_setup(&mut self, arrival: Arrival, now_ns: i64) {
        if self.rejected.is_none() {
            self.connections.touch(arrival.transport, arrival.address, now_ns);
        }
    }

    #[inline]
    fn touch(&mut self, arrival: Arrival, now_ns: i64) {
        self.last_packet_ns = now_ns;
        self.connections.touch(arrival.transport, arrival.address, now_ns);
    }

    /// Adds the sender of a new destination whose address is known in advance, so that it gets status messages as well.
    pub(super) fn add_connection(&mut self, transport: usize, address: SocketAddr, now_ns: i64) {
        self.connections.touch(transport, address, now_ns);
    }

    /// Removes the connection of a destination. The stream may have ended in all connections that are left.
    pub(super) fn remove_connection(&mut self, transport: usize, transports: usize) {
        self.connections.remove(transport);
        if transports > 0 {
            self.check_end(transports);
        }
    }

    pub(super) fn set_response_session(&mut self, session_id: Option<i32>) {
        self.response_session = session_id.map(|session_id| (session_id, None));
    }

    /// Takes the reply to a round trip request, for the congestion control of the conductor.
    pub(crate) fn on_round_trip(&mut self, reply: &Rttm, now_ns: i64) {
        let rtt_ns = now_ns.wrapping_sub(reply.echo_timestamp_ns).wrapping_sub(reply.reception_delta_ns);
        // A reply with an impossible time does not belong to a request of this image.
        if (0..=MAX_RTT_NS).contains(&rtt_ns) {
            self.rtt_ns = rtt_ns;
            self.setup.shared.rtt_ns.store(rtt_ns.max(1), Ordering::Release);
        }
    }

    /// Takes one datagram (spec 02 §3.4).
    #[inline]
    pub(super) fn on_data(
        &mut self,
        data: &DataFrames<'_>,
        arrival: Arrival,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        let header = &data.first;
        if self.rejected.is_some() {
            return;
        }
        if !data.fits_term(self.term_length as usize) || header.term_id.wrapping_sub(self.initial_term_id) < 0
        {
            return system.get(SystemCounter::InvalidPackets).increment();
        }
        let position = compute_position(header.term_id, header.term_offset, self.bits, self.initial_term_id);
        if data.is_heartbeat() {
            return self.on_heartbeat(position, header.flags, arrival, system, now_ns);
        }
        let end = position + data.bytes.len() as i64;
        if end > self.limit && end > self.new_limit() {
            return system.get(SystemCounter::FlowControlOverRuns).increment();
        }
        if position < self.last_status_position {
            system.get(SystemCounter::FlowControlUnderRuns).increment();
            if position >= self.last_status_position - i64::from(self.setup.max_window) {
                self.touch(arrival, now_ns);
            }
            return;
        }
        self.touch(arrival, now_ns);
        if self.setup.shared.state() > ImageState::Active {
            // Subscribers are told that the image ends at its present position.
            return;
        }
        let term = self.setup.log.term(index_by_position(position, self.bits));
        insert(term, header.term_offset as usize, data.bytes);
        if end > self.setup.high_water_mark.get_plain() {
            self.setup.high_water_mark.set_ordered(end);
        }
    }

    /// Computes the limit again, because more of the log may be allocated by now.
    #[cold]
    fn new_limit(&mut self) -> i64 {
        let usable = self.setup.shared.usable_position.load(Ordering::Acquire);
        self.limit = (self.last_status_position + self.term_length / 2).min(usable);
        self.limit
    }

    fn on_heartbeat(
        &mut self,
        position: i64,
        flags: u8,
        arrival: Arrival,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        let window_end = self.last_status_position + self.term_length / 2;
        if position > window_end && !is_behind_padding(position, window_end, self.term_length) {
            return system.get(SystemCounter::FlowControlOverRuns).increment();
        }
        if position < (self.last_status_position - self.term_length).max(0) {
            return system.get(SystemCounter::FlowControlUnderRuns).increment();
        }
        system.get(SystemCounter::HeartbeatsReceived).increment();
        self.touch(arrival, now_ns);
        // An unreliable image fills its gaps up to this mark, so a frame must begin there.
        let usable = self.setup.shared.usable_position.load(Ordering::Acquire);
        let mark = if self.setup.is_reliable { position.min(window_end).min(usable) } else { position };
        let is_active = self.setup.shared.state() <= ImageState::Active;
        if is_active && mark <= usable && mark > self.setup.high_water_mark.get_plain() {
            self.setup.high_water_mark.set_ordered(mark);
        }
        if flags & flag::EOS != 0 && !self.has_eos {
            self.connections.set_eos(arrival.transport, position);
            if self.check_end(arrival.transports) && flags & flag::REVOKED != 0 {
                self.setup.log.set_publication_revoked();
                system.get(SystemCounter::PublicationImagesRevoked).increment();
            }
        }
    }

    /// Ends the image once the stream has ended in all of its connections; true when it has just done so.
    fn check_end(&mut self, transports: usize) -> bool {
        if !self.has_eos
            && let Some(position) = self.connections.end_position(transports)
        {
            self.has_eos = true;
            self.setup.log.set_end_of_stream_position(position);
            self.setup.shared.is_end_of_stream.store(true, Ordering::Release);
            return true;
        }
        false
    }

    /// Runs one duty cycle: liveness, status messages, NAKs (spec 02 §3.0, 3).
    #[inline]
    pub(crate) fn service<S: Datagrams>(
        &mut self,
        endpoint: &mut ReceiveEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) -> usize {
        let state = self.setup.shared.state();
        if state == ImageState::Active {
            self.check_liveness(now_ns);
        }
        let mut work_count = 0;
        if self.rejected.is_some() {
            return self.send_error(endpoint, system, now_ns);
        }
        work_count += self.send_status(endpoint, system, now_ns);
        if let Some((change, gap)) = self.setup.shared.loss.take(self.loss_change) {
            self.loss_change = change;
            work_count += self.on_loss(endpoint, gap, system, now_ns);
        }
        if let Some(interval_ns) = self.setup.rtt_interval_ns
            && state == ImageState::Active
            && now_ns > self.last_rtt_ns + interval_ns.max(4 * self.rtt_ns)
        {
            self.last_rtt_ns = now_ns;
            self.send_round_trip(endpoint, system, now_ns);
        }
        work_count
    }

    /// Tells the sender that the image is removed, unless the sender knows it already (spec 02 §2.8).
    pub(crate) fn finish<S: Datagrams>(
        &mut self,
        endpoint: &mut ReceiveEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        if !self.has_sent_eos && self.sends_status && self.rejected.is_none() {
            self.write_status(flag::SM_EOS, endpoint, system, now_ns);
        }
    }

    /// Returns the time of the image's next work that needs no datagram, ns.
    pub(crate) fn next_deadline_ns(&self, now_ns: i64) -> i64 {
        let is_active = self.setup.shared.state() == ImageState::Active;
        let liveness_ns = self.last_packet_ns.saturating_add(self.setup.liveness_timeout_ns);
        let may_send = match &self.rejected {
            Some(_) => is_active,
            None => self.sends_status && (!is_active || self.is_heard(now_ns)),
        };
        let status_ns = if may_send { self.status_deadline_ns } else { i64::MAX - 1 };
        let own_ns = if is_active { status_ns.min(liveness_ns) } else { status_ns };
        own_ns.saturating_add(1)
    }

    fn check_liveness(&mut self, now_ns: i64) {
        if is_planted(Bug::ImageOutlivesSender) && !self.has_eos {
            return;
        }
        let is_drained =
            self.has_eos && self.setup.rebuild_position.get() >= self.setup.high_water_mark.get_plain();
        if is_drained || now_ns - self.last_packet_ns > self.setup.liveness_timeout_ns {
            self.deactivate(now_ns);
        }
    }

    fn is_heard(&self, now_ns: i64) -> bool {
        self.connections.targets(false, now_ns).next().is_some()
    }

    /// Sends a control frame to all senders that were heard lately, or with `is_all` to all.
    fn send_to_senders<S: Datagrams>(
        &self,
        frame: &[u8],
        is_all: bool,
        endpoint: &mut ReceiveEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        for (transport, address) in self.connections.targets(is_all, now_ns) {
            endpoint.send(transport, frame, address, system);
        }
    }

    fn send_status<S: Datagrams>(
        &mut self,
        endpoint: &mut ReceiveEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) -> usize {
        let is_timed_out = self.sends_status && self.status_deadline_ns < now_ns;
        let response_session = self.due_response_session(is_timed_out, now_ns);
        let mut is_due = is_timed_out || response_session.is_some();
        if let Some((change, position, window)) = self.setup.shared.status.take(self.status_change) {
            self.status_change = change;
            self.next_status_position = position;
            self.window = window;
            is_due |= self.sends_status;
        }
        let state = self.setup.shared.state();
        let is_ending = state >= ImageState::Draining;
        is_due |= is_ending && !self.has_sent_eos && self.sends_status;
        if !is_due || state > ImageState::Linger || (!self.is_heard(now_ns) && !is_ending) {
            return 0;
        }
        if let Some(response_session_id) = response_session {
            let (session_id, stream_id) = (self.session_id, self.stream_id);
            let frame = ResponseSetup { session_id, stream_id, response_session_id };
            let mut buffer = [0; RESPONSE_SETUP_LENGTH];
            if let Ok(length) = frame.encode(&mut buffer) {
                self.send_to_senders(&buffer[..length], false, endpoint, system, now_ns);
            }
        }
        self.write_status(if is_ending { flag::SM_EOS } else { 0 }, endpoint, system, now_ns);
        1
    }

    /// Returns the session that answers when a report to the sender is due: with status messages that are due by time,
    /// and as often while the stream flows. A flowing stream has no such status messages (spec 02 §3.6).
    fn due_response_session(&mut self, is_timed_out: bool, now_ns: i64) -> Option<i32> {
        let timeout_ns = self.setup.status_timeout_ns;
        let (session_id, deadline_ns) = self.response_session.as_mut()?;
        let is_late = now_ns > *deadline_ns.get_or_insert(now_ns + timeout_ns);
        let is_due = self.sends_status && (is_timed_out || is_late);
        if is_due {
            *deadline_ns = Some(now_ns + timeout_ns);
        }
        is_due.then_some(*session_id)
    }

    fn write_status<S: Datagrams>(
        &mut self,
        flags: u8,
        endpoint: &mut ReceiveEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        let position = self.next_status_position;
        check_advance(self.last_status_position, position);
        assert!(self.window >= 0, "an image grants a negative window");
        let status = StatusMessage {
            flags,
            session_id: self.session_id,
            stream_id: self.stream_id,
            consumption_term_id: compute_term_id_from_position(position, self.bits, self.initial_term_id),
            consumption_term_offset: compute_term_offset_from_position(position, self.bits),
            receiver_window: self.window,
            receiver_id: endpoint.outbox.receiver_id,
            group_tag: endpoint.outbox.group_tag,
        };
        let mut buffer = [0; STATUS_MESSAGE_TAGGED_LENGTH];
        let Ok(length) = status.encode(&mut buffer) else { return };
        let is_ending = flags & flag::SM_EOS != 0;
        self.send_to_senders(&buffer[..length], is_ending, endpoint, system, now_ns);
        system.get(SystemCounter::StatusMessagesSent).increment();
        if !is_ending {
            let alive = self.connections.count_alive(self.setup.liveness_timeout_ns, now_ns);
            self.setup.log.set_active_transport_count(alive as i32);
        }
        self.last_status_position = position;
        self.new_limit();
        self.status_deadline_ns = now_ns + self.setup.status_timeout_ns;
        self.has_sent_eos |= is_ending;
    }

    fn send_error<S: Datagrams>(
        &mut self,
        endpoint: &mut ReceiveEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) -> usize {
        let Some(reason) = &self.rejected else { return 0 };
        if self.status_deadline_ns >= now_ns || self.setup.shared.state() != ImageState::Active {
            return 0;
        }
        let error = ErrorFrame {
            session_id: self.session_id,
            stream_id: self.stream_id,
            receiver_id: endpoint.outbox.receiver_id,
            group_tag: endpoint.outbox.group_tag,
            code: ErrorCode::ImageRejected.value(),
            text: reason.as_bytes(),
        };
        let mut buffer = [0; ERROR_HEADER_LENGTH + MAX_ERROR_TEXT_LENGTH];
        if let Ok(length) = error.encode(&mut buffer) {
            self.send_to_senders(&buffer[..length], true, endpoint, system, now_ns);
        }
        system.get(SystemCounter::ErrorFramesSent).increment();
        self.status_deadline_ns = now_ns + self.setup.status_timeout_ns;
        1
    }

    fn on_loss<S: Datagrams>(
        &mut self,
        endpoint: &mut ReceiveEndpoint<S>,
        gap: MissingRange,
        system: &SystemCounters,
        now_ns: i64,
    ) -> usize {
        if self.setup.log.is_publication_revoked() {
            return 0;
        }
        if !self.setup.is_reliable || is_planted(Bug::ReliableGapFilled) {
            let position = compute_position(gap.term_id, gap.term_offset, self.bits, self.initial_term_id);
            let term = self.setup.log.term(index_by_position(position, self.bits));
            let header = self.setup.log.default_header();
            if fill_gap(term, &header, gap.term_id, gap.term_offset as usize, gap.length as usize) {
                system.get(SystemCounter::LossGapFills).increment();
            }
            return 1;
        }
        // An image that has ended takes no data, so it sends no NAKs.
        let is_wanted = self.setup.shared.state() <= ImageState::Active;
        if !is_wanted || !self.is_heard(now_ns) || is_planted(Bug::SkippedNak) {
            return 0;
        }
        let nak = Nak {
            session_id: self.session_id,
            stream_id: self.stream_id,
            term_id: gap.term_id,
            term_offset: gap.term_offset,
            length: gap.length,
        };
        let mut buffer = [0; NAK_LENGTH];
        let Ok(length) = nak.encode(&mut buffer) else { return 0 };
        self.send_to_senders(&buffer[..length], false, endpoint, system, now_ns);
        system.get(SystemCounter::NaksSent).increment();
        self.setup.naks_sent.increment();
        1
    }

    fn send_round_trip<S: Datagrams>(
        &self,
        endpoint: &mut ReceiveEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        let rttm = Rttm {
            flags: flag::RTTM_REPLY,
            session_id: self.session_id,
            stream_id: self.stream_id,
            echo_timestamp_ns: now_ns,
            reception_delta_ns: 0,
            receiver_id: endpoint.outbox.receiver_id,
        };
        let mut buffer = [0; RTTM_LENGTH];
        if let Ok(length) = rttm.encode(&mut buffer) {
            self.send_to_senders(&buffer[..length], false, endpoint, system, now_ns);
        }
    }
}
