//! A test rig of sender, receiver, and the conductor's part in one publication and its images.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use harrier_protocol::udp::{Setup, flag};
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::append::{ExclusiveAppender, OfferError};
use harrier_ringbuf::counters::{AtomicCounter, CountersManager};
use harrier_ringbuf::logbuffer::{LogBuffers, LogSettings, LogType, METADATA_LENGTH};
use harrier_ringbuf::loss_report::{Loss, LossReport, read};
use harrier_ringbuf::position::{compute_max_message_length, compute_position};
use harrier_ringbuf::{Agent, AtomicBuffer, Now, Rng};

use super::net::{Net, NetSocket};
pub(super) use super::options::Options;
use super::reader::Reader;
use crate::allocation::{Allocation, AllocationMode};
use crate::congestion::{CongestionControl, CubicSettings};
use crate::context::DriverContext;
use crate::flow_control::FlowControl;
use crate::handover::{ConductorCommand, ImageShared, ImageState, PublicationShared};
use crate::handover::{ReceiverCommand, SenderCommand};
use crate::interceptor::Interceptors;
use crate::ipc_publication::{Identity, Step};
use crate::log_files::LogFile;
use crate::loss_detector::{LossDetector, NakDelay};
use crate::network_publication::{NetworkPublication, PublicationCounters};
use crate::params::PublicationParams;
use crate::publication_image::{ImageCounters, ImageIdentity, PublicationImage};
use crate::receiver::Receiver;
use crate::receiver::endpoint::ReceiveEndpoint;
use crate::receiver::image::{ReceiveImage, ReceiveImageSetup};
use crate::receiver::transport::ReceiveTransport;
use crate::retransmit::{RetransmitHandler, RetransmitSettings};
use crate::sender::Sender;
use crate::sender::destinations::Destinations;
use crate::sender::endpoint::SendEndpoint;
use crate::sender::publication::{SendPublication, SendPublicationSetup};
use crate::settings;
use crate::subscribers::{TetherChange, UntetheredTimeouts};
use crate::system_counters::{SystemCounter, SystemCounters};

pub(super) const SESSION: i32 = 7;
pub(super) const STREAM: i32 = 1_001;
pub(super) const TERM_LENGTH: usize = 65_536;
pub(super) const MTU: usize = 1_408;
pub(super) const US: i64 = 1_000;
pub(super) const MS: i64 = 1_000_000;
pub(super) const SECOND: i64 = 1_000_000_000;
/// Endpoint of the publication.
const SEND_ENDPOINT: u64 = 1;
const PUBLICATION: i64 = 50;

pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(super) fn sender_address() -> SocketAddr {
    address(1_000)
}

/// Address of the receive endpoint with this number, from 0.
pub(super) fn receiver_address(number: u16) -> SocketAddr {
    address(2_000 + number)
}

pub(super) struct Rig {
    pub(super) net: Net,
    pub(super) now: Now,
    pub(super) system: SystemCounters,
    pub(super) sender: Sender<Net>,
    pub(super) receiver: Receiver<Net>,
    pub(super) publication: NetworkPublication,
    pub(super) appender: ExclusiveAppender,
    pub(super) readers: Vec<Reader>,
    pub(super) errors: Vec<String>,
    /// Occurrences of all reported errors.
    pub(super) error_count: i32,
    pub(super) refusals: Vec<(i64, i32, String)>,
    pub(super) requests: usize,
    pub(super) released: Vec<i64>,
    pub(super) resolutions: Vec<u64>,
    pub(super) response_setups: Vec<(i64, i32)>,
    pub(super) tether_changes: Vec<TetherChange>,
    pub(super) responses_connected: Vec<i64>,
    pub(super) is_publication_gone: bool,
    pub(super) makes_images: bool,
    pub(super) takes_replies: bool,
    /// True when the rig continues the allocation of image logs once that is due.
    pub(super) allocates: bool,
    options: Options,
    context: DriverContext,
    counters: CountersManager,
    loss_report: LossReport,
    losses: AtomicBuffer,
    to_sender: rtrb::Producer<SenderCommand<Net>>,
    to_receiver: rtrb::Producer<ReceiverCommand<Net>>,
    from_sender: rtrb::Consumer<ConductorCommand<Net>>,
    from_receiver: rtrb::Consumer<ConductorCommand<Net>>,
    next_id: i64,
    next_timer_ns: i64,
}

