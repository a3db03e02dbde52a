//! The client's conductor: commands to the driver, events from it, liveness of both (spec 01 §4, §5).

use harrier_protocol::ErrorCode;
use harrier_protocol::command::{Command, REMOVE_FLAG_REVOKE, Request};
use harrier_protocol::counter_types::type_id::CLIENT_HEARTBEAT;
use harrier_protocol::counter_types::{MAX_KEY_LENGTH, MAX_LABEL_LENGTH};
use harrier_protocol::event::{Event, PublicationReady};
use harrier_protocol::uri::MAX_URI_LENGTH;
use harrier_ringbuf::append::{ConcurrentAppender, ExclusiveAppender};
use harrier_ringbuf::broadcast::Receiver;
use harrier_ringbuf::counters::{AtomicCounter, CountersReader};
use harrier_ringbuf::image_reader::ImageReader;
use harrier_ringbuf::logbuffer::LogBuffers;
use harrier_ringbuf::many_to_one::ManyToOneRing;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, IdMap, Memory, MemoryError, Now, Region};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::image::ImageFacts;
use crate::publication::PublicationState;
use crate::release::{Release, ReleaseQueue};
use crate::subscription::ImageChange;
use crate::{
    ClientError, ClientEvent, Context, Counter, ExclusivePublication, Image, Publication,
    PublicationErrorFrame, Subscription, connect,
};

/// Longest command: a channel of 4095 bytes and its fixed fields.
const COMMAND_CAPACITY: usize = 4_608;

/// Pages of memory are touched in steps of this, bytes.
const PAGE_BYTES: usize = 4_096;

/// Longest client name, characters (spec 01 §5.1).
const MAX_NAME_LENGTH: usize = 100;

/// Maps a log file; the one thing that a connected client asks of its [`Memory`].
type MapLog = Box<dyn Fn(&Path) -> Result<AtomicBuffer, MemoryError> + Send>;

/// A client of one media driver; see the [crate documentation](crate).
pub struct Aeron {
    to_clients: Receiver,
    core: Core,
}

struct Core {
    map: MapLog,
    context: Context,
    to_driver: ManyToOneRing,
    counters: CountersReader,
    client_id: i64,
    inter_service_timeout_ns: i64,
    scratch: Box<[u8]>,
    pending: IdMap<i64, Pending>,
    ready: IdMap<i64, Ready>,
    publications: IdMap<i64, PublicationEntry>,
    subscriptions: IdMap<i64, SubscriptionEntry>,
    owned_counters: IdMap<i64, Arc<AtomicBool>>,
    events: VecDeque<ClientEvent>,
    releases: Arc<ReleaseQueue>,
    unsent: VecDeque<Release>,
    heartbeat: Option<(AtomicCounter, i32)>,
    held_back: usize,
    now: Now,
    next_keepalive_ns: i64,
    next_check_ns: i64,
    closed: bool,
}

struct Pending {
    kind: PendingKind,
    request: String,
    deadline_ns: i64,
}

enum PendingKind {
    Publication { channel: String, exclusive: bool },
    Subscription { channel: String, stream_id: i32 },
    Counter { is_static: bool },
    Command,
    Removal,
}

enum Ready {
    Publication(Publication),
    Exclusive(ExclusivePublication),
    Subscription(Subscription),
    Counter(Counter),
    Done,
    Failed(ClientError),
}

struct PublicationEntry {
    original_registration_id: i64,
    closed: Arc<AtomicBool>,
}

struct SubscriptionEntry {
    changes: rtrb::Producer<ImageChange>,
    waiting: VecDeque<ImageChange>,
    images: Vec<(i64, i32, Arc<AtomicBool>)>,
    closed: Arc<AtomicBool>,
}

