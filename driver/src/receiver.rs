//! The receiver, which writes datagrams to the logs of images and sends positions and gaps to the senders (spec 02 §3).

mod dispatcher;
pub(crate) mod endpoint;
pub(crate) mod image;
pub(crate) mod transport;

use harrier_protocol::udp::Frame;
use harrier_ringbuf::{Agent, AgentError, Datagrams, Now, Transport};

use crate::handover::{ConductorCommand, ReceiverCommand};
use crate::interceptor::Interceptors;
use crate::sender::Replies;
use crate::system_counters::{CycleTracker, SystemCounter, SystemCounters};
use dispatcher::{Refusals, Session};
use endpoint::ReceiveEndpoint;
use image::{ImageSlab, ReceiveImage};
use transport::ReceiveTransport;

/// Time between two requests for a SETUP, and time for which a SETUP is awaited, ns (spec 02 §2.1).
pub(crate) const PENDING_SETUP_TIMEOUT_NS: i64 = 1_000_000_000;

/// Cost of a poll that receives nothing, ns.
const VAIN_POLL_NS: i64 = 500;

/// Parameters of the receiver.
pub(crate) struct ReceiverSettings {
    pub(crate) cycle_threshold_ns: i64,
    pub(crate) re_resolution_interval_ns: i64,
    pub(crate) stream_session_limit: usize,
    pub(crate) interceptors: Interceptors,
}

/// The receiver of a driver.
pub struct Receiver<T: Transport> {
    settings: ReceiverSettings,
    commands: rtrb::Consumer<ReceiverCommand<T>>,
    replies: Replies<T>,
    system: SystemCounters,
    cycle: CycleTracker,
    #[expect(clippy::vec_box, reason = "they come in boxes and go back in them")]
    endpoints: Vec<Box<ReceiveEndpoint<T::Socket>>>,
    images: ImageSlab,
    refusals: Refusals,
    next_check_ns: i64,
    /// Time of the next poll of a socket that the last duty cycle left out, ns.
    owed_poll_ns: Option<i64>,
    now_ns: i64,
}

impl<T: Transport> Receiver<T> {
    pub(crate) fn new(
        settings: ReceiverSettings,
        commands: rtrb::Consumer<ReceiverCommand<T>>,
        replies: rtrb::Producer<ConductorCommand<T>>,
        system: SystemCounters,
    ) -> Self {
        let cycle = CycleTracker::new(
            system.get(SystemCounter::ReceiverMaxCycleTime).clone(),
            system.get(SystemCounter::ReceiverCycleTimeThresholdExceeded).clone(),
            settings.cycle_threshold_ns,
        );
        Self {
            settings,
            commands,
            replies: Replies::new(replies, system.clone()),
            system,
            cycle,
            endpoints: Vec::new(),
            images: ImageSlab::default(),
            refusals: Refusals::default(),
            next_check_ns: 0,
            owed_poll_ns: None,
            now_ns: 0,
        }
    }

    fn take_command(&mut self, now: &Now) -> usize {
        let Ok(command) = self.commands.pop() else { return 0 };
        match command {
            ReceiverCommand::AddEndpoint(mut endpoint) => {
                endpoint.start(now.ns, &self.system);
                self.endpoints.push(endpoint);
            }
            ReceiverCommand::RemoveEndpoint { endpoint_id } => self.remove_endpoint(endpoint_id),
            ReceiverCommand::AddInterest { endpoint_id, stream_id, session_id } => {
                if let Some(endpoint) = find(&mut self.endpoints, endpoint_id) {
                    endpoint.dispatcher.add_interest(stream_id, session_id);
                    endpoint.on_interest(stream_id, session_id, now.ns, &self.system);
                }
            }
            ReceiverCommand::RemoveInterest { endpoint_id, stream_id, session_id } => {
                if let Some(endpoint) = find(&mut self.endpoints, endpoint_id) {
                    let images = &mut self.images;
                    endpoint.dispatcher.remove_interest(stream_id, session_id, |index| {
                        if let Some(image) = images.get_mut(index) {
                            image.deactivate(now.ns);
                        }
                    });
                }
            }
            ReceiverCommand::AddImage(image) => self.add_image(image, now),
            ReceiverCommand::RefuseImage { endpoint_id, stream_id, session_id, until } => {
                if let Some(endpoint) = find(&mut self.endpoints, endpoint_id) {
                    endpoint.dispatcher.refuse(stream_id, session_id, until, now.ns);
                }
            }
            ReceiverCommand::RemoveCoolDown { endpoint_id, stream_id, session_id } => {
                if let Some(endpoint) = find(&mut self.endpoints, endpoint_id) {
                    endpoint.dispatcher.forget(stream_id, session_id);
                }
            }
            ReceiverCommand::RejectImage { correlation_id, reason } => {
                if let Some(image) = self.images.by_id(correlation_id) {
                    image.reject(reason);
                }
            }
            ReceiverCommand::RemoveImage { correlation_id } => self.remove_image(correlation_id, now),
            ReceiverCommand::AddDestination { endpoint_id, transport } => {
                self.add_destination(endpoint_id, transport, now);
            }
            ReceiverCommand::RemoveDestination { endpoint_id, registration_id } => {
                self.remove_destination(endpoint_id, registration_id);
            }
            ReceiverCommand::SetResponseSession { correlation_id, session_id } => {
                if let Some(image) = self.images.by_id(correlation_id) {
                    image.set_response_session(session_id);
                }
            }
            ReceiverCommand::RequestSetup { endpoint_id, stream_id, session_id } => {
                if let Some(endpoint) = find(&mut self.endpoints, endpoint_id) {
                    endpoint.on_interest(stream_id, Some(session_id), now.ns, &self.system);
                }
            }
            ReceiverCommand::SetControl { endpoint_id, registration_id, address } => {
                if let Some(endpoint) = find(&mut self.endpoints, endpoint_id) {
                    endpoint.set_control(registration_id, address);
                }
            }
        }
        1
    }

