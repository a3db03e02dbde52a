//! The sender's half of a network publication (spec 02 §2.4–2.7).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use harrier_protocol::udp::{DATA_HEADER_LENGTH, DataHeader, SETUP_LENGTH, Setup, StatusMessage, flag};
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::logbuffer::LogBuffers;
use harrier_ringbuf::position::{
    HEADER_LENGTH, check_place, compute_position, compute_term_id_from_position,
    compute_term_offset_from_position, index_by_position,
};
use harrier_ringbuf::scan::scan_for_availability;
use harrier_ringbuf::{Datagrams, IdMap};

use super::endpoint::{MAX_BATCH, SendEndpoint, Slice};
use super::joining::Joining;
use crate::flow_control::{FlowControl, ReceiverStatus};
use crate::handover::PublicationShared;
use crate::retransmit::{NakOutcome, Resend, RetransmitHandler};
use crate::system_counters::{SystemCounter, SystemCounters};

/// Time between SETUPs, ns (spec 02 §2.1).
pub(super) const SETUP_INTERVAL_NS: i64 = 100_000_000;
/// Time between heartbeats, ns (spec 02 §2.1).
const HEARTBEAT_INTERVAL_NS: i64 = 100_000_000;
/// Most NAKs that wait for the end of a poll.
const MAX_NAKS: usize = 64;
/// Time between two reports of the session that answers a request stream, ns. Receivers send it five times a second.
const RESPONSE_SETUP_INTERVAL_NS: i64 = 10_000_000;
/// Most receivers that are remembered.
const MAX_RECEIVERS: usize = 1_024;

/// Parts of a publication that the conductor provides.
pub(crate) struct SendPublicationSetup {
    pub(crate) registration_id: i64,
    pub(crate) endpoint_id: u64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    pub(crate) log: LogBuffers,
    pub(crate) max_message_length: i64,
    pub(crate) connection_timeout_ns: i64,
    pub(crate) signals_eos: bool,
    pub(crate) setup_flags: u8,
    pub(crate) flow_control: FlowControl,
    pub(crate) retransmit: RetransmitHandler,
    pub(crate) sender_position: AtomicCounter,
    pub(crate) sender_limit: AtomicCounter,
    pub(crate) back_pressure_events: AtomicCounter,
    pub(crate) naks_received: AtomicCounter,
    pub(crate) receivers: Option<AtomicCounter>,
    pub(crate) shared: Arc<PublicationShared>,
}

/// The sender's half of a publication.
pub(crate) struct SendPublication {
    pub(crate) registration_id: i64,
    pub(crate) endpoint_id: u64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    /// Index at which the endpoint was found last.
    pub(super) endpoint_place: usize,
    setup: SendPublicationSetup,
    bits: u32,
    initial_term_id: i32,
    term_length: i64,
    mtu: usize,
    has_heard_receiver: bool,
    is_setup_elicited: bool,
    tracks_back_pressure: bool,
    last_setup_ns: i64,
    last_send_ns: i64,
    last_status_ns: i64,
    receivers: IdMap<i64, i64>,
    joining: Joining,
    naks: Vec<Resend>,
    /// Datagrams of the batch that is being sent.
    batch: Box<[Slice; MAX_BATCH]>,
    ttl: i32,
    respondent: Respondent,
    /// Subscription that awaits the answers to this stream.
    response_subscription: Option<i64>,
    next_response_setup_ns: i64,
}

/// State of a publication that may answer a request stream (spec 02 §2.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Respondent {
    /// The publication is no response publication.
    No,
    /// No requester has asked for it yet.
    Unasked,
    /// The requester at this address is its only destination.
    Of(SocketAddr),
}

impl SendPublication {
    pub(crate) fn new(setup: SendPublicationSetup) -> Self {
        Self {
            registration_id: setup.registration_id,
            endpoint_id: setup.endpoint_id,
            session_id: setup.session_id,
            stream_id: setup.stream_id,
            endpoint_place: 0,
            bits: setup.log.position_bits_to_shift(),
            initial_term_id: setup.log.initial_term_id(),
            term_length: setup.log.term_length() as i64,
            mtu: setup.log.mtu_length(),
            has_heard_receiver: false,
            is_setup_elicited: false,
            tracks_back_pressure: false,
            last_setup_ns: 0,
            last_send_ns: 0,
            last_status_ns: 0,
            receivers: IdMap::default(),
            joining: Joining::default(),
            naks: Vec::with_capacity(MAX_NAKS),
            batch: Box::new([Slice::default(); MAX_BATCH]),
            ttl: 0,
            respondent: Respondent::No,
            response_subscription: None,
            next_response_setup_ns: i64::MIN,
            setup,
        }
    }

