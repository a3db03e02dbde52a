//! One process of a unit. It leads with a tracker or with claims of its own, and it also checks, waits, pins and
//! writes.

use std::cell::RefCell;
use std::rc::Rc;

use harrier_client::{Aeron, Context};
use harrier_cluster::client::{ClusterClientContext, EgressListener};
use harrier_cluster::codec::EventCode;
use harrier_lease::codec::Event;
use harrier_lease::{
    CheckError, Fence, LeaseClient, LeaseClientContext, PolledClaimer, ProcessIdentity, RequestId,
};
use harrier_ringbuf::{Agent, AgentError, Now, Rng};

use super::roles::Role;
use super::truth::Truth;
use super::watched::Watched;
use super::{APPLICATIONS, UNITS, UnitId, application_name, encode_write, unit_name};
use crate::kernel::{HostId, Kernel};
use crate::memory::SimMemory;

/// Identity and host of a unit.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Application of the unit.
    pub application: usize,
    /// Number of the unit within the application.
    pub index: usize,
    /// Host of the unit.
    pub host: HostId,
}

impl Place {
    /// Returns the number of the unit among all units.
    pub fn unit_id(self) -> UnitId {
        (self.application * UNITS + self.index) as UnitId
    }

    /// The unit's name.
    pub fn name(self) -> &'static str {
        unit_name(self.unit_id())
    }
}

/// Progress of a process, for the run.
#[derive(Debug, Default)]
pub struct Standing {
    /// It holds nothing any more.
    pub is_done: bool,
    /// Time since when it has a session, virtual ns; `None` without one.
    pub connected_ns: Option<i64>,
    /// Token with which a tracker leads.
    pub leads_with: Option<u64>,
    /// Virtual time at which a tracker lost a lease that it kept renewing, and the claimed duration, ns.
    pub lost: Option<(i64, i64)>,
}

struct Ears {
    stale: Vec<(u64, u64)>,
    new_leaders: u64,
}

impl EgressListener for Ears {
    fn on_message(&mut self, _: i64, _: i64, message: &[u8]) {
        if let Ok(Event::FenceStale { token, current_token, .. }) = Event::decode(message) {
            self.stale.push((token, current_token));
        }
    }

    fn on_new_leader(&mut self, _: i64, _: i32, _: &str) {
        self.new_leaders += 1;
    }

    fn on_session_event(&mut self, _: EventCode, _: &str) {}
}

#[derive(Debug, Clone, Copy)]
enum Pin {
    None,
    Pinning(RequestId),
    Pinned { until_ns: i64 },
    Unpinning(RequestId),
}

/// A unit's process.
pub struct Unit {
    place: Place,
    life: u64,
    kernel: Kernel,
    memory: SimMemory,
    truth: Rc<RefCell<Truth>>,
    standing: Rc<RefCell<Standing>>,
    rng: Rng,
    aeron_directory: String,
    aeron: Option<Box<Aeron>>,
    client: LeaseClient,
    ears: Ears,
    session_id: i64,
    role: Role,
    check: Option<(RequestId, UnitId, i64)>,
    watch: Option<(RequestId, i64)>,
    is_pinner: bool,
    pin: Pin,
    pinned: usize,
    listing: Option<RequestId>,
    next_check_ns: i64,
    next_watch_ns: i64,
    next_pin_ns: i64,
    next_write_ns: i64,
    writes: u64,
    old_fence: Option<Fence>,
    bytes: Vec<u8>,
    now_ns: i64,
}

/// Longest time between two polls of a unit with a session, ns.
const LOOK_NS: i64 = 25_000_000;

/// Names that are pinned besides the unit's own application; nobody leads them.
const SPARE: [&str; 2] = ["spare0", "spare1"];