    fn remove_endpoint(&mut self, endpoint_id: u64) {
        if let Some(index) = self.endpoints.iter().position(|endpoint| endpoint.id == endpoint_id) {
            let mut endpoint = self.endpoints.swap_remove(index);
            endpoint.retire();
            self.replies.send(ConductorCommand::ReceiveEndpointReleased { endpoint });
        }
    }

    fn add_image(&mut self, mut image: Box<ReceiveImage>, now: &Now) {
        let Some(endpoint) = find(&mut self.endpoints, image.endpoint_id) else {
            let correlation_id = image.correlation_id;
            return self.replies.send(ConductorCommand::ImageReleased { correlation_id });
        };
        let (stream_id, session_id) = (image.stream_id, image.session_id);
        self.images.silence_others(image.endpoint_id, stream_id, session_id);
        let transport = endpoint.dispatcher.transport_of(stream_id, session_id);
        image.activate(transport.unwrap_or_default(), now.ns);
        if !endpoint.dispatcher.wants(stream_id, session_id) {
            // The subscription was removed while the image was created.
            image.deactivate(now.ns);
        }
        let index = self.images.insert(image);
        endpoint.dispatcher.set(stream_id, session_id, Session::Active(index));
    }

    fn remove_image(&mut self, correlation_id: i64, now: &Now) {
        if let Some((index, mut image)) = self.images.remove(correlation_id)
            && let Some(endpoint) = find(&mut self.endpoints, image.endpoint_id)
        {
            image.finish(endpoint, &self.system, now.ns);
            let state = if image.has_ended() { None } else { Some(Session::CoolDown) };
            endpoint.dispatcher.leave(image.stream_id, image.session_id, index, state);
        }
        self.replies.send(ConductorCommand::ImageReleased { correlation_id });
    }

    fn add_destination(&mut self, endpoint_id: u64, transport: Box<ReceiveTransport<T::Socket>>, now: &Now) {
        let Some(endpoint) = find(&mut self.endpoints, endpoint_id) else { return };
        let (index, preset) = endpoint.add_destination(transport, now.ns, &self.system);
        let Some(address) = preset else { return };
        self.images.for_each(|_, image| {
            if image.endpoint_id == endpoint_id {
                image.add_connection(index, address, now.ns);
            }
        });
    }

    fn remove_destination(&mut self, endpoint_id: u64, registration_id: i64) {
        let Some(endpoint) = find(&mut self.endpoints, endpoint_id) else { return };
        let Some(index) = endpoint.remove_destination(registration_id) else { return };
        let transports = endpoint.transport_count();
        self.images.for_each(|_, image| {
            if image.endpoint_id == endpoint_id {
                image.remove_connection(index, transports);
            }
        });
    }