    /// Sets the time to live of a multicast channel, which its SETUPs carry.
    pub(crate) fn with_ttl(mut self, ttl: i32) -> Self {
        self.ttl = ttl;
        self
    }

    /// Makes it a response publication. It is silent until a requester asks for its SETUP and so becomes its
    /// destination.
    pub(crate) fn responding(mut self) -> Self {
        self.respondent = Respondent::Unasked;
        self
    }

    /// Makes it a request publication: its SETUPs ask for a response stream, which a subscription awaits.
    pub(crate) fn requesting(mut self, subscription_id: i64) -> Self {
        self.setup.setup_flags |= flag::SETUP_SEND_RESPONSE;
        self.response_subscription = Some(subscription_id);
        self
    }

    /// Returns the only destination of a response publication.
    fn only(&self) -> Option<SocketAddr> {
        match self.respondent {
            Respondent::Of(address) => Some(address),
            Respondent::No | Respondent::Unasked => None,
        }
    }

    /// Starts the clocks so that SETUP and heartbeat are due at once.
    pub(crate) fn start(&mut self, now_ns: i64) {
        self.last_setup_ns = now_ns - SETUP_INTERVAL_NS - 1;
        self.last_send_ns = now_ns - HEARTBEAT_INTERVAL_NS - 1;
        self.last_status_ns = now_ns;
    }

    pub(crate) fn next_deadline(&self) -> i64 {
        let heartbeat_ns = self.last_send_ns + HEARTBEAT_INTERVAL_NS + 1;
        let setup_ns = self.last_setup_ns + SETUP_INTERVAL_NS + 1;
        if self.respondent == Respondent::Unasked {
            return i64::MAX;
        }
        let own_ns = match (self.has_heard_receiver, self.is_setup_elicited) {
            (true, false) => heartbeat_ns,
            (true, true) => heartbeat_ns.min(setup_ns),
            (false, _) => setup_ns,
        };
        own_ns.min(self.resend_deadline())
    }

    /// True while the publication waits for a receiver before it can send.
    #[inline]
    pub(super) fn awaits_receivers(&self) -> bool {
        !self.has_heard_receiver
            || self.is_setup_elicited
            || self.setup.sender_limit.get_plain() <= self.setup.sender_position.get_plain()
    }

    /// Time at which a delayed retransmit is due, ns.
    fn resend_deadline(&self) -> i64 {
        self.setup.retransmit.next_deadline_ns().unwrap_or(i64::MAX)
    }

    /// Runs one duty cycle: SETUP, data, heartbeat, retransmits (spec 02 §2.4).
    #[inline]
    pub(crate) fn send<S: Datagrams>(
        &mut self,
        endpoint: &mut SendEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) -> usize {
        if self.respondent == Respondent::Unasked {
            return 0;
        }
        let position = self.setup.sender_position.get_plain();
        if !self.has_heard_receiver || self.is_setup_elicited {
            self.send_setup(endpoint, position, system, now_ns);
        }
        let sent = self.send_data(endpoint, position, system, now_ns);
        if sent == 0 {
            self.on_idle(endpoint, position, system, now_ns);
        }
        while let Some(range) = self.setup.retransmit.next_due(now_ns) {
            self.resend(endpoint, range, system, now_ns);
        }
        sent
    }

    fn send_setup<S: Datagrams>(
        &mut self,
        endpoint: &mut SendEndpoint<S>,
        position: i64,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        if now_ns <= self.last_setup_ns + SETUP_INTERVAL_NS {
            return;
        }
        self.last_setup_ns = now_ns;
        self.joining.on_setup(position, now_ns);
        if self.is_setup_elicited {
            self.setup.flow_control.on_setup(self.setup.sender_limit.get_plain(), now_ns);
        }
        let frame = Setup {
            flags: self.setup.setup_flags,
            term_offset: compute_term_offset_from_position(position, self.bits),
            session_id: self.session_id,
            stream_id: self.stream_id,
            initial_term_id: self.initial_term_id,
            active_term_id: compute_term_id_from_position(position, self.bits, self.initial_term_id),
            term_length: self.term_length as i32,
            mtu: self.mtu as i32,
            ttl: self.ttl,
        };
        let mut buffer = [0; SETUP_LENGTH];
        if let Ok(length) = frame.encode(&mut buffer) {
            endpoint.send_frame(&buffer[..length], self.only(), system, now_ns);
        }
        if self.is_setup_elicited && self.setup.shared.has_receivers.load(Ordering::Relaxed) {
            self.is_setup_elicited = false;
        }
    }

