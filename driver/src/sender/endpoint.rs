//! The socket of a send channel, to which receivers answer (spec 02 §2.2, §2.6–2.9).

use std::net::SocketAddr;

use harrier_protocol::udp::{ErrorFrame, Frame, Nak, RTTM_LENGTH, Rttm, StatusMessage};
use harrier_protocol::uri::TimestampOffset;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::transport::SendBuffer;
use harrier_ringbuf::{AtomicBuffer, Datagrams, Transport};

use super::destinations::{Destination, Destinations};
use super::publication::SendPublication;
use super::{DESTINATION_TIMEOUT_NS, Replies};
use crate::error_notes::RepeatedError;
use crate::handover::ConductorCommand;
use crate::retransmit::Resend;
use crate::system_counters::{SystemCounter, SystemCounters};
use crate::timestamps::stamp_frame;

/// Most datagrams of one send.
pub(crate) const MAX_BATCH: usize = 64;

/// Most destinations of one batch.
const MAX_TARGETS: usize = 16;

/// Most round trip requests that are answered per poll.
const MAX_ROUND_TRIPS: usize = 16;

/// The socket of a send channel.
pub(crate) struct SendEndpoint<S> {
    pub(crate) id: u64,
    pub(crate) socket: S,
    /// Socket on which receivers are heard, when it is not the sending socket.
    pub(crate) inbound: Option<S>,
    pub(crate) control: Control,
    /// Address that unicast streams go to; `None` when the socket is connected or has destinations.
    remote: Option<SocketAddr>,
    /// The channel as the client wrote it, for errors.
    channel: String,
    /// True when the channel names the endpoint, so that its address may change.
    resolves: bool,
    /// True when each publication has a destination of its own.
    is_response: bool,
    /// Offset at which the time of sending is written into messages.
    stamp: Option<TimestampOffset>,
    last_resolution_ns: i64,
    /// Counters of the channel, which the conductor frees.
    pub(crate) counters: Vec<AtomicCounter>,
    is_short: bool,
    pub(super) error: RepeatedError,
}

/// State of an endpoint that control frames change.
pub(crate) struct Control {
    endpoint_id: u64,
    pub(crate) destinations: Option<Destinations>,
    round_trips: Vec<(Rttm, SocketAddr)>,
    has_naks: bool,
    /// Time of the last status message, ns.
    last_status_ns: i64,
}

/// One datagram of a log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slice {
    pub(crate) offset: usize,
    pub(crate) length: usize,
    /// Bytes of the term from the start of the batch to the next datagram, padding included.
    pub(crate) end: usize,
}

/// Datagrams of one batch that were sent whole: a bit for each, by target.
#[derive(Default)]
struct Completions {
    masks: [u64; MAX_TARGETS],
    bytes: usize,
}

impl Completions {
    /// Returns the number of leading datagrams that were sent whole to each of the first `targets` targets.
    fn whole(&self, targets: usize) -> usize {
        let whole = self.masks[..targets].iter().map(|mask| mask.trailing_ones() as usize);
        whole.min().unwrap_or(MAX_BATCH)
    }
}

impl<S: Datagrams> SendEndpoint<S> {
    /// Creates an endpoint on an open socket. `remote` is `None` when the socket is connected to it.
    pub(crate) fn new(
        id: u64,
        socket: S,
        remote: Option<SocketAddr>,
        resolves: bool,
        destinations: Option<Destinations>,
        counters: Vec<AtomicCounter>,
    ) -> Self {
        Self {
            id,
            socket,
            inbound: None,
            control: Control {
                endpoint_id: id,
                destinations,
                round_trips: Vec::with_capacity(MAX_ROUND_TRIPS),
                has_naks: false,
                last_status_ns: 0,
            },
            remote,
            channel: String::new(),
            resolves,
            is_response: false,
            stamp: None,
            last_resolution_ns: 0,
            counters,
            is_short: false,
            error: RepeatedError::default(),
        }
    }

    /// Sets the channel that errors of the endpoint name.
    pub(crate) fn of_channel(mut self, channel: &str) -> Self {
        channel.clone_into(&mut self.channel);
        self
    }