impl Unit {
    /// Creates a process that has not started.
    pub fn new(
        (place, life): (Place, u64),
        kernel: Kernel,
        memory: SimMemory,
        truth: Rc<RefCell<Truth>>,
        standing: Rc<RefCell<Standing>>,
        (aeron_directory, ingress_endpoints, egress_channel): (String, String, String),
        mut rng: Rng,
    ) -> Result<Self, String> {
        let mut cluster = ClusterClientContext::new(ingress_endpoints, egress_channel);
        cluster.keepalive_interval_ns = 400_000_000;
        cluster.message_timeout_ns = 1_000_000_000;
        cluster.new_leader_timeout_ns = 1_500_000_000;
        let mut context = LeaseClientContext::new(cluster);
        context.timeout_ns = [300_000_000, 1_000_000_000, 3_000_000_000][rng.below(3) as usize];
        context.resend_ns = [100_000_000, 400_000_000][rng.below(2) as usize];
        context.rewait_ns = 2_000_000_000;
        context.max_requests = 16;
        // Each life is a process of its own (spec 05 L23).
        let id = (place.unit_id() as u64 + 1) << 32 | life;
        context.process =
            ProcessIdentity { id, started_ms: 0, name: format!("life {life} of {}", place.name()) };
        let client = LeaseClient::new(context).map_err(|error| error.to_string())?;
        let is_pinner = rng.chance(1, 3);
        Ok(Self {
            role: Role::draw(place, &mut rng)?,
            place,
            life,
            kernel,
            memory,
            truth,
            standing,
            aeron_directory,
            aeron: None,
            client,
            ears: Ears { stale: Vec::new(), new_leaders: 0 },
            session_id: -1,
            check: None,
            watch: None,
            is_pinner,
            // An earlier life may have left a pin behind.
            pin: Pin::Pinned { until_ns: i64::MIN },
            pinned: 0,
            listing: None,
            next_check_ns: 0,
            next_watch_ns: 0,
            next_pin_ns: 0,
            next_write_ns: 0,
            writes: 0,
            old_fence: None,
            bytes: Vec::new(),
            now_ns: 0,
            rng,
        })
    }

    fn hit(&self, what: &'static str) {
        self.kernel.state().coverage.hit(what);
    }

    fn soon(&mut self, longest_ns: u64) -> i64 {
        self.now_ns + self.rng.below(longest_ns) as i64
    }

    fn work(&mut self, now: &Now) -> Result<usize, String> {
        let Some(mut aeron) = self.aeron.take() else {
            let context = Context::new(&self.aeron_directory).client_name("unit");
            self.aeron = Aeron::connect(context, self.memory.clone(), now).ok().map(Box::new);
            return Ok(usize::from(self.aeron.is_some()));
        };
        let mut work_count = aeron.do_work(now).map_err(|error| error.to_string())?;
        while aeron.poll_event().is_some() {}
        work_count += self.client.do_work_with(&mut aeron, now, &mut self.ears);
        self.aeron = Some(aeron);
        self.note_session();
        let is_draining = self.truth.borrow().is_draining;
        work_count += self.run_role(now, is_draining);
        self.hear_stale();
        self.check(is_draining);
        self.watch(is_draining);
        self.pin(is_draining);
        self.list(is_draining);
        work_count += self.write(is_draining);
        let is_done = self.role.is_done()
            && self.check.is_none()
            && self.watch.is_none()
            && matches!(self.pin, Pin::None)
            && self.listing.is_none();
        self.standing.borrow_mut().is_done = is_draining && is_done;
        Ok(work_count)
    }

    fn note_session(&mut self) {
        let virtual_ns = self.kernel.state().now_ns;
        let connected_ns = self.standing.borrow().connected_ns.unwrap_or(virtual_ns);
        self.standing.borrow_mut().connected_ns = self.client.is_connected().then_some(connected_ns);
        let new_leaders = std::mem::take(&mut self.ears.new_leaders);
        self.kernel.state().coverage.add("session went on in a new term", new_leaders);
        let session_id = self.client.session().map_or(-1, |session| session.session_id());
        if session_id != -1 && session_id != self.session_id {
            if self.session_id != -1 {
                self.hit("session lost, and another opened");
            }
            self.session_id = session_id;
            self.truth.borrow_mut().on_session(session_id, (self.place.unit_id(), self.life));
        }
    }