    #[inline]
    fn send_data<S: Datagrams>(
        &mut self,
        endpoint: &mut SendEndpoint<S>,
        position: i64,
        system: &SystemCounters,
        now_ns: i64,
    ) -> usize {
        let limit = self.setup.sender_limit.get_plain();
        let term = self.setup.log.term(index_by_position(position, self.bits));
        let first = compute_term_offset_from_position(position, self.bits) as usize;
        let most = endpoint.socket.batch_length().min(MAX_BATCH);
        let mut count = 0;
        let mut done = 0;
        let mut is_blocked = false;
        // A batch ends with the term.
        while count < most && (count == 0 || first + done < self.term_length as usize) {
            let window = limit - position - done as i64;
            if window <= 0 {
                is_blocked = true;
                break;
            }
            let available = scan_for_availability(term, first + done, (window as usize).min(self.mtu));
            if available.bytes <= 0 {
                is_blocked = available.bytes < 0;
                break;
            }
            let (offset, length) = (first + done, available.bytes as usize);
            done += length + available.padding;
            self.batch[count] = Slice { offset, length, end: done };
            count += 1;
        }
        if is_blocked && count == 0 && self.tracks_back_pressure {
            self.tracks_back_pressure = false;
            self.setup.back_pressure_events.increment();
            system.get(SystemCounter::SenderFlowControlLimits).increment();
        }
        if count == 0 {
            return 0;
        }
        // The batch ends with a whole frame inside the term.
        check_place(first + done, 0, self.term_length as usize);
        let sent = endpoint.send_log(term, &self.batch[..count], self.only(), system, now_ns);
        if sent == 0 {
            return 0;
        }
        self.last_send_ns = now_ns;
        self.tracks_back_pressure = true;
        let advanced = self.batch[sent - 1].end;
        self.setup.sender_position.set_ordered(position + advanced as i64);
        advanced
    }

    fn on_idle<S: Datagrams>(
        &mut self,
        endpoint: &mut SendEndpoint<S>,
        position: i64,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        if self.has_heard_receiver && now_ns > self.last_send_ns + HEARTBEAT_INTERVAL_NS {
            self.send_heartbeat(endpoint, position, system, now_ns);
        }
        let shared = &self.setup.shared;
        let has_receivers = shared.has_receivers.load(Ordering::Relaxed);
        let limit = self.setup.sender_limit.get_plain();
        if !has_receivers && shared.has_connecting_spies.load(Ordering::Acquire) {
            let spy_position = shared.spy_position.load(Ordering::Acquire);
            let reached = self.followed_position(position, spy_position, now_ns);
            if reached > position {
                self.setup.sender_position.set_ordered(reached);
            }
            let position = position.max(reached);
            self.setup.sender_limit.set_ordered(self.setup.flow_control.on_idle(position, now_ns));
        } else {
            let new_limit = self.setup.flow_control.on_idle(limit, now_ns);
            if new_limit != limit {
                self.setup.sender_limit.set_ordered(new_limit);
            }
        }
        if has_receivers {
            let timeout_ns = self.setup.connection_timeout_ns;
            self.receivers.retain(|_, last_ns| now_ns - *last_ns < timeout_ns);
        }
        if has_receivers || self.setup.flow_control.receiver_count().is_some() {
            self.update_receivers();
        }
    }

    /// Returns the position to which the sender follows its spies. Joining receivers limit it, see [`Joining`].
    fn followed_position(&self, position: i64, spy_position: i64, now_ns: i64) -> i64 {
        let timeout_ns = self.setup.connection_timeout_ns;
        match self.joining.limit(self.term_length / 2, timeout_ns, now_ns) {
            Some(limit) if spy_position > limit => self.last_frame_end(position, limit),
            _ => spy_position,
        }
    }

    /// Returns the end of the last frame from `position` up to `limit`.
    fn last_frame_end(&self, position: i64, limit: i64) -> i64 {
        let mut reached = position;
        while reached < limit {
            let term = self.setup.log.term(index_by_position(reached, self.bits));
            let offset = compute_term_offset_from_position(reached, self.bits) as usize;
            let available = scan_for_availability(term, offset, (limit - reached) as usize);
            if available.bytes <= 0 {
                break;
            }
            let end = reached + available.bytes as i64 + available.padding as i64;
            if end > limit {
                // The padding goes beyond the limit, so only the frames before it count.
                return end - (available.padding + HEADER_LENGTH) as i64;
            }
            reached = end;
        }
        reached
    }