impl Aeron {
    /// Opens the driver's CnC file.
    ///
    /// # Errors
    /// [`ClientError::NotReady`] while no live driver is there: call again until your own deadline.
    pub fn connect<M: Memory>(context: Context, memory: M, now: &Now) -> Result<Self, ClientError> {
        if context.client_name.chars().count() > MAX_NAME_LENGTH {
            return Err(ClientError::InvalidArgument {
                argument: "client name",
                reason: format!("longer than {MAX_NAME_LENGTH} characters"),
            });
        }
        let cnc = connect::open(&context, &memory, now)?;
        let client_id = cnc.to_driver.next_correlation_id();
        let inter_service_timeout_ns = if context.inter_service_timeout_ns > 0 {
            context.inter_service_timeout_ns
        } else {
            cnc.client_liveness_timeout_ns
        };
        let core = Core {
            map: Box::new(move |path| memory.map(path, MapMode::ReadWrite)),
            to_driver: cnc.to_driver,
            counters: cnc.counters,
            client_id,
            inter_service_timeout_ns,
            scratch: vec![0; COMMAND_CAPACITY].into_boxed_slice(),
            pending: IdMap::default(),
            ready: IdMap::default(),
            publications: IdMap::default(),
            subscriptions: IdMap::default(),
            owned_counters: IdMap::default(),
            events: VecDeque::with_capacity(64),
            releases: Arc::default(),
            unsent: VecDeque::new(),
            heartbeat: None,
            held_back: 0,
            now: *now,
            next_keepalive_ns: now.ns,
            next_check_ns: now.ns + context.idle_sleep_ns,
            closed: false,
            context,
        };
        Ok(Self { to_clients: cnc.to_clients, core })
    }

    /// One duty cycle: events, removals, heartbeat and timeouts. Returns the work done.
    ///
    /// # Errors
    /// When the driver or this client was found dead; all resources are then closed and every later call fails.
    pub fn do_work(&mut self, now: &Now) -> Result<usize, ClientError> {
        let core = &mut self.core;
        if core.closed {
            return Err(ClientError::Closed);
        }
        let elapsed_ns = now.ns - core.now.ns;
        if elapsed_ns > core.inter_service_timeout_ns {
            core.terminate();
            return Err(ClientError::ServiceTimeout {
                elapsed_ns,
                timeout_ns: core.inter_service_timeout_ns,
            });
        }
        core.now = *now;
        let mut work_count = 0;
        let mut failure = None;
        for _ in 0..core.context.event_limit {
            match self.to_clients.receive(&mut |type_id, body: &[u8]| {
                if let Err(error) = core.on_event(type_id, body) {
                    failure = Some(error);
                }
            }) {
                Ok(0) => break,
                Ok(received) => work_count += received,
                Err(_lapped) => failure = Some(ClientError::Lapped),
            }
            if failure.is_some() {
                break;
            }
        }
        if let Some(error) = failure {
            core.terminate();
            return Err(error);
        }
        work_count += core.remove_released();
        if now.ns > core.next_check_ns {
            core.next_check_ns = now.ns + core.context.idle_sleep_ns;
            if let Err(error) = core.check_timeouts() {
                core.terminate();
                return Err(error);
            }
        }
        Ok(work_count)
    }

    /// Monotonic time, in ns, at which `do_work` next has something to do without an event.
    pub fn next_deadline(&self) -> i64 {
        self.core.next_keepalive_ns.min(self.core.earliest_pending()).max(self.core.next_check_ns) + 1
    }

    /// Id that this client has with its driver.
    pub fn client_id(&self) -> i64 {
        self.core.client_id
    }

    /// A number that no other client of the driver gets.
    pub fn next_correlation_id(&self) -> i64 {
        self.core.to_driver.next_correlation_id()
    }

    /// The driver's counters.
    pub fn counters(&self) -> &CountersReader {
        &self.core.counters
    }

    /// The settings it was connected with.
    pub fn context(&self) -> &Context {
        &self.core.context
    }

    /// True once nothing can be done with this client any more.
    pub fn is_closed(&self) -> bool {
        self.core.closed
    }