pub(super) fn log_settings(
    session_id: i32,
    initial_term_id: i32,
    mtu: usize,
    log_type: LogType,
) -> LogSettings {
    LogSettings {
        correlation_id: PUBLICATION,
        initial_term_id,
        session_id,
        stream_id: STREAM,
        mtu_length: mtu,
        term_length: TERM_LENGTH,
        publication_window_length: TERM_LENGTH as i32 / 2,
        receiver_window_length: TERM_LENGTH as i32 / 2,
        log_type,
        start_term_id: initial_term_id,
        ..LogSettings::default()
    }
}

fn log_file(settings: &LogSettings) -> LogFile {
    let length = LogBuffers::<AtomicBuffer>::file_length(TERM_LENGTH, settings.page_size);
    let log = LogBuffers::initialise(AtomicBuffer::heap(length), settings).unwrap();
    LogFile { path: "test.logbuffer".into(), log, length, is_partial: false }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        let mut context = DriverContext::new("/dev/shm/unused");
        context.stream_session_limit = options.session_limit;
        let (metadata, values) = (AtomicBuffer::heap(512 * 256), AtomicBuffer::heap(128 * 256));
        let mut counters = CountersManager::new(metadata, values, 0).unwrap();
        let system = SystemCounters::allocate(&mut counters, &context, 0).unwrap();
        let net = Net::default();
        let (to_sender, sender_commands) = rtrb::RingBuffer::new(64);
        let (to_receiver, receiver_commands) = rtrb::RingBuffer::new(64);
        let (sender_replies, from_sender) = rtrb::RingBuffer::new(options.queue);
        let (receiver_replies, from_receiver) = rtrb::RingBuffer::new(options.queue);
        let (names, loss, multi_gap) = options.interceptors;
        let interceptors = Interceptors::parse(names, loss, "", multi_gap).unwrap();
        let sender = Sender::new(settings::sender(&context), sender_commands, sender_replies, system.clone());
        let receiver = Receiver::new(
            settings::receiver(&context, interceptors),
            receiver_commands,
            receiver_replies,
            system.clone(),
        );
        let now = Now { ns: SECOND, epoch_ms: 1_000 };
        let publication = publication(&options, &context, &mut counters, now.ns);
        let appender = ExclusiveAppender::new(publication.file.log.clone());
        let losses = AtomicBuffer::heap(4_096);
        let mut rig = Self {
            publication,
            net,
            now,
            system,
            sender,
            receiver,
            appender,
            readers: Vec::new(),
            errors: Vec::new(),
            error_count: 0,
            refusals: Vec::new(),
            requests: 0,
            released: Vec::new(),
            resolutions: Vec::new(),
            response_setups: Vec::new(),
            tether_changes: Vec::new(),
            responses_connected: Vec::new(),
            is_publication_gone: false,
            makes_images: true,
            takes_replies: true,
            allocates: true,
            options,
            context,
            counters,
            loss_report: LossReport::new(losses.clone()),
            losses,
            to_sender,
            to_receiver,
            from_sender,
            from_receiver,
            next_id: 100,
            next_timer_ns: 0,
        };
        rig.add_endpoints();
        rig
    }

    fn add_endpoints(&mut self) {
        let count = counter(&mut self.counters, 0);
        let destinations = self.options.is_dynamic.then(|| Destinations::new(true, count));
        let peer = (!self.options.is_dynamic && !self.options.is_response).then(|| receiver_address(0));
        let socket = self.net.socket(sender_address(), peer);
        let mut endpoint =
            SendEndpoint::new(SEND_ENDPOINT, socket, None, self.options.is_named, destinations, Vec::new());
        let mut publication = self.send_publication().with_ttl(self.options.ttl);
        if self.options.is_response {
            (endpoint, publication) = (endpoint.responding(), publication.responding());
        }
        if let Some(subscription_id) = self.options.response_subscription {
            publication = publication.requesting(subscription_id);
        }
        self.tell_sender(SenderCommand::AddEndpoint(Box::new(endpoint)));
        self.tell_sender(SenderCommand::AddPublication(Box::new(publication)));
        for number in 0..self.options.receivers {
            let endpoint_id = 10 + u64::from(number);
            let receiver_id = 900 + i64::from(number);
            let tag = self.options.group_tag;
            let transports = match self.options.is_manual_receiver {
                true => Vec::new(),
                false => vec![Some(Box::new(self.transport(number, -1)))],
            };
            let endpoint = ReceiveEndpoint::new(endpoint_id, transports, receiver_id, tag, Vec::new());
            self.tell_receiver(ReceiverCommand::AddEndpoint(Box::new(endpoint)));
            self.add_interest(number, None);
        }
    }

    fn transport(&self, number: u16, registration_id: i64) -> ReceiveTransport<NetSocket> {
        let socket = self.net.socket(receiver_address(number), None);
        ReceiveTransport::new(registration_id, socket, self.options.control, self.options.multicast)
    }

    /// Adds a destination to the first receive endpoint.
    pub(super) fn add_destination(&mut self, number: u16) {
        let transport = Box::new(self.transport(number, 300 + i64::from(number)));
        self.tell_receiver(ReceiverCommand::AddDestination { endpoint_id: 10, transport });
    }

    /// The sender's half of the publication.
    pub(super) fn send_publication(&self) -> SendPublication {
        let defaults = settings::flow_control(&self.context);
        let flow_control = match self.options.flow_control {
            Some(text) => FlowControl::group(Some(text), &defaults).unwrap(),
            None => FlowControl::unicast(&defaults),
        };
        let is_group = self.options.is_dynamic;
        let counters = &self.publication.counters;
        SendPublication::new(SendPublicationSetup {
            registration_id: PUBLICATION,
            endpoint_id: SEND_ENDPOINT,
            session_id: self.options.session_id,
            stream_id: STREAM,
            log: self.publication.file.log.clone(),
            max_message_length: compute_max_message_length(TERM_LENGTH) as i64,
            connection_timeout_ns: self.context.publication_connection_timeout_ns,
            signals_eos: true,
            setup_flags: if is_group { flag::SETUP_GROUP } else { 0 },
            retransmit: RetransmitHandler::new(RetransmitSettings {
                delay_ns: self.options.retransmit_delay_ns,
                linger_ns: self.context.retransmit_unicast_linger_ns,
                max_resend: 16,
                has_group_semantics: is_group,
                max_length: flow_control.retransmit_window_multiple * 32_768,
            }),
            flow_control,
            sender_position: counters.sender_position.clone(),
            sender_limit: counters.sender_limit.clone(),
            back_pressure_events: counters.back_pressure_events.clone(),
            naks_received: counters.naks_received.clone(),
            receivers: counters.receivers.clone(),
            shared: self.publication.shared.clone(),
        })
    }

    pub(super) fn tell_sender(&mut self, command: SenderCommand<Net>) {
        assert!(self.to_sender.push(command).is_ok());
    }

    pub(super) fn tell_receiver(&mut self, command: ReceiverCommand<Net>) {
        assert!(self.to_receiver.push(command).is_ok());
    }

    pub(super) fn add_interest(&mut self, number: u16, session_id: Option<i32>) {
        let endpoint_id = 10 + u64::from(number);
        self.tell_receiver(ReceiverCommand::AddInterest { endpoint_id, stream_id: STREAM, session_id });
    }

    pub(super) fn remove_interest(&mut self, number: u16) {
        let endpoint_id = 10 + u64::from(number);
        let command = ReceiverCommand::RemoveInterest { endpoint_id, stream_id: STREAM, session_id: None };
        self.tell_receiver(command);
    }

    pub(super) fn count(&self, counter: SystemCounter) -> i64 {
        self.system.get(counter).get()
    }

    pub(super) fn new_counter(&mut self, value: i64) -> AtomicCounter {
        counter(&mut self.counters, value)
    }

    /// System counters without those of cycle times, by id.
    pub(super) fn system_values(&self) -> Vec<(i32, i64)> {
        let is_of_time = |id: &i32| {
            let times = SystemCounter::ConductorMaxCycleTime as i32
                ..=SystemCounter::ReceiverCycleTimeThresholdExceeded as i32;
            times.contains(id)
        };
        let ids = (0..=SystemCounter::FailedExecutorOffers as i32).filter(|id| !is_of_time(id));
        ids.map(|id| (id, self.counters.reader().value(id))).collect()
    }

    /// Positions and counts of the publication.
    pub(super) fn publication_values(&self) -> Vec<i64> {
        self.publication.counters.iter().map(AtomicCounter::get).collect()
    }

    pub(super) fn losses(&self) -> Vec<Loss> {
        read(&self.losses)
    }

    pub(super) fn offer(&mut self, message: &[u8]) -> Result<i64, OfferError> {
        self.appender.append(&[message], None, self.publication.counters.publisher_limit.get())
    }

    /// Offers a message until it is accepted.
    pub(super) fn publish(&mut self, message: &[u8]) {
        for _ in 0..200_000 {
            match self.offer(message) {
                Ok(_) => return,
                Err(OfferError::BackPressured | OfferError::AdminAction) => self.step(10 * US),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("back-pressured for ever at {}", self.appender.position());
    }

    /// Runs one duty cycle of all agents, `step_ns` after the last.
    pub(super) fn step(&mut self, step_ns: i64) {
        self.now.ns += step_ns;
        self.now.epoch_ms = self.now.ns / MS;
        self.conduct();
        self.sender.do_work(&self.now).unwrap();
        self.receiver.do_work(&self.now).unwrap();
    }

    /// Runs duty cycles for a time.
    pub(super) fn run(&mut self, ns: i64, step_ns: i64) {
        let end_ns = self.now.ns + ns;
        while self.now.ns < end_ns {
            self.step(step_ns);
        }
    }

    /// Runs duty cycles until the stream is connected and has a reader.
    pub(super) fn connect(&mut self) {
        for _ in 0..100_000 {
            self.step(10 * US);
            if self.publication.file.log.is_connected() && !self.readers.is_empty() {
                return;
            }
        }
        panic!("not connected: {:?}", self.errors);
    }

    fn conduct(&mut self) {
        self.publication.track();
        for reader in &mut self.readers {
            if !reader.is_removing {
                reader.image.track(&mut self.loss_report, self.now.ns, self.now.epoch_ms);
                if self.allocates
                    && let Some(positions) = reader.image.allocation.next()
                {
                    reader.image.allocation.on_done(Some(positions.end));
                    let usable = reader.image.allocation.usable_position();
                    reader.image.shared.usable_position.store(usable, Ordering::Release);
                }
                reader.poll();
            }
        }
        while self.takes_replies {
            let Ok(command) = self.from_receiver.pop().or_else(|_| self.from_sender.pop()) else { break };
            self.on_command(command);
        }
        if self.now.ns >= self.next_timer_ns {
            self.next_timer_ns = self.now.ns + MS;
            self.on_timer();
        }
    }

    fn on_timer(&mut self) {
        let step = self.publication.on_timer(self.now.ns, 15 * SECOND, &self.system, &mut Vec::new());
        if step == Step::Done {
            self.tell_sender(SenderCommand::RemovePublication { registration_id: PUBLICATION });
        }
        let now_ns = self.now.ns;
        let timeouts = UntetheredTimeouts {
            window_limit_ns: self.context.untethered_window_limit_timeout_ns,
            linger_ns: self.context.untethered_linger_ns(),
            resting_ns: self.context.untethered_resting_timeout_ns,
        };
        let mut gone = Vec::new();
        for reader in self.readers.iter_mut().filter(|reader| !reader.is_removing) {
            let shared = &reader.image.shared;
            if shared.state() == ImageState::Active && reader.image.file.log.is_publication_revoked() {
                shared.advance(ImageState::Draining, now_ns);
            }
            reader.image.check_untethered(&timeouts, now_ns, &mut self.tether_changes);
            if reader.image.is_over(now_ns, self.context.status_message_timeout_ns) {
                reader.image.shared.advance(ImageState::Done, now_ns);
                reader.is_removing = true;
                gone.push((reader.image.identity.correlation_id, reader.endpoint_id));
            }
        }
        for (correlation_id, endpoint_id) in gone {
            self.tell_receiver(ReceiverCommand::RemoveImage { correlation_id });
            let (stream_id, session_id) = (STREAM, self.options.session_id);
            self.tell_receiver(ReceiverCommand::RemoveCoolDown { endpoint_id, stream_id, session_id });
        }
    }

    fn on_command(&mut self, command: ConductorCommand<Net>) {
        match command {
            ConductorCommand::CreateImage { endpoint_id, setup, control, .. } => {
                self.requests += 1;
                if self.makes_images {
                    self.create_image(endpoint_id, &setup, control);
                }
            }
            ConductorCommand::ImageReleased { correlation_id } => {
                self.readers.retain(|reader| reader.image.identity.correlation_id != correlation_id);
                self.released.push(correlation_id);
            }
            ConductorCommand::PublicationReleased { .. } => self.is_publication_gone = true,
            ConductorCommand::PublicationError { receiver_id, code, message, .. } => {
                self.refusals.push((receiver_id, code, message));
            }
            ConductorCommand::ResponseSetup { subscription_id, session_id } => {
                self.response_setups.push((subscription_id, session_id));
            }
            ConductorCommand::ResponseConnected { registration_id } => {
                self.responses_connected.push(registration_id);
            }
            ConductorCommand::Error(note) => {
                self.error_count += note.count;
                self.errors.push(note.text);
            }
            ConductorCommand::ReResolve { endpoint_id, .. } => self.resolutions.push(endpoint_id),
            ConductorCommand::SendEndpointReleased { endpoint } => self.released.push(endpoint.id as i64),
            ConductorCommand::ReceiveEndpointReleased { endpoint } => self.released.push(endpoint.id as i64),
        }
    }

    fn nak_delay(&self, correlation_id: i64) -> NakDelay {
        match (self.options.is_reliable, self.options.backs_off) {
            (true, false) => NakDelay::Static { first_ns: US, retry_ns: 100 * US },
            (true, true) => {
                let rng = Rng::new(correlation_id as u64);
                NakDelay::Group { max_backoff_ns: 10 * MS, group_size: 10, rng }
            }
            (false, _) => NakDelay::Static { first_ns: 0, retry_ns: 0 },
        }
    }

    fn allocation(&self, join_position: i64) -> Allocation {
        match self.options.allocation_length {
            0 => Allocation::whole(),
            length => Allocation::first(
                AllocationMode::Traffic,
                join_position,
                TERM_LENGTH,
                METADATA_LENGTH,
                length,
            ),
        }
    }

    fn create_image(&mut self, endpoint_id: u64, setup: &Setup, control: SocketAddr) {
        self.next_id += 1;
        let correlation_id = self.next_id;
        let file = log_file(&log_settings(
            setup.session_id,
            setup.initial_term_id,
            setup.mtu as usize,
            LogType::Image,
        ));
        let bits = file.log.position_bits_to_shift();
        let join = compute_position(setup.active_term_id, setup.term_offset, bits, setup.initial_term_id);
        let cubic = CubicSettings {
            measures_rtt: self.options.measures_rtt,
            initial_rtt_ns: 100 * US,
            is_tcp_mode: false,
        };
        let max_window = TERM_LENGTH as i32 / 2;
        let congestion =
            CongestionControl::new(self.options.congestion, max_window, setup.mtu, cubic, self.now.ns)
                .unwrap();
        let counters = image_counters(&mut self.counters, join);
        let allocation = self.allocation(join);
        let shared = Arc::new(ImageShared::new());
        let room = (allocation.usable_position() - join).min(i64::from(max_window)) as i32;
        let receive = ReceiveImage::new(
            correlation_id,
            endpoint_id,
            setup.session_id,
            setup.stream_id,
            ReceiveImageSetup {
                log: file.log.clone(),
                is_reliable: self.options.is_reliable,
                max_window,
                initial_window: congestion.initial_window().min(room),
                join_position: join,
                status_timeout_ns: self.context.status_message_timeout_ns,
                liveness_timeout_ns: self.context.image_liveness_timeout_ns,
                rtt_interval_ns: congestion.rtt_interval_ns(),
                high_water_mark: counters.high_water_mark.clone(),
                rebuild_position: counters.rebuild_position.clone(),
                naks_sent: counters.naks_sent.clone(),
                shared: shared.clone(),
                control,
            },
        );
        let delay = self.nak_delay(correlation_id);
        let identity = ImageIdentity {
            correlation_id,
            session_id: setup.session_id,
            stream_id: setup.stream_id,
            channel: self.options.channel.clone(),
            source: control.to_string(),
        };
        let mut image = PublicationImage::new(
            identity,
            file,
            counters,
            shared,
            congestion,
            LossDetector::new(delay),
            join,
        )
        .with_allocation(allocation);
        let position = counter(&mut self.counters, join);
        image.subscribers.add(1, position.clone(), true, true, self.now.ns);
        self.readers.push(Reader::new(image, endpoint_id, position));
        self.tell_receiver(ReceiverCommand::AddImage(Box::new(receive)));
    }
}

/// The conductor's half of the publication.
fn publication(
    options: &Options,
    context: &DriverContext,
    counters: &mut CountersManager,
    now_ns: i64,
) -> NetworkPublication {
    let publication_counters = publication_counters(counters, options.flow_control.is_some());
    let uri = ChannelUri::parse(&options.channel).unwrap();
    let params = PublicationParams::new(&uri, STREAM, context).unwrap();
    let file = log_file(&log_settings(options.session_id, options.initial_term_id, MTU, LogType::Exclusive));
    let identity = Identity {
        registration_id: PUBLICATION,
        client_id: 1,
        session_id: options.session_id,
        stream_id: STREAM,
        channel: options.channel.clone(),
        is_exclusive: true,
    };
    let shared = Arc::new(PublicationShared::default());
    NetworkPublication::new(identity, params, file, publication_counters, shared, now_ns)
}

fn counter(counters: &mut CountersManager, value: i64) -> AtomicCounter {
    let id = counters.allocate(4, &[], "test", 0).unwrap();
    let counter = counters.counter(id).unwrap();
    counter.set_ordered(value);
    counter
}

fn image_counters(counters: &mut CountersManager, join_position: i64) -> ImageCounters {
    ImageCounters {
        cubic: None,
        high_water_mark: counter(counters, join_position),
        rebuild_position: counter(counters, join_position),
        naks_sent: counter(counters, 0),
    }
}

fn publication_counters(counters: &mut CountersManager, has_group: bool) -> PublicationCounters {
    let mut next = || counter(counters, 0);
    PublicationCounters {
        publisher_position: next(),
        publisher_limit: next(),
        sender_position: next(),
        sender_limit: next(),
        back_pressure_events: next(),
        naks_received: next(),
        receivers: has_group.then(next),
    }
}