    fn send_heartbeat<S: Datagrams>(
        &mut self,
        endpoint: &mut SendEndpoint<S>,
        position: i64,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        self.last_send_ns = now_ns;
        let flags = if self.setup.log.is_publication_revoked() {
            flag::EOS | flag::REVOKED
        } else if self.setup.signals_eos && self.setup.shared.is_end_of_stream.load(Ordering::Acquire) {
            flag::EOS
        } else {
            0
        };
        let frame = DataHeader::heartbeat(
            self.session_id,
            self.stream_id,
            compute_term_id_from_position(position, self.bits, self.initial_term_id),
            compute_term_offset_from_position(position, self.bits),
            flags,
        );
        let mut buffer = [0; DATA_HEADER_LENGTH];
        if let Ok(length) = frame.encode(&mut buffer) {
            endpoint.send_frame(&buffer[..length], self.only(), system, now_ns);
        }
        system.get(SystemCounter::HeartbeatsSent).increment();
    }

    fn update_receivers(&mut self) {
        let shared = &self.setup.shared;
        shared.has_receivers.store(!self.receivers.is_empty(), Ordering::Release);
        let has_required = self.setup.flow_control.has_required_receivers();
        shared.has_required_receivers.store(has_required, Ordering::Release);
        if let (Some(counter), Some(count)) =
            (&self.setup.receivers, self.setup.flow_control.receiver_count())
        {
            counter.set_ordered(count as i64);
        }
    }

    /// True when the position of a status message is near the sender's (spec 02 §2.6).
    pub(crate) fn is_near(&self, status: &StatusMessage) -> bool {
        if !status.fits_stream(self.initial_term_id, self.term_length as i32) {
            return false;
        }
        let position = self.status_position(status);
        let sender_position = self.setup.sender_position.get_plain();
        (position - sender_position).abs() <= self.term_length / 2
    }

    /// Notes a status message that was rejected because its position is too far away. Its receiver is trying to join.
    pub(crate) fn on_refused_status(&mut self, status: &StatusMessage, now_ns: i64) {
        if status.flags & flag::SM_EOS == 0 {
            self.joining.on_heard(now_ns);
        }
    }

    fn status_position(&self, status: &StatusMessage) -> i64 {
        compute_position(
            status.consumption_term_id,
            status.consumption_term_offset,
            self.bits,
            self.initial_term_id,
        )
    }

    /// Handles a receiver's request for a SETUP.
    pub(crate) fn trigger_setup(&mut self, group_tag: Option<i64>, source: SocketAddr, now_ns: i64) {
        if self.setup.shared.is_end_of_stream.load(Ordering::Acquire) {
            return;
        }
        match self.respondent {
            Respondent::No => {}
            // A publication that answers a living requester does not turn to another address.
            Respondent::Of(requester) if requester != source && !self.receivers.is_empty() => return,
            Respondent::Unasked | Respondent::Of(_) => self.respondent = Respondent::Of(source),
        }
        self.last_status_ns = now_ns;
        self.joining.on_heard(now_ns);
        self.is_setup_elicited = true;
        self.setup.flow_control.on_trigger_setup(group_tag);
    }

    /// Handles a RSP_SETUP frame; returns the response subscription to tell, unless it was told just before.
    pub(crate) fn on_response_setup(&mut self, now_ns: i64) -> Option<i64> {
        let subscription_id = self.response_subscription?;
        if now_ns < self.next_response_setup_ns {
            return None;
        }
        self.next_response_setup_ns = now_ns + RESPONSE_SETUP_INTERVAL_NS;
        Some(subscription_id)
    }

    /// Handles a status message; returns true for the requester that a response publication has waited for.
    pub(crate) fn on_status(&mut self, status: &StatusMessage, now_ns: i64) -> bool {
        let had_receivers = !self.receivers.is_empty();
        let is_eos = status.flags & flag::SM_EOS != 0;
        self.last_status_ns = now_ns;
        if is_eos {
            self.receivers.remove(&status.receiver_id);
            // When one of several receivers leaves, the stream goes on for the others.
            if self.setup.setup_flags & flag::SETUP_GROUP == 0 {
                self.setup.shared.is_eos_acknowledged.store(true, Ordering::Release);
            }
        } else {
            // A receiver came after the one that left, and has not acknowledged the end yet.
            self.setup.shared.is_eos_acknowledged.store(false, Ordering::Release);
            if self.receivers.len() < MAX_RECEIVERS || self.receivers.contains_key(&status.receiver_id) {
                self.receivers.insert(status.receiver_id, now_ns);
            }
        }
        self.has_heard_receiver = true;
        let receiver = ReceiverStatus {
            receiver_id: status.receiver_id,
            group_tag: status.group_tag,
            position: self.status_position(status),
            window: status.receiver_window,
            is_eos,
        };
        let limit = self.setup.sender_limit.get_plain();
        let new_limit = self.setup.flow_control.on_status(&receiver, limit, now_ns);
        if new_limit != limit {
            self.setup.sender_limit.set_ordered(new_limit);
        }
        self.update_receivers();
        let log = &self.setup.log;
        let shared = &self.setup.shared;
        let is_connected = shared.has_receivers.load(Ordering::Relaxed)
            && shared.has_required_receivers.load(Ordering::Relaxed)
            && !shared.is_end_of_stream.load(Ordering::Acquire)
            && !log.is_publication_revoked();
        if is_connected && !log.is_connected() {
            log.set_connected(true);
        }
        self.respondent != Respondent::No && !had_receivers && !self.receivers.is_empty()
    }