    /// Polls the sockets. A quiet socket rests for as long as a poll of all others would take: its packets are seen no
    /// later than if all sockets were polled in every duty cycle, and busy sockets do not wait for quiet ones.
    fn poll_sockets(&mut self, now: &Now) -> usize {
        let mut bytes = 0;
        self.owed_poll_ns = None;
        let sockets: usize = self.endpoints.iter().map(|endpoint| endpoint.transports.len()).sum();
        let rest_ns = (sockets as i64 - 1).max(0) * VAIN_POLL_NS;
        for endpoint in 0..self.endpoints.len() {
            for transport in 0..self.endpoints[endpoint].transports.len() {
                let Some(place) = &self.endpoints[endpoint].transports[transport] else { continue };
                let next_poll_ns = place.next_poll_ns();
                if now.ns < next_poll_ns {
                    let earliest = self.owed_poll_ns.unwrap_or(i64::MAX);
                    self.owed_poll_ns = Some(earliest.min(next_poll_ns));
                    continue;
                }
                let received = self.poll_socket(endpoint, transport, now);
                bytes += received;
                if let Some(place) = &mut self.endpoints[endpoint].transports[transport] {
                    place.note_poll(received, rest_ns, now.ns);
                }
            }
        }
        bytes
    }

    fn poll_socket(&mut self, endpoint: usize, index: usize, now: &Now) -> usize {
        let Self { endpoints, images, replies, system, settings, refusals, .. } = self;
        let endpoint = &mut *endpoints[endpoint];
        let transports = endpoint.transport_count();
        let ReceiveEndpoint { transports: places, dispatcher, outbox, stamper, id, .. } = endpoint;
        let Some(transport) = &mut places[index] else { return 0 };
        let mut dispatch = dispatcher::Dispatch {
            endpoint_id: *id,
            transport: index,
            group: transport.group,
            transports,
            session_limit: settings.stream_session_limit,
            refusals,
            dispatcher,
            outbox,
            images,
            replies,
            system,
            now_ns: now.ns,
        };
        let interceptors = &mut settings.interceptors;
        let mut take = |datagram: &[u8], source| {
            system.get(SystemCounter::BytesReceived).add(datagram.len() as i64);
            if interceptors.drops(datagram, source) {
                return;
            }
            match Frame::decode(datagram) {
                Ok(frame) => dispatch.on_frame(&frame, source),
                Err(_) => system.get(SystemCounter::InvalidPackets).increment(),
            }
        };
        let received = match stamper {
            None => transport.socket.receive(&mut take),
            Some(stamper) => transport.socket.receive_stamped(&mut |datagram, source, arrival| {
                take(stamper.stamp(datagram, arrival), source);
            }),
        };
        let bytes = received.unwrap_or_else(|error| {
            transport.error.note_transport(&error);
            0
        });
        replies.report(&mut transport.error, now.ns);
        endpoint.end_poll(index, system, now.ns);
        bytes
    }

    fn service_images(&mut self, now: &Now) -> usize {
        let Self { endpoints, images, system, .. } = self;
        let mut work_count = 0;
        images.for_each(|_, image| {
            let id = image.endpoint_id;
            if endpoints.get(image.endpoint_place).is_none_or(|endpoint| endpoint.id != id) {
                let Some(place) = endpoints.iter().position(|endpoint| endpoint.id == id) else { return };
                image.endpoint_place = place;
            }
            work_count += image.service(&mut endpoints[image.endpoint_place], system, now.ns);
        });
        work_count
    }

    fn check_endpoints(&mut self, now_ns: i64) {
        self.next_check_ns = now_ns + self.settings.re_resolution_interval_ns;
        for endpoint in &mut self.endpoints {
            if endpoint.transports.iter_mut().flatten().any(|one| one.is_resolution_due(now_ns)) {
                let (endpoint_id, destination_id) = (endpoint.id, None);
                self.replies.try_send(ConductorCommand::ReResolve { endpoint_id, destination_id });
            }
        }
    }
}

fn find<S: Datagrams>(endpoints: &mut [Box<ReceiveEndpoint<S>>], id: u64) -> Option<&mut ReceiveEndpoint<S>> {
    endpoints.iter_mut().find(|endpoint| endpoint.id == id).map(Box::as_mut)
}

impl<T: Transport> Agent for Receiver<T> {
    fn role_name(&self) -> &str {
        "receiver"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.now_ns = now.ns;
        self.cycle.observe(now.ns);
        self.replies.flush();
        let mut work_count = self.take_command(now);
        work_count += self.poll_sockets(now);
        work_count += self.service_images(now);
        for endpoint in &mut self.endpoints {
            endpoint.check_pending_setups(now.ns, &self.system);
        }
        self.refusals.report(&mut self.replies, now.ns);
        if self.settings.re_resolution_interval_ns > 0 && now.ns > self.next_check_ns {
            self.check_endpoints(now.ns);
        }
        Ok(work_count)
    }

    fn next_deadline(&self) -> Option<i64> {
        let images = self.images.next_deadline(self.now_ns);
        let setups = self.endpoints.iter().filter_map(|endpoint| endpoint.next_deadline()).min();
        [images, setups, self.owed_poll_ns].into_iter().flatten().min()
    }
}
