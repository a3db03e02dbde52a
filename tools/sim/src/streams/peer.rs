//! The clients of a host: a process with the publications and subscriptions that the host has in the streams of a
//! run.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use harrier_client::{Aeron, ClientError, ClientEvent, Context};
use harrier_ringbuf::{Agent, AgentError, Now, Rng};

use super::listener::Listener;
use super::plan::DRIVER_TIMEOUT_MS;
use super::truth::{Phase, Truth};
use super::writer::Writer;
use crate::kernel::{HostId, Kernel};
use crate::memory::SimMemory;

/// Time after a disturbance for which driver and clients may lose each other, ns.
const UPSET_NS: i64 = 3_000_000_000;
/// Pause between two attempts to find a driver, ns.
const CONNECT_NS: i64 = 10_000_000;
/// Time between the end of a client's resources and its own, ns.
const GOODBYE_NS: i64 = 200_000_000;

/// Remains of dead processes, which must not act any more. They are kept until the run is over.
pub(super) type Remains = Rc<RefCell<Vec<Box<dyn Any>>>>;

/// Place and time of an action.
pub(super) struct Place {
    pub(super) host: HostId,
    pub(super) kernel: Kernel,
    pub(super) truth: Rc<RefCell<Truth>>,
    /// Virtual time, ns.
    pub(super) now_ns: i64,
    pub(super) phase: Phase,
}

impl Place {
    pub(super) fn hit(&self, what: &'static str) {
        self.kernel.state().fault(what, &[self.host as u64]);
    }

    /// Returns the id of a command; `None` when there was no room for it.
    pub(super) fn accepted(&self, id: Result<i64, ClientError>) -> Option<i64> {
        id.map_err(|error| self.on_refused(&error)).ok()
    }

    /// Checks that a command was refused only because of a disturbed driver.
    pub(super) fn on_refused(&self, error: &ClientError) {
        self.hit("command without success");
        if !self.is_upset() {
            let text = format!("host {}: {error}", self.host);
            self.truth.borrow_mut().violate("command", text);
        }
    }

    fn is_upset(&self) -> bool {
        self.now_ns <= self.truth.borrow().upset_ns[self.host].saturating_add(UPSET_NS)
    }
}

/// A host's clients.
pub(super) struct Peer {
    place: Place,
    process: HostId,
    memory: SimMemory,
    directory: String,
    rng: Rng,
    aeron: Option<Box<Aeron>>,
    writers: Vec<Writer>,
    listeners: Vec<Listener>,
    next_connect_ns: i64,
    leaves_ns: Option<i64>,
    origin_ns: i64,
    remains: Remains,
    /// Number of messages that tethered readers have not read.
    unread: Rc<RefCell<Vec<usize>>>,
}

impl Peer {
    pub(super) fn new(
        place: Place,
        process: HostId,
        memory: SimMemory,
        directory: String,
        rng: Rng,
        remains: Remains,
        unread: Rc<RefCell<Vec<usize>>>,
    ) -> Self {
        let flows = place.truth.borrow().flows.clone();
        let own = flows.iter().enumerate().filter(|(_, flow)| flow.from == place.host);
        let writers = own.map(|(flow, plan)| Writer::new(flow, plan.clone())).collect();
        let mut listeners = Vec::new();
        for (flow, plan) in flows.iter().enumerate() {
            for (number, one) in plan.listeners.iter().enumerate().filter(|(_, one)| one.host == place.host) {
                listeners.push(Listener::new((flow, number), plan.stream_id, one.clone()));
            }
        }
        Self {
            place,
            process,
            memory,
            directory,
            rng,
            aeron: None,
            writers,
            listeners,
            next_connect_ns: 0,
            leaves_ns: None,
            origin_ns: 0,
            remains,
            unread,
        }
    }

    fn connect(&mut self, now: &Now) -> usize {
        if self.place.phase == Phase::Closed || self.place.now_ns < self.next_connect_ns {
            return 0;
        }
        self.next_connect_ns = self.place.now_ns + CONNECT_NS;
        let mut context = Context::new(&self.directory).client_name("peer");
        context.driver_timeout_ms = DRIVER_TIMEOUT_MS;
        context.keepalive_interval_ns = 100_000_000;
        match Aeron::connect(context, self.memory.clone(), now) {
            Ok(aeron) => {
                self.aeron = Some(Box::new(aeron));
                1
            }
            Err(_) => 0,
        }
    }