    /// Handles a NAK.
    pub(crate) fn on_nak(&mut self, nak: Resend, system: &SystemCounters, now_ns: i64) {
        self.setup.naks_received.increment();
        match self.setup.retransmit.on_nak(nak, self.term_length as i32, now_ns) {
            NakOutcome::Resend(range) if self.naks.len() < MAX_NAKS => self.naks.push(range),
            NakOutcome::Resend(_) | NakOutcome::Noted => {}
            NakOutcome::Invalid => system.get(SystemCounter::InvalidPackets).increment(),
            NakOutcome::Overflow => system.get(SystemCounter::RetransmitOverflow).increment(),
        }
    }

    /// Retransmits the ranges of the NAKs that were read from the socket.
    pub(crate) fn answer_naks<S: Datagrams>(
        &mut self,
        endpoint: &mut SendEndpoint<S>,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        for index in 0..self.naks.len() {
            self.resend(endpoint, self.naks[index], system, now_ns);
        }
        self.naks.clear();
    }

    /// Cuts the frames from an offset on into datagrams, at most one batch of them; returns how many.
    fn fill_batch(&mut self, term_index: usize, offset: usize, length: usize, most: usize) -> usize {
        let term = self.setup.log.term(term_index);
        let mut done = 0;
        for (count, slice) in self.batch.iter_mut().take(most).enumerate() {
            let remaining = length.saturating_sub(done);
            if remaining < HEADER_LENGTH || offset + done >= self.term_length as usize {
                return count;
            }
            let available = scan_for_availability(term, offset + done, remaining.min(self.mtu));
            if available.bytes <= 0 {
                return count;
            }
            let (offset, length) = (offset + done, available.bytes as usize);
            done += length + available.padding;
            *slice = Slice { offset, length, end: done };
        }
        most
    }

    fn resend<S: Datagrams>(
        &mut self,
        endpoint: &mut SendEndpoint<S>,
        range: Resend,
        system: &SystemCounters,
        now_ns: i64,
    ) {
        let sender_position = self.setup.sender_position.get_plain();
        let position = compute_position(range.term_id, range.term_offset, self.bits, self.initial_term_id);
        let bottom = sender_position - self.term_length / 2 - self.setup.max_message_length;
        // Terms before the first one have no place in the log.
        if position < bottom.max(0) || position >= sender_position {
            return;
        }
        let term_index = index_by_position(position, self.bits);
        let most = endpoint.socket.batch_length().min(MAX_BATCH);
        let mut offset = range.term_offset as usize;
        let mut remaining = range.length as usize;
        let mut resent = 0;
        loop {
            let count = self.fill_batch(term_index, offset, remaining, most);
            if count == 0 {
                break;
            }
            let term = self.setup.log.term(term_index);
            check_place(offset, self.batch[count - 1].end, self.term_length as usize);
            let sent = endpoint.send_log(term, &self.batch[..count], self.only(), system, now_ns);
            let advanced = if sent == 0 { 0 } else { self.batch[sent - 1].end };
            resent += advanced;
            if sent < count {
                break;
            }
            offset += advanced;
            remaining = remaining.saturating_sub(advanced);
        }
        if resent > 0 {
            system.get(SystemCounter::RetransmitsSent).increment();
            system.get(SystemCounter::RetransmittedBytes).add(resent as i64);
        }
    }

    /// Handles a receiver's refusal of the stream; returns true when the receiver was alive.
    pub(crate) fn on_error(&mut self, receiver_id: i64) -> bool {
        self.setup.flow_control.on_error(receiver_id);
        let was_alive = self.receivers.remove(&receiver_id).is_some();
        if was_alive {
            self.update_receivers();
        }
        was_alive
    }
}