    /// What happened since the last call, oldest first.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.core.events.pop_front()
    }

    /// Adds a publication that is shared with others on the same channel and stream. Fetch it with
    /// [`publication`](Self::publication).
    ///
    /// # Errors
    /// [`ClientError::CommandQueueFull`] or a channel that cannot be sent; the driver's refusal comes with the fetch.
    pub fn add_publication(&mut self, channel: &str, stream_id: i32) -> Result<i64, ClientError> {
        self.core.add_publication(channel, stream_id, false)
    }

    /// Adds a publication with a session of its own. Fetch it with
    /// [`exclusive_publication`](Self::exclusive_publication).
    ///
    /// # Errors
    /// As [`add_publication`](Self::add_publication).
    pub fn add_exclusive_publication(&mut self, channel: &str, stream_id: i32) -> Result<i64, ClientError> {
        self.core.add_publication(channel, stream_id, true)
    }

    /// Adds a subscription. Fetch it with [`subscription`](Self::subscription).
    ///
    /// # Errors
    /// As [`add_publication`](Self::add_publication).
    pub fn add_subscription(&mut self, channel: &str, stream_id: i32) -> Result<i64, ClientError> {
        let core = &mut self.core;
        core.check_channel(channel)?;
        let id = core.to_driver.next_correlation_id();
        core.send(id, Request::AddSubscription { registration_correlation_id: -1, stream_id, channel })?;
        let kind = PendingKind::Subscription { channel: channel.to_owned(), stream_id };
        core.await_answer(id, kind, format!("add subscription {channel} stream {stream_id}"));
        Ok(id)
    }

    /// Adds a counter. Fetch it with [`counter`](Self::counter).
    ///
    /// # Errors
    /// As [`add_publication`](Self::add_publication); keys over 112 and labels over 380 bytes are refused.
    pub fn add_counter(&mut self, type_id: i32, key: &[u8], label: &str) -> Result<i64, ClientError> {
        let core = &mut self.core;
        core.check_counter(key, label)?;
        let id = core.to_driver.next_correlation_id();
        core.send(id, Request::AddCounter { type_id, key, label })?;
        core.await_answer(id, PendingKind::Counter { is_static: false }, format!("add counter `{label}`"));
        Ok(id)
    }

    /// Adds a counter that outlives the client, or finds the one with this type and registration id.
    ///
    /// # Errors
    /// As [`add_counter`](Self::add_counter).
    pub fn add_static_counter(
        &mut self,
        type_id: i32,
        key: &[u8],
        label: &str,
        registration_id: i64,
    ) -> Result<i64, ClientError> {
        let core = &mut self.core;
        core.check_counter(key, label)?;
        let id = core.to_driver.next_correlation_id();
        core.send(id, Request::AddStaticCounter { registration_id, type_id, key, label })?;
        core.await_answer(
            id,
            PendingKind::Counter { is_static: true },
            format!("add static counter `{label}`"),
        );
        Ok(id)
    }

    /// The publication of an add, once the driver has answered; `None` until then. Handed out once.
    ///
    /// # Errors
    /// The driver's refusal, its silence, or an id that is not pending here.
    pub fn publication(&mut self, registration_id: i64) -> Result<Option<Publication>, ClientError> {
        match self.core.take_ready(registration_id)? {
            Some(Ready::Publication(publication)) => Ok(Some(publication)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(registration_id, other)),
        }
    }

    /// The exclusive publication of an add; as [`publication`](Self::publication).
    ///
    /// # Errors
    /// As [`publication`](Self::publication).
    pub fn exclusive_publication(
        &mut self,
        registration_id: i64,
    ) -> Result<Option<ExclusivePublication>, ClientError> {
        match self.core.take_ready(registration_id)? {
            Some(Ready::Exclusive(publication)) => Ok(Some(publication)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(registration_id, other)),
        }
    }

    /// The subscription of an add; as [`publication`](Self::publication).
    ///
    /// # Errors
    /// As [`publication`](Self::publication).
    pub fn subscription(&mut self, registration_id: i64) -> Result<Option<Subscription>, ClientError> {
        match self.core.take_ready(registration_id)? {
            Some(Ready::Subscription(subscription)) => Ok(Some(subscription)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(registration_id, other)),
        }
    }

    /// The counter of an add; as [`publication`](Self::publication).
    ///
    /// # Errors
    /// As [`publication`](Self::publication).
    pub fn counter(&mut self, registration_id: i64) -> Result<Option<Counter>, ClientError> {
        match self.core.take_ready(registration_id)? {
            Some(Ready::Counter(counter)) => Ok(Some(counter)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(registration_id, other)),
        }
    }

    /// Adds a destination to a publication in manual control mode, by its original registration id. Ask
    /// [`command_done`](Self::command_done) for the answer.
    ///
    /// # Errors
    /// As [`add_publication`](Self::add_publication).
    pub fn add_destination(&mut self, registration_id: i64, channel: &str) -> Result<i64, ClientError> {
        self.core.destination(
            "add destination",
            channel,
            registration_id,
            Request::AddDestination { registration_id, channel },
        )
    }

    /// Removes a destination from a publication.
    ///
    /// # Errors
    /// As [`add_destination`](Self::add_destination).
    pub fn remove_destination(&mut self, registration_id: i64, channel: &str) -> Result<i64, ClientError> {
        self.core.destination(
            "remove destination",
            channel,
            registration_id,
            Request::RemoveDestination { registration_id, channel },
        )
    }

    /// Adds a source to a multi-destination subscription.
    ///
    /// # Errors
    /// As [`add_destination`](Self::add_destination).
    pub fn add_rcv_destination(&mut self, registration_id: i64, channel: &str) -> Result<i64, ClientError> {
        self.core.destination(
            "add receive destination",
            channel,
            registration_id,
            Request::AddRcvDestination { registration_id, channel },
        )
    }

    /// Removes a source from a multi-destination subscription.
    ///
    /// # Errors
    /// As [`add_destination`](Self::add_destination).
    pub fn remove_rcv_destination(
        &mut self,
        registration_id: i64,
        channel: &str,
    ) -> Result<i64, ClientError> {
        self.core.destination(
            "remove receive destination",
            channel,
            registration_id,
            Request::RemoveRcvDestination { registration_id, channel },
        )
    }

    /// Asks the driver to refuse an image from now on, telling its sender why (at most 1023 bytes).
    ///
    /// # Errors
    /// As [`add_destination`](Self::add_destination).
    pub fn reject_image(
        &mut self,
        correlation_id: i64,
        position: i64,
        reason: &str,
    ) -> Result<i64, ClientError> {
        let core = &mut self.core;
        let id = core.to_driver.next_correlation_id();
        core.send(id, Request::RejectImage { image_correlation_id: correlation_id, position, reason })?;
        core.await_answer(id, PendingKind::Command, format!("reject image {correlation_id}"));
        Ok(id)
    }

    /// True once the driver has carried out a command that brings no resource.
    ///
    /// # Errors
    /// The driver's refusal, its silence, or an id that is not pending here.
    pub fn command_done(&mut self, correlation_id: i64) -> Result<bool, ClientError> {
        match self.core.take_ready(correlation_id)? {
            Some(Ready::Done) => Ok(true),
            None => Ok(false),
            Some(other) => Err(self.core.put_back(correlation_id, other)),
        }
    }

    /// Closes all resources and leaves the driver; dropping does the same.
    pub fn close(&mut self) {
        if !self.core.closed {
            let _left_to_timeout = self.core.send(-1, Request::ClientClose);
            self.core.terminate();
        }
    }
}