    fn run_role(&mut self, now: &Now, is_draining: bool) -> usize {
        let mut claimer = Watched {
            client: &mut self.client,
            truth: &self.truth,
            kernel: &self.kernel,
            place: self.place,
            life: self.life,
        };
        let mut standing = self.standing.borrow_mut();
        self.role.run(&mut claimer, &mut standing, &mut self.rng, now.ns, is_draining)
    }

    fn hear_stale(&mut self) {
        for (token, current) in std::mem::take(&mut self.ears.stale) {
            self.hit("client told that its fence is stale");
            let (unit, application) = (self.place.unit_id(), self.place.application);
            self.truth.borrow_mut().on_stale(unit, application, token, current);
        }
    }

    /// Checks any unit against the log, and itself against its own guarantee.
    fn check(&mut self, is_draining: bool) {
        let now_ns = self.now_ns;
        let (own, application) = (self.place.unit_id(), self.place.application);
        let mut fence = Fence::default();
        let name = self.place.name();
        let told = self.client.check_local(application_name(application), name, now_ns, Some(&mut fence));
        if told.is_ok() {
            self.truth.borrow_mut().on_told_locally(own, application, fence.token);
        }
        if let Some((id, unit, began_ns)) = self.check {
            let application = usize::from(unit) / UNITS;
            let Some(answer) = self.client.poll_check(id, Some(&mut fence)) else { return };
            self.check = None;
            let token = match answer {
                Ok(()) => Some(fence.token),
                Err(CheckError::NotHeld) => None,
                Err(_) => return self.hit("check without an answer"),
            };
            self.hit(if token.is_some() { "check: held" } else { "check: not held" });
            self.truth.borrow_mut().on_checked(unit, application, began_ns, token);
        }
        if is_draining || now_ns < self.next_check_ns {
            return;
        }
        self.next_check_ns = self.soon(400_000_000);
        let unit =
            if self.rng.chance(1, 2) { own } else { self.rng.below((APPLICATIONS * UNITS) as u64) as UnitId };
        let application = application_name(usize::from(unit) / UNITS);
        let began_ns = self.kernel.state().now_ns;
        if let Ok(id) = self.client.start_check(application, unit_name(unit), now_ns) {
            self.check = Some((id, unit, began_ns));
        }
    }

    /// Waits for the release of any application.
    fn watch(&mut self, is_draining: bool) {
        let now_ns = self.now_ns;
        let longest_ns = 2_000_000_000;
        let application = application_name(self.rng.below(APPLICATIONS as u64) as usize);
        let mut claimer = Watched {
            client: &mut self.client,
            truth: &self.truth,
            kernel: &self.kernel,
            place: self.place,
            life: self.life,
        };
        match self.watch {
            None if is_draining || now_ns < self.next_watch_ns => {}
            None => {
                // Most wait until the end, some give up.
                let patience_ns =
                    if self.rng.chance(1, 3) { self.rng.below(longest_ns) as i64 } else { i64::MAX / 2 };
                let id = claimer.start_block(application, now_ns).ok();
                self.watch = id.map(|id| (id, now_ns.saturating_add(patience_ns)));
                self.next_watch_ns = self.soon(longest_ns / 2);
            }
            Some((id, deadline_ns)) => {
                if claimer.poll_block(id).is_some() {
                    self.watch = None;
                    self.next_watch_ns = self.soon(longest_ns / 2);
                } else if now_ns >= deadline_ns {
                    claimer.cancel(id);
                    self.watch = None;
                    self.hit("wait given up");
                }
            }
        }
    }