    /// Makes the endpoint write the time of sending into messages.
    pub(crate) fn stamping(mut self, offset: TimestampOffset) -> Self {
        self.stamp = Some(offset);
        self
    }

    /// Makes the endpoint hear receivers on the socket of a control group.
    pub(crate) fn hearing_on(mut self, socket: S) -> Self {
        self.inbound = Some(socket);
        self
    }

    /// Makes the endpoint serve response publications. Its socket is not connected.
    pub(crate) fn responding(mut self) -> Self {
        self.is_response = true;
        self
    }

    pub(crate) fn add_destination(&mut self, destination: Destination, now_ns: i64) {
        if let Some(destinations) = &mut self.control.destinations {
            destinations.add(destination, now_ns);
        }
    }

    pub(crate) fn remove_destination(&mut self, address: SocketAddr) {
        if let Some(destinations) = &mut self.control.destinations {
            destinations.remove(address);
        }
    }

    pub(crate) fn remove_destination_by_id(&mut self, registration_id: i64) {
        if let Some(destinations) = &mut self.control.destinations {
            destinations.remove_by_id(registration_id);
        }
    }

    /// Sets the new address of the endpoint's name.
    pub(crate) fn set_remote(&mut self, address: SocketAddr) {
        if self.remote.is_some() {
            self.remote = Some(address);
        } else if let Err(error) = self.socket.reconnect(address) {
            self.error.note_connect(&error, address, &self.channel);
        }
    }

    /// Sets the new address of a destination's name.
    pub(crate) fn set_destination(&mut self, registration_id: i64, address: SocketAddr, now_ns: i64) {
        if let Some(destinations) = &mut self.control.destinations {
            destinations.set_address(registration_id, address, now_ns);
        }
    }

    /// Returns a named destination from which nobody has answered for a long time (spec 02 §3.16).
    pub(crate) fn next_silent_destination(&mut self, now_ns: i64) -> Option<i64> {
        self.control.destinations.as_mut()?.next_silent(now_ns)
    }

    /// Starts the endpoint's timers when the sender takes it.
    pub(crate) fn start(&mut self, now_ns: i64) {
        self.control.last_status_ns = now_ns;
    }

    /// True when the name of the endpoint should be resolved again: the endpoint has received no status message for a
    /// long time, whichever publication it would have been for (spec 02 §3.16).
    pub(crate) fn is_resolution_due(&mut self, now_ns: i64) -> bool {
        let since_ns = self.control.last_status_ns.max(self.last_resolution_ns);
        if !self.resolves || now_ns <= since_ns + DESTINATION_TIMEOUT_NS {
            return false;
        }
        self.last_resolution_ns = now_ns;
        true
    }

    pub(crate) fn take_short_send(&mut self) -> bool {
        std::mem::take(&mut self.is_short)
    }

    /// True when NAKs were read since the last call.
    pub(crate) fn take_naks(&mut self) -> bool {
        std::mem::take(&mut self.control.has_naks)
    }

    /// Sends datagrams of a term to `only`, else to all destinations; returns the number of leading datagrams that were
    /// sent whole.
    pub(crate) fn send_log(
        &mut self,
        term: &AtomicBuffer,
        slices: &[Slice],
        only: Option<SocketAddr>,
        system: &SystemCounters,
        now_ns: i64,
    ) -> usize {
        if let Some(offset) = self.stamp
            && let Some(epoch_ns) = self.socket.epoch_ns()
        {
            slices.iter().for_each(|slice| stamp_frame(term, slice.offset, offset, epoch_ns));
        }
        let mut targets = [None; MAX_TARGETS];
        if only.is_some() || self.control.destinations.is_none() {
            targets[0] = only.or(self.remote);
            return self.send_slices(&targets[..1], term, slices, system);
        }
        let count = match &mut self.control.destinations {
            Some(destinations) => {
                destinations.begin_send(now_ns);
                destinations.len()
            }
            None => 0,
        };
        let mut sent = slices.len();
        let mut first = 0;
        while first < count {
            let batch = (count - first).min(MAX_TARGETS);
            if let Some(destinations) = &self.control.destinations {
                for (place, target) in targets[..batch].iter_mut().enumerate() {
                    *target = Some(destinations.address(first + place));
                }
            }
            sent = sent.min(self.send_slices(&targets[..batch], term, slices, system));
            first += batch;
        }
        sent
    }

