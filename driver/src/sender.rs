//! The sender, which sends the data of publications and receives the answers of their receivers (spec 02 §2.4).

pub(crate) mod destinations;
pub(crate) mod endpoint;
mod joining;
pub(crate) mod publication;

use harrier_protocol::udp::Frame;
use harrier_ringbuf::{Agent, AgentError, Datagrams, Now, Transport};

use crate::error_notes::{ErrorNote, RepeatedError};
use crate::handover::{ConductorCommand, SenderCommand};
use crate::system_counters::{CycleTracker, SystemCounter, SystemCounters};
use endpoint::SendEndpoint;
use publication::SendPublication;

/// Parameters of the sender.
#[derive(Debug, Clone)]
pub(crate) struct SenderSettings {
    pub(crate) status_poll_ratio: u32,
    pub(crate) status_poll_timeout_ns: i64,
    pub(crate) cycle_threshold_ns: i64,
    pub(crate) re_resolution_interval_ns: i64,
}

/// Time without a receiver after which an address is resolved again, ns (spec 02 §2.1).
pub(crate) const DESTINATION_TIMEOUT_NS: i64 = 5_000_000_000;

/// Time between two polls of control sockets while no publication waits for a receiver, ns. Receivers answer a few
/// times a second; polling them in every duty cycle would hold up the streams.
const IDLE_POLL_NS: i64 = 20_000;

/// The sender of a driver.
pub struct Sender<T: Transport> {
    settings: SenderSettings,
    commands: rtrb::Consumer<SenderCommand<T>>,
    replies: Replies<T>,
    system: SystemCounters,
    cycle: CycleTracker,
    endpoints: Vec<Box<SendEndpoint<T::Socket>>>,
    #[expect(clippy::vec_box, reason = "they come in boxes, and a removal moves the others")]
    publications: Vec<Box<SendPublication>>,
    next_publication: usize,
    cycles_since_poll: u32,
    next_poll_ns: i64,
    /// Time of the next poll of control sockets that no other rule requires, ns.
    next_idle_poll_ns: i64,
    /// True when the last duty cycle did not poll the control sockets.
    is_poll_owed: bool,
    next_check_ns: i64,
}

/// Commands to the conductor. Commands that must not be lost wait here while the queue is full.
pub(crate) struct Replies<T: Transport> {
    queue: rtrb::Producer<ConductorCommand<T>>,
    waiting: Vec<ConductorCommand<T>>,
    system: SystemCounters,
}

impl<T: Transport> Replies<T> {
    pub(crate) fn new(queue: rtrb::Producer<ConductorCommand<T>>, system: SystemCounters) -> Self {
        Self { queue, waiting: Vec::new(), system }
    }

    /// Sends a command at once, or as soon as the queue has room.
    pub(crate) fn send(&mut self, command: ConductorCommand<T>) {
        if !self.waiting.is_empty() {
            return self.waiting.push(command);
        }
        if let Err(rtrb::PushError::Full(command)) = self.queue.push(command) {
            self.system.get(SystemCounter::FailedConductorOffers).increment();
            self.waiting.push(command);
        }
    }

    /// Sends a command that its sender repeats when it is lost; returns false when it is lost.
    pub(crate) fn try_send(&mut self, command: ConductorCommand<T>) -> bool {
        let is_sent = self.waiting.is_empty() && self.queue.push(command).is_ok();
        if !is_sent {
            self.system.get(SystemCounter::FailedConductorOffers).increment();
        }
        is_sent
    }

    /// Reports an error that may repeat itself, when a report is due.
    #[inline]
    pub(crate) fn report(&mut self, error: &mut RepeatedError, now_ns: i64) {
        if let Some(note) = error.take(now_ns) {
            self.tell(error, note);
        }
    }

    #[cold]
    fn tell(&mut self, error: &mut RepeatedError, note: ErrorNote) {
        if self.waiting.is_empty() && !self.queue.is_full() {
            // This is the only producer of the queue, so the room stays.
            self.try_send(ConductorCommand::Error(note));
        } else {
            self.system.get(SystemCounter::FailedConductorOffers).increment();
            error.put_back(note);
        }
    }