    fn pin(&mut self, is_draining: bool) {
        let now_ns = self.now_ns;
        let names = [application_name(self.place.application), SPARE[self.place.index % SPARE.len()]];
        self.pin = match self.pin {
            Pin::None if self.is_pinner && !is_draining && now_ns >= self.next_pin_ns => {
                self.pinned = self.rng.below(2) as usize;
                match self.client.start_pin(names[self.pinned], self.place.name(), now_ns) {
                    Ok(id) => Pin::Pinning(id),
                    Err(_) => Pin::None,
                }
            }
            Pin::Pinning(id) => match self.client.poll_pin(id) {
                None => Pin::Pinning(id),
                Some(outcome) => {
                    self.hit(if outcome.is_ok() {
                        "application pinned"
                    } else {
                        "pin refused, or not answered"
                    });
                    Pin::Pinned { until_ns: self.soon(700_000_000) }
                }
            },
            Pin::Pinned { until_ns } if is_draining || now_ns >= until_ns => {
                match self.client.start_unpin(names[self.pinned], self.place.name(), now_ns) {
                    Ok(id) => Pin::Unpinning(id),
                    Err(_) => Pin::Pinned { until_ns },
                }
            }
            Pin::Unpinning(id) => match self.client.poll_pin(id) {
                None => Pin::Unpinning(id),
                Some(Ok(())) if self.next_pin_ns == 0 && self.pinned == 0 => {
                    // An earlier life may have left pins of two names.
                    self.pinned = 1;
                    Pin::Pinned { until_ns: i64::MIN }
                }
                Some(Ok(())) => {
                    self.next_pin_ns = self.soon(3_000_000_000);
                    Pin::None
                }
                Some(Err(_)) => Pin::Pinned { until_ns: now_ns + 50_000_000 },
            },
            other => other,
        };
    }

    fn list(&mut self, is_draining: bool) {
        if let Some(id) = self.listing {
            if self.client.poll_list(id).is_some() {
                self.listing = None;
                self.hit("leases listed");
            }
        } else if !is_draining && self.rng.chance(1, 4_000) {
            self.listing = self.client.start_list(self.now_ns).ok();
        }
    }

    /// Writes behind the fence of the present tenure, and at times behind that of an earlier tenure.
    fn write(&mut self, is_draining: bool) -> usize {
        if self.now_ns < self.next_write_ns {
            return 0;
        }
        self.next_write_ns = self.soon(150_000_000);
        let present = self.role.fence(self.now_ns, self.place);
        if let (Some(present), Some(old)) = (&present, &mut self.old_fence)
            && present.token == old.token
        {
            *old = present.clone();
        }
        let is_deposed = self.old_fence.is_some() && (is_draining || self.rng.chance(1, 8));
        let fence = if is_deposed { self.old_fence.take() } else { present };
        let Some(fence) = fence else { return 0 };
        self.writes += 1;
        let payload = encode_write(self.place.application, fence.token, self.writes);
        fence.wrap(self.writes as i64, &payload, &mut self.bytes);
        let sent = self.client.session().is_some_and(|session| session.offer(&self.bytes).is_ok());
        self.old_fence.get_or_insert(fence);
        usize::from(sent)
    }
}

impl Agent for Unit {
    fn role_name(&self) -> &str {
        "unit"
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.now_ns = now.ns;
        self.truth.borrow_mut().now_ns = self.kernel.state().now_ns;
        self.work(now).map_err(AgentError::terminated)
    }

    fn next_deadline(&self) -> Option<i64> {
        let Some(aeron) = &self.aeron else { return Some(self.now_ns + 1_000_000) };
        let mut next_ns = aeron.next_deadline();
        // Datagrams wake the host; time-outs are noticed soon enough.
        let looks_at_ns = if self.client.is_connected() {
            Some(self.now_ns + LOOK_NS)
        } else {
            self.client.next_deadline()
        };
        for own in [looks_at_ns, self.role.next_deadline(self.now_ns)].into_iter().flatten() {
            next_ns = next_ns.min(own);
        }
        let is_leading = self.role.fence(self.now_ns, self.place).is_some();
        for (own, counts) in [
            (self.next_check_ns, self.check.is_none()),
            (self.next_watch_ns, self.watch.is_none()),
            (self.next_write_ns, is_leading),
        ] {
            if counts && own > self.now_ns {
                next_ns = next_ns.min(own);
            }
        }
        Some(next_ns)
    }
}