    /// Sends the same datagrams to several targets, in as few system calls as the socket's queue allows.
    fn send_slices(
        &mut self,
        targets: &[Option<SocketAddr>],
        term: &AtomicBuffer,
        slices: &[Slice],
        system: &SystemCounters,
    ) -> usize {
        let mut sent = Completions::default();
        'submit: for (target, to) in targets.iter().enumerate() {
            for (index, slice) in slices.iter().enumerate() {
                let token = (target * MAX_BATCH + index) as u64;
                let bytes = SendBuffer::Log { buffer: term, offset: slice.offset, length: slice.length };
                if self.socket.submit(token, bytes, *to).is_err() {
                    self.complete(slices, &mut sent);
                    if self.socket.submit(token, bytes, *to).is_err() {
                        break 'submit;
                    }
                }
            }
        }
        self.complete(slices, &mut sent);
        let whole = sent.whole(targets.len()).min(slices.len());
        if whole < slices.len() {
            self.is_short = true;
            system.get(SystemCounter::ShortSends).increment();
        }
        system.get(SystemCounter::BytesSent).add(sent.bytes as i64);
        whole
    }

    fn complete(&mut self, slices: &[Slice], sent: &mut Completions) {
        let error = &mut self.error;
        self.socket.complete(&mut |token, outcome| {
            let (target, index) = (token as usize / MAX_BATCH, token as usize % MAX_BATCH);
            match outcome {
                Ok(length) if slices.get(index).is_some_and(|slice| slice.length == length) => {
                    sent.masks[target] |= 1 << index;
                    sent.bytes += length;
                }
                Ok(_) => {}
                Err(failure) => error.note_transport(&failure),
            }
        });
    }

    /// Sends a control frame to `only`, else to all destinations; returns false when one send was short.
    pub(crate) fn send_frame(
        &mut self,
        frame: &[u8],
        only: Option<SocketAddr>,
        system: &SystemCounters,
        now_ns: i64,
    ) -> bool {
        if only.is_some() {
            return self.send_copy(frame, only, system);
        }
        let count = match &mut self.control.destinations {
            None => 1,
            Some(destinations) => {
                destinations.begin_send(now_ns);
                destinations.len()
            }
        };
        let mut is_whole = true;
        for index in 0..count {
            let to = match &self.control.destinations {
                None => self.remote,
                Some(destinations) => Some(destinations.address(index)),
            };
            is_whole &= self.send_copy(frame, to, system);
        }
        is_whole
    }

    fn send_copy(&mut self, frame: &[u8], to: Option<SocketAddr>, system: &SystemCounters) -> bool {
        if self.socket.submit(0, SendBuffer::Copied(frame), to).is_err() {
            self.is_short = true;
            return false;
        }
        let error = &mut self.error;
        let mut sent_bytes = 0;
        self.socket.complete(&mut |_, outcome| match outcome {
            Ok(sent) => sent_bytes += sent,
            Err(failure) => error.note_transport(&failure),
        });
        system.get(SystemCounter::BytesSent).add(sent_bytes as i64);
        if sent_bytes < frame.len() {
            self.is_short = true;
            system.get(SystemCounter::ShortSends).increment();
        }
        sent_bytes == frame.len()
    }

    /// Answers the round trip requests that were read (spec 02 §1.7).
    pub(crate) fn reply_round_trips(&mut self, system: &SystemCounters) {
        while let Some((request, source)) = self.control.round_trips.pop() {
            let reply = Rttm { flags: 0, reception_delta_ns: 0, ..request };
            let mut buffer = [0; RTTM_LENGTH];
            if let Ok(length) = reply.encode(&mut buffer) {
                let is_open =
                    self.is_response || self.remote.is_some() || self.control.destinations.is_some();
                self.send_copy(&buffer[..length], is_open.then_some(source), system);
            }
        }
    }
}