    pub(crate) fn flush(&mut self) {
        while !self.waiting.is_empty() && !self.queue.is_full() {
            let command = self.waiting.remove(0);
            if let Err(rtrb::PushError::Full(command)) = self.queue.push(command) {
                self.waiting.insert(0, command);
            }
        }
    }
}

impl<T: Transport> Sender<T> {
    pub(crate) fn new(
        settings: SenderSettings,
        commands: rtrb::Consumer<SenderCommand<T>>,
        replies: rtrb::Producer<ConductorCommand<T>>,
        system: SystemCounters,
    ) -> Self {
        let cycle = CycleTracker::new(
            system.get(SystemCounter::SenderMaxCycleTime).clone(),
            system.get(SystemCounter::SenderCycleTimeThresholdExceeded).clone(),
            settings.cycle_threshold_ns,
        );
        Self {
            settings,
            commands,
            replies: Replies::new(replies, system.clone()),
            system,
            cycle,
            endpoints: Vec::new(),
            publications: Vec::new(),
            next_publication: 0,
            cycles_since_poll: 0,
            next_poll_ns: 0,
            next_idle_poll_ns: 0,
            is_poll_owed: false,
            next_check_ns: 0,
        }
    }

    fn take_command(&mut self, now: &Now) -> usize {
        let Ok(command) = self.commands.pop() else { return 0 };
        match command {
            SenderCommand::AddEndpoint(mut endpoint) => {
                endpoint.start(now.ns);
                self.endpoints.push(endpoint);
            }
            SenderCommand::RemoveEndpoint { endpoint_id } => {
                if let Some(index) = self.endpoints.iter().position(|endpoint| endpoint.id == endpoint_id) {
                    let mut endpoint = self.endpoints.swap_remove(index);
                    endpoint.socket.retire();
                    if let Some(inbound) = &mut endpoint.inbound {
                        inbound.retire();
                    }
                    self.replies.send(ConductorCommand::SendEndpointReleased { endpoint });
                }
            }
            SenderCommand::AddPublication(mut publication) => {
                publication.start(now.ns);
                self.publications.push(publication);
            }
            SenderCommand::RemovePublication { registration_id } => {
                self.publications.retain(|publication| publication.registration_id != registration_id);
                self.replies.send(ConductorCommand::PublicationReleased { registration_id });
            }
            SenderCommand::AddDestination { endpoint_id, destination } => {
                if let Some(endpoint) = self.endpoint(endpoint_id) {
                    endpoint.add_destination(destination, now.ns);
                }
            }
            SenderCommand::RemoveDestination { endpoint_id, address } => {
                if let Some(endpoint) = self.endpoint(endpoint_id) {
                    endpoint.remove_destination(address);
                }
            }
            SenderCommand::RemoveDestinationById { endpoint_id, registration_id } => {
                if let Some(endpoint) = self.endpoint(endpoint_id) {
                    endpoint.remove_destination_by_id(registration_id);
                }
            }
            SenderCommand::SetDestination { endpoint_id, registration_id, address } => {
                if let Some(endpoint) = self.endpoint(endpoint_id) {
                    endpoint.set_destination(registration_id, address, now.ns);
                }
            }
            SenderCommand::SetRemote { endpoint_id, address } => {
                if let Some(endpoint) = self.endpoint(endpoint_id) {
                    endpoint.set_remote(address);
                }
            }
        }
        1
    }

    fn endpoint(&mut self, id: u64) -> Option<&mut SendEndpoint<T::Socket>> {
        self.endpoints.iter_mut().find(|endpoint| endpoint.id == id).map(Box::as_mut)
    }

    /// Lets every publication send once. Each duty cycle starts with another publication.
    fn send(&mut self, now: &Now) -> (usize, bool) {
        let count = self.publications.len();
        if count == 0 {
            return (0, false);
        }
        let mut sent = 0;
        let mut is_short = false;
        if self.next_publication >= count {
            self.next_publication = 0;
        }
        for step in 0..count {
            let publication = &mut self.publications[(self.next_publication + step) % count];
            let Some(place) = place_of(&self.endpoints, publication) else { continue };
            let endpoint = &mut *self.endpoints[place];
            sent += publication.send(endpoint, &self.system, now.ns);
            is_short |= endpoint.take_short_send();
            self.replies.report(&mut endpoint.error, now.ns);
        }
        self.next_publication += 1;
        (sent, is_short)
    }

