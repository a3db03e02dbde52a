//! The client's conductor: it sends commands to the driver, handles its events, and checks that driver and client are
//! alive (spec 01 §4, §5).

mod answers;
mod commands;
mod requests;
mod upkeep;

use harrier_protocol::command::Request;
use harrier_ringbuf::broadcast::Receiver;
use harrier_ringbuf::counters::{AtomicCounter, CountersReader};
use harrier_ringbuf::many_to_one::ManyToOneRing;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, IdMap, Memory, MemoryError, Now};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::release::{Release, ReleaseQueue};
use crate::subscription::ImageChange;
use crate::{
    ClientError, ClientEvent, Context, Counter, ExclusivePublication, Publication, Subscription, connect,
};

/// Length of the longest command, bytes: a channel of 4095 bytes and its fixed fields.
const COMMAND_CAPACITY: usize = 4_608;

/// Longest client name, characters (spec 01 §5.1).
const MAX_NAME_LENGTH: usize = 100;

/// Maps a log file. This is all that a connected client needs of its [`Memory`].
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
    /// The driver knows this client.
    is_known: bool,
    closed: bool,
}

struct Pending {
    kind: PendingKind,
    request: String,
    deadline_ns: i64,
    /// The caller no longer wants the outcome.
    is_abandoned: bool,
}

enum PendingKind {
    Publication { channel: String, exclusive: bool },
    Subscription { channel: String, stream_id: i32 },
    Counter { is_static: bool },
    Command,
    Session,
    Removal,
}

enum Ready {
    Publication(Publication),
    Exclusive(ExclusivePublication),
    Subscription(Subscription),
    Counter(Counter),
    Session(i32),
    Done,
    Failed(ClientError),
}

struct PublicationEntry {
    original_registration_id: i64,
    closed: Arc<AtomicBool>,
}

struct SubscriptionEntry {
    is_spy: bool,
    changes: rtrb::Producer<ImageChange>,
    waiting: VecDeque<ImageChange>,
    images: Vec<(i64, i32, Arc<AtomicBool>)>,
    closed: Arc<AtomicBool>,
}

impl Aeron {
    /// Opens the driver's CnC file.
    ///
    /// # Errors
    ///
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
            is_known: false,
            closed: false,
            context,
        };
        Ok(Self { to_clients: cnc.to_clients, core })
    }

    /// Runs one duty cycle: events, removals, heartbeat and time-outs. Returns the work done.
    ///
    /// # Errors
    ///
    /// The driver or this client was found dead; all resources are then closed and every later call fails.
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

    /// Monotonic time, in ns, at which `do_work` has work to do even without an event.
    pub fn next_deadline(&self) -> i64 {
        self.core.next_keepalive_ns.min(self.core.earliest_pending()).max(self.core.next_check_ns) + 1
    }

    /// Id of this client at its driver.
    pub fn client_id(&self) -> i64 {
        self.core.client_id
    }

    /// Returns a number that no other client of the driver gets.
    pub fn next_correlation_id(&self) -> i64 {
        self.core.to_driver.next_correlation_id()
    }

    /// The driver's counters.
    pub fn counters(&self) -> &CountersReader {
        &self.core.counters
    }

    /// Settings of the client.
    pub fn context(&self) -> &Context {
        &self.core.context
    }

    /// True when this client is closed and cannot be used any more.
    pub fn is_closed(&self) -> bool {
        self.core.closed
    }

    /// Returns the oldest event since the last call.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.core.events.pop_front()
    }

    /// Adds a publication that is shared with others on the same channel and stream. Fetch it with
    /// [`publication`](Self::publication).
    ///
    /// # Errors
    ///
    /// [`ClientError::CommandQueueFull`], or a channel that cannot be sent. A refusal of the driver is returned by
    /// the fetch.
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

    /// Adds a counter that outlives the client, or finds the counter with this type and registration id.
    ///
    /// # Errors
    ///
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

    /// Returns the publication of an add when the driver has answered; `None` until then. It is returned once.
    ///
    /// # Errors
    ///
    /// The driver's refusal, its silence, or an id that is not pending here.
    pub fn publication(&mut self, registration_id: i64) -> Result<Option<Publication>, ClientError> {
        match self.core.take_ready(registration_id)? {
            Some(Ready::Publication(publication)) => Ok(Some(publication)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(registration_id, other)),
        }
    }

    /// Returns the exclusive publication of an add, like [`publication`](Self::publication).
    ///
    /// # Errors
    ///
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

    /// Returns the subscription of an add, like [`publication`](Self::publication).
    ///
    /// # Errors
    ///
    /// As [`publication`](Self::publication).
    pub fn subscription(&mut self, registration_id: i64) -> Result<Option<Subscription>, ClientError> {
        match self.core.take_ready(registration_id)? {
            Some(Ready::Subscription(subscription)) => Ok(Some(subscription)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(registration_id, other)),
        }
    }

    /// Returns the counter of an add, like [`publication`](Self::publication).
    ///
    /// # Errors
    ///
    /// As [`publication`](Self::publication).
    pub fn counter(&mut self, registration_id: i64) -> Result<Option<Counter>, ClientError> {
        match self.core.take_ready(registration_id)? {
            Some(Ready::Counter(counter)) => Ok(Some(counter)),
            None => Ok(None),
            Some(other) => Err(self.core.put_back(registration_id, other)),
        }
    }

    /// Adds a destination to a publication in manual control mode, by its original registration id.
    /// [`command_done`](Self::command_done) returns the answer.
    ///
    /// # Errors
    ///
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

    /// Asks the driver to reject an image from now on and to tell its sender the reason (at most 1023 bytes).
    ///
    /// # Errors
    ///
    /// As [`add_destination`](Self::add_destination); the image of a spy cannot be rejected.
    pub fn reject_image(
        &mut self,
        correlation_id: i64,
        position: i64,
        reason: &str,
    ) -> Result<i64, ClientError> {
        self.core.check_rejection(correlation_id)?;
        let request = Request::RejectImage { image_correlation_id: correlation_id, position, reason };
        self.core.command(request, format!("reject image {correlation_id}"))
    }

    /// True when the driver has carried out a command that adds no resource.
    ///
    /// # Errors
    ///
    /// The driver's refusal, its silence, or an id that is not pending here.
    pub fn command_done(&mut self, correlation_id: i64) -> Result<bool, ClientError> {
        match self.core.take_ready(correlation_id)? {
            Some(Ready::Done) => Ok(true),
            None => Ok(false),
            Some(other) => Err(self.core.put_back(correlation_id, other)),
        }
    }

    /// Closes all resources and the client's connection to the driver. Dropping the client does the same.
    pub fn close(&mut self) {
        if !self.core.closed {
            // The driver does not know a client that has only read counters. A close command for it would be useless,
            // and many of them would fill the ring.
            if self.core.is_known {
                let _left_to_timeout = self.core.send(-1, Request::ClientClose);
            }
            self.core.terminate();
        }
    }
}

impl Drop for Aeron {
    fn drop(&mut self) {
        self.close();
    }
}