impl Drop for Aeron {
    fn drop(&mut self) {
        self.close();
    }
}

impl Core {
    fn check_channel(&self, channel: &str) -> Result<(), ClientError> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        if channel.len() > MAX_URI_LENGTH {
            return Err(ClientError::InvalidArgument {
                argument: "channel",
                reason: format!("{} bytes, at most {MAX_URI_LENGTH} are allowed", channel.len()),
            });
        }
        Ok(())
    }

    fn check_counter(&self, key: &[u8], label: &str) -> Result<(), ClientError> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        let invalid = |argument, length, most| ClientError::InvalidArgument {
            argument,
            reason: format!("{length} bytes, at most {most} are allowed"),
        };
        if key.len() > MAX_KEY_LENGTH {
            return Err(invalid("counter key", key.len(), MAX_KEY_LENGTH));
        }
        if label.len() > MAX_LABEL_LENGTH {
            return Err(invalid("counter label", label.len(), MAX_LABEL_LENGTH));
        }
        Ok(())
    }

    fn send(&mut self, correlation_id: i64, request: Request<'_>) -> Result<(), ClientError> {
        let command = Command { client_id: self.client_id, correlation_id, request };
        let length = command.encode(&mut self.scratch).map_err(|error| ClientError::InvalidArgument {
            argument: "command",
            reason: error.to_string(),
        })?;
        self.to_driver
            .write(command.type_id(), &self.scratch[..length])
            .map_err(|_full| ClientError::CommandQueueFull)
    }

    fn await_answer(&mut self, id: i64, kind: PendingKind, request: String) {
        let deadline_ns = self.now.ns + self.context.driver_timeout_ms * 1_000_000;
        self.next_check_ns = self.next_check_ns.min(deadline_ns);
        self.pending.insert(id, Pending { kind, request, deadline_ns });
    }

    fn earliest_pending(&self) -> i64 {
        self.pending.values().map(|pending| pending.deadline_ns).min().unwrap_or(i64::MAX)
    }

    fn add_publication(
        &mut self,
        channel: &str,
        stream_id: i32,
        exclusive: bool,
    ) -> Result<i64, ClientError> {
        self.check_channel(channel)?;
        let correlation_id = self.to_driver.next_correlation_id();
        let request = if exclusive {
            Request::AddExclusivePublication { stream_id, channel }
        } else {
            Request::AddPublication { stream_id, channel }
        };
        self.send(correlation_id, request)?;
        let kind = PendingKind::Publication { channel: channel.to_owned(), exclusive };
        self.await_answer(correlation_id, kind, format!("add publication {channel} stream {stream_id}"));
        Ok(correlation_id)
    }

    fn destination(
        &mut self,
        what: &str,
        channel: &str,
        registration_id: i64,
        request: Request<'_>,
    ) -> Result<i64, ClientError> {
        self.check_channel(channel)?;
        let correlation_id = self.to_driver.next_correlation_id();
        self.send(correlation_id, request)?;
        self.await_answer(
            correlation_id,
            PendingKind::Command,
            format!("{what} {channel} of {registration_id}"),
        );
        Ok(correlation_id)
    }

    fn take_ready(&mut self, id: i64) -> Result<Option<Ready>, ClientError> {
        match self.ready.remove(&id) {
            Some(Ready::Failed(error)) => Err(error),
            Some(ready) => Ok(Some(ready)),
            None if self.closed => Err(ClientError::Closed),
            None if self.pending.contains_key(&id) => Ok(None),
            None => Err(ClientError::UnknownRegistration(id)),
        }
    }

    fn put_back(&mut self, id: i64, ready: Ready) -> ClientError {
        self.ready.insert(id, ready);
        ClientError::InvalidArgument {
            argument: "registration id",
            reason: format!("{id} belongs to another kind of resource"),
        }
    }

    fn on_event(&mut self, type_id: i32, body: &[u8]) -> Result<(), ClientError> {
        // An event of a newer driver, or one meant for other clients, is none of our business.
        let Ok(event) = Event::decode(type_id, body) else { return Ok(()) };
        match event {
            Event::Error { correlation_id, error_code, message } => {
                self.on_error(correlation_id, error_code, message)
            }
            Event::AvailableImage { .. } => self.on_available_image(&event),
            Event::UnavailableImage { correlation_id, subscription_registration_id, .. } => {
                self.on_unavailable_image(correlation_id, subscription_registration_id);
            }
            Event::PublicationReady(ready) | Event::ExclusivePublicationReady(ready) => {
                self.resolve(ready.correlation_id, |core, kind, request| {
                    core.on_publication_ready(&ready, kind, request)
                });
            }
            Event::SubscriptionReady { correlation_id, channel_status_counter_id } => {
                self.resolve(correlation_id, |core, kind, _| {
                    core.on_subscription_ready(correlation_id, channel_status_counter_id, kind)
                });
            }
            Event::OperationSuccess { correlation_id } => {
                self.resolve(correlation_id, |_, _, _| Some(Ready::Done));
            }
            Event::CounterReady { correlation_id, counter_id } => {
                self.events
                    .push_back(ClientEvent::AvailableCounter { registration_id: correlation_id, counter_id });
                self.resolve(correlation_id, |core, kind, _| {
                    core.on_counter_ready(correlation_id, counter_id, &kind)
                });
            }
            Event::StaticCounter { correlation_id, counter_id } => {
                self.resolve(correlation_id, |core, kind, _| {
                    core.on_counter_ready(correlation_id, counter_id, &kind)
                });
            }
            Event::UnavailableCounter { registration_id, counter_id } => {
                if let Some(closed) = self.owned_counters.remove(&registration_id) {
                    closed.store(true, Ordering::Release);
                }
                self.events.push_back(ClientEvent::UnavailableCounter { registration_id, counter_id });
            }
            Event::ClientTimeout { client_id } if client_id == self.client_id => {
                return Err(ClientError::ClientTimeout { timeout_ns: self.inter_service_timeout_ns });
            }
            Event::PublicationError {
                registration_id,
                session_id,
                stream_id,
                receiver_id,
                group_tag,
                error_code,
                message,
                ..
            } => self.on_publication_error(PublicationErrorFrame {
                registration_id,
                session_id,
                stream_id,
                receiver_id,
                group_tag,
                error_code,
                message: message.to_owned(),
            }),
            Event::ClientTimeout { .. } | Event::NextAvailableSessionId { .. } => {}
        }
        Ok(())
    }

    fn resolve(&mut self, id: i64, make: impl FnOnce(&mut Self, PendingKind, String) -> Option<Ready>) {
        let Some(pending) = self.pending.remove(&id) else { return };
        if matches!(pending.kind, PendingKind::Removal) {
            return;
        }
        if let Some(ready) = make(self, pending.kind, pending.request) {
            self.ready.insert(id, ready);
        }
    }

    fn on_error(&mut self, correlation_id: i64, code: i32, message: &str) {
        if code == ErrorCode::ChannelEndpointError.value() {
            let counter_id = correlation_id as i32;
            self.events.push_back(ClientEvent::ChannelError { counter_id, message: message.to_owned() });
            return;
        }
        let message = message.to_owned();
        self.resolve(correlation_id, |_, _, request| {
            Some(Ready::Failed(ClientError::Registration { request, code, message }))
        });
    }

    fn on_publication_ready(
        &mut self,
        answer: &PublicationReady<'_>,
        kind: PendingKind,
        request: String,
    ) -> Option<Ready> {
        let PublicationReady {
            correlation_id,
            registration_id,
            session_id,
            stream_id,
            publisher_limit_counter_id: limit_counter_id,
            channel_status_counter_id: channel_status_id,
            log_file_name,
        } = *answer;
        let PendingKind::Publication { channel, exclusive } = kind else { return None };
        let log = match self.map_log(log_file_name) {
            Ok(log) => log,
            Err(error) => return Some(Ready::Failed(error)),
        };
        let limit = match self.counters.counter(limit_counter_id) {
            Ok(limit) => limit,
            Err(error) => return Some(Ready::Failed(corrupt_answer(request, &error.to_string()))),
        };
        let closed = Arc::new(AtomicBool::new(false));
        let state = PublicationState {
            channel,
            stream_id,
            session_id,
            registration_id: correlation_id,
            original_registration_id: registration_id,
            limit_counter_id,
            channel_status_id,
            log: log.clone(),
            limit,
            closed: closed.clone(),
            revoke_on_close: AtomicBool::new(false),
            releases: self.releases.clone(),
        };
        self.publications
            .insert(correlation_id, PublicationEntry { original_registration_id: registration_id, closed });
        Some(if exclusive {
            Ready::Exclusive(ExclusivePublication::new(ExclusiveAppender::new(log), state))
        } else {
            Ready::Publication(Publication::new(ConcurrentAppender::new(log), state))
        })
    }

    fn on_subscription_ready(&mut self, id: i64, channel_status_id: i32, kind: PendingKind) -> Option<Ready> {
        let PendingKind::Subscription { channel, stream_id } = kind else { return None };
        let (producer, consumer) = rtrb::RingBuffer::new(self.context.image_change_capacity);
        let closed = Arc::new(AtomicBool::new(false));
        self.subscriptions.insert(
            id,
            SubscriptionEntry {
                changes: producer,
                waiting: VecDeque::new(),
                images: Vec::new(),
                closed: closed.clone(),
            },
        );
        Some(Ready::Subscription(Subscription {
            channel,
            stream_id,
            registration_id: id,
            channel_status_id,
            images: Vec::new(),
            next_image: 0,
            changes: consumer,
            closed,
            releases: self.releases.clone(),
        }))
    }

    fn on_counter_ready(&mut self, id: i64, counter_id: i32, kind: &PendingKind) -> Option<Ready> {
        let PendingKind::Counter { is_static } = *kind else { return None };
        let value = match self.counters.counter(counter_id) {
            Ok(value) => value,
            Err(error) => {
                return Some(Ready::Failed(corrupt_answer(format!("add counter {id}"), &error.to_string())));
            }
        };
        let closed = Arc::new(AtomicBool::new(false));
        self.owned_counters.insert(id, closed.clone());
        Some(Ready::Counter(Counter::new(value, id, counter_id, is_static, closed, self.releases.clone())))
    }

    fn on_available_image(&mut self, event: &Event<'_>) {
        let Event::AvailableImage {
            correlation_id,
            session_id,
            stream_id,
            subscription_registration_id,
            subscriber_position_counter_id: subscriber_position_id,
            log_file_name,
            source_identity,
        } = *event
        else {
            return;
        };
        if !self.subscriptions.contains_key(&subscription_registration_id) {
            return;
        }
        // A log that cannot be mapped belongs to an image that is gone again; the driver will say so.
        let Ok(log) = self.map_log(log_file_name) else { return };
        let Ok(position) = self.counters.counter(subscriber_position_id) else { return };
        let closed = Arc::new(AtomicBool::new(false));
        let facts = ImageFacts {
            correlation_id,
            session_id,
            stream_id,
            subscription_registration_id,
            subscriber_position_id,
            source_identity: source_identity.to_owned(),
        };
        let image = Image::new(ImageReader::new(log, position), facts, closed.clone());
        let Some(entry) = self.subscriptions.get_mut(&subscription_registration_id) else { return };
        entry.images.push((correlation_id, session_id, closed));
        self.held_back += entry.push(ImageChange::Add(Box::new(image)));
        self.events.push_back(ClientEvent::AvailableImage {
            subscription_registration_id,
            correlation_id,
            session_id,
            source_identity: source_identity.to_owned(),
        });
    }

    fn on_unavailable_image(&mut self, correlation_id: i64, subscription_registration_id: i64) {
        let Some(entry) = self.subscriptions.get_mut(&subscription_registration_id) else { return };
        let Some(index) = entry.images.iter().position(|(id, _, _)| *id == correlation_id) else { return };
        let (_, session_id, closed) = entry.images.remove(index);
        closed.store(true, Ordering::Release);
        self.held_back += entry.push(ImageChange::Remove { correlation_id });
        self.events.push_back(ClientEvent::UnavailableImage {
            subscription_registration_id,
            correlation_id,
            session_id,
        });
    }

    fn on_publication_error(&mut self, frame: PublicationErrorFrame) {
        let owned =
            self.publications.values().any(|entry| entry.original_registration_id == frame.registration_id);
        if owned {
            self.events.push_back(ClientEvent::PublicationError(Box::new(frame)));
        }
    }

    fn map_log(&self, file_name: &str) -> Result<LogBuffers, ClientError> {
        let buffer = (self.map)(Path::new(file_name))?;
        if self.context.pre_touch_mapped_memory {
            for offset in (0..buffer.capacity()).step_by(PAGE_BYTES) {
                // Changes no word, and the processor must have the page for it.
                buffer.compare_and_set_i32(offset, 0, 0);
            }
        }
        LogBuffers::map(buffer).map_err(|error| ClientError::Corrupt {
            directory: self.context.directory.clone(),
            detail: format!("log {file_name}: {error}"),
        })
    }

    fn remove_released(&mut self) -> usize {
        let mut work_count = 0;
        if let Some(list) = self.releases.take() {
            self.unsent.extend(list);
        }
        while let Some(release) = self.unsent.front().copied() {
            if self.remove(release).is_err() {
                break;
            }
            self.unsent.pop_front();
            work_count += 1;
        }
        if self.held_back > 0 {
            self.held_back = self.subscriptions.values_mut().map(SubscriptionEntry::flush).sum();
        }
        work_count
    }

    fn remove(&mut self, release: Release) -> Result<(), ClientError> {
        let correlation_id = self.to_driver.next_correlation_id();
        let request = match release {
            Release::Publication { registration_id, revoke } => Request::RemovePublication {
                registration_id,
                flags: if revoke { REMOVE_FLAG_REVOKE } else { 0 },
            },
            Release::Subscription { registration_id } => Request::RemoveSubscription { registration_id },
            Release::Counter { registration_id } => Request::RemoveCounter { registration_id },
        };
        self.send(correlation_id, request)?;
        self.await_answer(correlation_id, PendingKind::Removal, "remove a resource".to_owned());
        match release {
            Release::Publication { registration_id, .. } => {
                if let Some(entry) = self.publications.remove(&registration_id) {
                    entry.closed.store(true, Ordering::Release);
                }
            }
            Release::Subscription { registration_id } => {
                if let Some(entry) = self.subscriptions.remove(&registration_id) {
                    entry.close();
                }
            }
            Release::Counter { registration_id } => {
                if let Some(closed) = self.owned_counters.remove(&registration_id) {
                    closed.store(true, Ordering::Release);
                }
            }
        }
        Ok(())
    }

    fn check_timeouts(&mut self) -> Result<(), ClientError> {
        let now_ns = self.now.ns;
        let expired: Vec<i64> = self
            .pending
            .iter()
            .filter(|(_, pending)| now_ns > pending.deadline_ns)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            let timeout_ms = self.context.driver_timeout_ms;
            self.resolve(id, |_, _, request| {
                Some(Ready::Failed(ClientError::RequestTimeout { request, timeout_ms }))
            });
        }
        if now_ns > self.next_keepalive_ns {
            self.next_keepalive_ns = now_ns + self.context.keepalive_interval_ns;
            self.check_driver()?;
            self.keep_alive()?;
        }
        Ok(())
    }

    fn check_driver(&self) -> Result<(), ClientError> {
        let heartbeat_ms = self.to_driver.consumer_heartbeat_ms();
        let timeout_ms = self.context.driver_timeout_ms;
        let age_ms = self.now.epoch_ms - heartbeat_ms;
        if heartbeat_ms == -1 || age_ms > timeout_ms {
            return Err(ClientError::DriverTimeout { age_ms, timeout_ms });
        }
        Ok(())
    }

    /// Stores the time in the heartbeat counter, which the driver allocates with the client's first resource
    /// (spec 01 §4.8).
    fn keep_alive(&mut self) -> Result<(), ClientError> {
        if let Some((counter, id)) = &self.heartbeat {
            if self.counters.find_by_registration(CLIENT_HEARTBEAT, self.client_id) != Some(*id) {
                return Err(ClientError::ClientTimeout { timeout_ns: self.inter_service_timeout_ns });
            }
            counter.set_ordered(self.now.epoch_ms);
            return Ok(());
        }
        let Some(id) = self.counters.find_by_registration(CLIENT_HEARTBEAT, self.client_id) else {
            return Ok(());
        };
        let Ok(counter) = self.counters.counter(id) else { return Ok(()) };
        counter.set_ordered(self.now.epoch_ms);
        let name = &self.context.client_name;
        self.counters.append_to_label(
            id,
            &format!(" name={name} version={} commit=harrier", harrier_protocol::AERON_VERSION),
        );
        self.heartbeat = Some((counter, id));
        Ok(())
    }

    fn terminate(&mut self) {
        self.closed = true;
        for (_, entry) in self.publications.drain() {
            entry.closed.store(true, Ordering::Release);
        }
        for (_, entry) in self.subscriptions.drain() {
            entry.close();
        }
        for (_, closed) in self.owned_counters.drain() {
            closed.store(true, Ordering::Release);
        }
        self.pending.clear();
        self.ready.clear();
    }
}

impl SubscriptionEntry {
    /// Hands a change to the subscription; returns 1 when it has to wait here because the queue is full.
    fn push(&mut self, change: ImageChange) -> usize {
        if self.waiting.is_empty() {
            match self.changes.push(change) {
                Ok(()) => return 0,
                Err(rtrb::PushError::Full(change)) => self.waiting.push_back(change),
            }
        } else {
            self.waiting.push_back(change);
        }
        1
    }

    /// Hands over what waits; returns how many still do.
    fn flush(&mut self) -> usize {
        while let Some(change) = self.waiting.pop_front() {
            if let Err(rtrb::PushError::Full(change)) = self.changes.push(change) {
                self.waiting.push_front(change);
                break;
            }
        }
        self.waiting.len()
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for (_, _, closed) in &self.images {
            closed.store(true, Ordering::Release);
        }
    }
}

fn corrupt_answer(request: String, detail: &str) -> ClientError {
    ClientError::Registration {
        request,
        code: ErrorCode::GenericError.value(),
        message: format!("unusable answer: {detail}"),
    }
}