    /// True while a publication waits for a receiver before it can send.
    fn awaits_receivers(&self) -> bool {
        self.publications.iter().any(|publication| publication.awaits_receivers())
    }

    fn poll_control(&mut self, now: &Now) -> usize {
        self.cycles_since_poll = 0;
        self.next_poll_ns = now.ns + self.settings.status_poll_timeout_ns;
        self.next_idle_poll_ns = now.ns + IDLE_POLL_NS;
        let mut bytes = 0;
        for index in 0..self.endpoints.len() {
            let Self { endpoints, publications, replies, system, .. } = self;
            let endpoint = &mut *endpoints[index];
            let SendEndpoint { socket, inbound, control, .. } = endpoint;
            let received = inbound.as_mut().unwrap_or(socket).receive(&mut |datagram, source| {
                system.get(SystemCounter::BytesReceived).add(datagram.len() as i64);
                match Frame::decode(datagram) {
                    Ok(frame) => control.on_frame(&frame, source, publications, system, replies, now.ns),
                    Err(_) => system.get(SystemCounter::InvalidPackets).increment(),
                }
            });
            match received {
                Ok(count) => bytes += count,
                Err(error) => endpoint.error.note_transport(&error),
            }
            if endpoint.take_naks() {
                self.resend(index, now.ns);
            }
            let endpoint = &mut self.endpoints[index];
            endpoint.reply_round_trips(&self.system);
            self.replies.report(&mut endpoint.error, now.ns);
        }
        bytes
    }

    /// Retransmits the ranges of the NAKs that were read from an endpoint.
    fn resend(&mut self, index: usize, now_ns: i64) {
        let endpoint = &mut self.endpoints[index];
        for publication in &mut self.publications {
            if publication.endpoint_id == endpoint.id {
                publication.answer_naks(endpoint, &self.system, now_ns);
            }
        }
    }

    /// Requests a new resolution of destinations and unicast endpoints from which nobody answers.
    fn check_endpoints(&mut self, now_ns: i64) {
        self.next_check_ns = now_ns + self.settings.re_resolution_interval_ns;
        for endpoint in &mut self.endpoints {
            let endpoint_id = endpoint.id;
            while let Some(registration_id) = endpoint.next_silent_destination(now_ns) {
                let destination_id = Some(registration_id);
                self.replies.try_send(ConductorCommand::ReResolve { endpoint_id, destination_id });
            }
            if endpoint.is_resolution_due(now_ns) {
                let destination_id = None;
                self.replies.try_send(ConductorCommand::ReResolve { endpoint_id, destination_id });
            }
        }
    }
}

/// Returns the index of a publication's endpoint, which is mostly the same as the last time.
#[inline]
fn place_of<S>(endpoints: &[Box<SendEndpoint<S>>], publication: &mut SendPublication) -> Option<usize> {
    let id = publication.endpoint_id;
    if endpoints.get(publication.endpoint_place).is_none_or(|endpoint| endpoint.id != id) {
        publication.endpoint_place = endpoints.iter().position(|endpoint| endpoint.id == id)?;
    }
    Some(publication.endpoint_place)
}

impl<T: Transport> Agent for Sender<T> {
    fn role_name(&self) -> &str {
        "sender"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.cycle.observe(now.ns);
        self.replies.flush();
        let mut work_count = self.take_command(now);
        let (sent, is_short) = self.send(now);
        work_count += sent;
        self.cycles_since_poll += 1;
        let is_poll_due = is_short
            || now.ns >= self.next_poll_ns
            || if sent == 0 {
                now.ns >= self.next_idle_poll_ns || self.awaits_receivers()
            } else {
                self.cycles_since_poll >= self.settings.status_poll_ratio
            };
        self.is_poll_owed = !is_poll_due;
        if is_poll_due {
            work_count += self.poll_control(now);
        }
        if self.settings.re_resolution_interval_ns > 0 && now.ns > self.next_check_ns {
            self.check_endpoints(now.ns);
        }
        Ok(work_count)
    }

    fn next_deadline(&self) -> Option<i64> {
        let owed_ns = (self.is_poll_owed && !self.endpoints.is_empty()).then_some(self.next_idle_poll_ns);
        self.publications.iter().map(|publication| publication.next_deadline()).chain(owed_ns).min()
    }
}