impl Control {
    /// Handles one frame that a receiver sent.
    pub(crate) fn on_frame<T: Transport>(
        &mut self,
        frame: &Frame<'_>,
        source: SocketAddr,
        publications: &mut [Box<SendPublication>],
        system: &SystemCounters,
        replies: &mut Replies<T>,
        now_ns: i64,
    ) {
        let find = |session_id: i32, stream_id: i32| {
            move |publication: &&mut Box<SendPublication>| {
                publication.session_id == session_id && publication.stream_id == stream_id
            }
        };
        let id = self.endpoint_id;
        let mut candidates = publications.iter_mut().filter(|publication| publication.endpoint_id == id);
        match frame {
            Frame::StatusMessage(status) => {
                let publication = candidates.find(find(status.session_id, status.stream_id));
                let heard = self.on_status(status, source, publication, system, now_ns);
                if let Some(registration_id) = heard {
                    replies.send(ConductorCommand::ResponseConnected { registration_id });
                }
            }
            Frame::ResponseSetup(response) => {
                if let Some(publication) = candidates.find(find(response.session_id, response.stream_id))
                    && let Some(subscription_id) = publication.on_response_setup(now_ns)
                {
                    // A lost command is repeated with the next status message.
                    let session_id = response.response_session_id;
                    replies.try_send(ConductorCommand::ResponseSetup { subscription_id, session_id });
                }
            }
            Frame::Nak(nak) => {
                let Nak { session_id, stream_id, term_id, term_offset, length } = *nak;
                system.get(SystemCounter::NaksReceived).increment();
                if let Some(publication) = candidates.find(find(session_id, stream_id)) {
                    self.has_naks = true;
                    publication.on_nak(Resend { term_id, term_offset, length }, system, now_ns);
                }
            }
            Frame::Error(error) => {
                system.get(SystemCounter::ErrorFramesReceived).increment();
                if let Some(publication) = candidates.find(find(error.session_id, error.stream_id)) {
                    let destination_id = self
                        .destinations
                        .as_ref()
                        .map_or(-1, |destinations| destinations.registration_id_of(source));
                    if publication.on_error(error.receiver_id) {
                        replies.send(publication_error(publication, error, destination_id, source));
                    }
                }
            }
            Frame::Rttm(rttm)
                if rttm.flags & harrier_protocol::udp::flag::RTTM_REPLY != 0
                    && self.round_trips.len() < MAX_ROUND_TRIPS
                    && candidates.any(|publication| {
                        publication.session_id == rttm.session_id && publication.stream_id == rttm.stream_id
                    }) =>
            {
                self.round_trips.push((*rttm, source));
            }
            _ => {}
        }
    }

    /// Handles a status message; returns the response publication whose requester has connected.
    fn on_status(
        &mut self,
        status: &StatusMessage,
        source: SocketAddr,
        mut publication: Option<&mut Box<SendPublication>>,
        system: &SystemCounters,
        now_ns: i64,
    ) -> Option<i64> {
        system.get(SystemCounter::StatusMessagesReceived).increment();
        self.last_status_ns = now_ns;
        if let Some(publication) = &mut publication
            && !status.is_send_setup()
            && !publication.is_near(status)
        {
            publication.on_refused_status(status, now_ns);
            system.get(SystemCounter::StatusMessagesRejected).increment();
            return None;
        }
        if let Some(destinations) = &mut self.destinations {
            destinations.on_status(status.receiver_id, source, now_ns);
        }
        let publication = publication?;
        if status.is_send_setup() {
            publication.trigger_setup(status.group_tag, source, now_ns);
            return None;
        }
        publication.on_status(status, now_ns).then_some(publication.registration_id)
    }
}

fn publication_error<T: Transport>(
    publication: &SendPublication,
    error: &ErrorFrame<'_>,
    destination_id: i64,
    source: SocketAddr,
) -> ConductorCommand<T> {
    ConductorCommand::PublicationError {
        registration_id: publication.registration_id,
        destination_id,
        receiver_id: error.receiver_id,
        group_tag: error.group_tag.unwrap_or(-1),
        source,
        code: error.code,
        message: String::from_utf8_lossy(error.text).into_owned(),
    }
}