    fn work(&mut self, now: &Now) -> usize {
        let Some(mut aeron) = self.aeron.take() else { return self.connect(now) };
        let mut work_count = match aeron.do_work(now) {
            Ok(work_count) => work_count,
            Err(error) => {
                self.on_gone(&error);
                return 1;
            }
        };
        while let Some(event) = aeron.poll_event() {
            self.on_event(&event);
        }
        for writer in &mut self.writers {
            work_count += writer.work(&mut aeron, &self.place, &mut self.rng);
        }
        for listener in &mut self.listeners {
            work_count += listener.work(&mut aeron, &self.place, &mut self.rng);
        }
        let unread = self.listeners.iter().map(|listener| listener.unread(&self.place));
        let is_closed = self.place.phase == Phase::Closed
            && self.writers.iter().all(Writer::is_closed)
            && self.listeners.iter().all(Listener::is_closed);
        if self.place.phase == Phase::Draining {
            self.unread.borrow_mut()[self.place.host] = unread.sum();
        }
        let leaves_ns = is_closed.then(|| *self.leaves_ns.get_or_insert(self.place.now_ns + GOODBYE_NS));
        if leaves_ns.is_none_or(|leaves_ns| self.place.now_ns < leaves_ns) {
            self.aeron = Some(aeron);
        } else {
            self.place.hit("client left");
        }
        work_count
    }

    /// The client has lost its driver, or its driver has given it up.
    fn on_gone(&mut self, error: &ClientError) {
        self.place.hit(match error {
            ClientError::DriverTimeout { .. } => "client lost its driver",
            ClientError::ServiceTimeout { .. } => "client was not run for too long",
            ClientError::ClientTimeout { .. } => "client was given up by its driver",
            _ => "client ended otherwise",
        });
        if !self.place.is_upset() {
            let text = format!("host {}: {error}", self.place.host);
            self.place.truth.borrow_mut().violate("client", text);
        }
        for writer in &mut self.writers {
            writer.on_client_gone(&self.place);
        }
        for listener in &mut self.listeners {
            listener.on_client_gone(&self.place);
        }
    }

    fn on_event(&mut self, event: &ClientEvent) {
        match event {
            ClientEvent::AvailableImage { .. } => self.place.hit("image available"),
            ClientEvent::UnavailableImage { subscription_registration_id, correlation_id, .. } => {
                self.place.hit("image unavailable");
                for listener in &mut self.listeners {
                    listener.on_unavailable(*subscription_registration_id, *correlation_id, &self.place);
                }
            }
            ClientEvent::PublicationError(_) => self.place.hit("publication was told of a refusal"),
            ClientEvent::ChannelError { message, .. } => {
                let text = format!("host {}: {message}", self.place.host);
                self.place.truth.borrow_mut().violate("channel", text);
            }
            ClientEvent::AvailableCounter { .. } | ClientEvent::UnavailableCounter { .. } => {}
        }
    }
}

impl Agent for Peer {
    fn role_name(&self) -> &str {
        "peer"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.place.now_ns = self.place.kernel.state().now_ns;
        self.origin_ns = now.ns - self.place.now_ns;
        self.place.phase = {
            let mut truth = self.place.truth.borrow_mut();
            truth.now_ns = self.place.now_ns;
            truth.phase
        };
        Ok(self.work(now))
    }

    fn next_deadline(&self) -> Option<i64> {
        let origin_ns = self.origin_ns;
        let local = |virtual_ns: i64| virtual_ns.saturating_add(origin_ns);
        let Some(aeron) = &self.aeron else {
            return (self.place.phase < Phase::Closed).then(|| local(self.next_connect_ns));
        };
        let writers = self.writers.iter().map(Writer::next_ns);
        let listeners = self.listeners.iter().map(|listener| listener.next_ns(self.place.phase));
        let own = writers.chain(listeners).chain(self.leaves_ns).filter(|at| *at > self.place.now_ns);
        own.map(local).chain([aeron.next_deadline()]).min()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.place.kernel.is_dead(self.process) {
            return;
        }
        for writer in &mut self.writers {
            // Open publications were cut off wherever they were.
            writer.on_death(&self.place);
        }
        for listener in &self.listeners {
            listener.on_death(&self.place);
        }
        let left =
            (self.aeron.take(), std::mem::take(&mut self.writers), std::mem::take(&mut self.listeners));
        self.remains.borrow_mut().push(Box::new(left));
    }
}
