//! A node restarts under a lease client with a separate media driver: the session continues without loss.

use std::path::Path;

use harrier::client::{Aeron, Context};
use harrier::cluster::client::{ClusterClient, ClusterClientContext, EgressListener};
use harrier::cluster::module::StampClock;
use harrier::driver::context::DriverContext;
use harrier::driver::{ExecutorMode, HostDriver};
use harrier::lease::codec::{AnswerCode, Event, Request};
use harrier::lease::{
    ClaimError, LeaseClient, LeaseClientContext, LeaseSettings, PolledClaimer, PolledTracker, RequestId,
    Tenure, TrackerState,
};
use harrier::leases::lease_service;
use harrier::platform::{MappedMemory, SystemClock, free_ports};
use harrier::ringbuf::{Agent, Clock, Now};
use harrier::{ClusterCommand, Layout, Node, NodeContext};

const PATIENCE_NS: i64 = 60_000_000_000;
const SECOND: i64 = 1_000_000_000;

struct World {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
    client: LeaseClient,
    tracker: PolledTracker,
}

impl World {
    fn new(directory: &Path, ingress_port: u16) -> Self {
        Self::with_leader_timeout(directory, ingress_port, PATIENCE_NS)
    }

    /// A client that closes a session after a time without a leader.
    fn with_leader_timeout(directory: &Path, ingress_port: u16, new_leader_timeout_ns: i64) -> Self {
        let now = SystemClock.now();
        let mut context = DriverContext::new(directory.join("client"));
        // Drivers with one seed would draw the same session ids.
        (context.term_buffer_length, context.seed) = (64 << 10, now.ns as u64);
        let directory = context.directory.clone();
        let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now).unwrap();
        let aeron = Aeron::connect(Context::new(directory), MappedMemory, &now).unwrap();
        let endpoints = format!("0=127.0.0.1:{ingress_port}");
        let mut cluster =
            ClusterClientContext::new(endpoints, "aeron:udp?endpoint=127.0.0.1:0|term-length=64k");
        (cluster.message_timeout_ns, cluster.new_leader_timeout_ns) = (PATIENCE_NS, new_leader_timeout_ns);
        let mut context = LeaseClientContext::new(cluster);
        context.timeout_ns = PATIENCE_NS;
        let client = LeaseClient::new(context).unwrap();
        // The duration covers the slowest restart, so that the tracker keeps its lease.
        let tracker = PolledTracker::new("db/0", 30 * SECOND).unwrap();
        Self { agents: driver.into_agents(), aeron, client, tracker }
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        loop {
            let now = SystemClock.now();
            assert!(now.ns < deadline_ns, "{what} did not come: {}", self.client.reason());
            for agent in &mut self.agents {
                agent.do_work(&now).unwrap();
            }
            self.aeron.do_work(&now).unwrap();
            self.client.do_work(&mut self.aeron, &now);
            self.tracker.do_work(&mut self.client, now.ns);
            if let Some(value) = condition(self) {
                return value;
            }
        }
    }

    fn claim(&mut self, application: &str, unit: &str, ns: i64) -> Result<Tenure, ClaimError> {
        let id = self.client.start_claim(application, unit, ns, SystemClock.now().ns).unwrap();
        self.until("the claim's answer", |world| world.client.poll_claim(id))
    }

    fn release(&mut self, application: &str, unit: &str, token: u64) {
        let now_ns = SystemClock.now().ns;
        let id = self.client.start_release(application, unit, token, now_ns).unwrap();
        self.until("the release's answer", |world| world.client.poll_release(id)).unwrap();
    }

    fn wait(&mut self, application: &str) -> RequestId {
        let id = self.client.start_block(application, SystemClock.now().ns).unwrap();
        // The answer to a later request proves that the wait is registered.
        assert_eq!(self.claim(application, "other/0", SECOND), Err(ClaimError::Denied));
        id
    }
}

struct Place {
    base: tempfile::TempDir,
    ports: Vec<u16>,
}

impl Place {
    fn new() -> Self {
        let base = tempfile::Builder::new().prefix("harrier-leases-").tempdir_in("/dev/shm").unwrap();
        Self { base, ports: free_ports(5).unwrap() }
    }

    fn context(&self, layout: Layout) -> NodeContext {
        let endpoints: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let members = format!("0,{}", endpoints.join(","));
        let aeron_directory = self.base.path().join("aeron");
        let mut context = NodeContext::new(self.base.path().join("node"), aeron_directory, 0, members);
        (context.layout, context.sparse_logs, context.fresh_timestamps) = (layout, true, true);
        (context.log_term_length, context.segment_length) = (64 << 10, 128 << 10);
        // A host may stall the whole node for seconds while its log is replayed.
        context.properties.set("aeron.archive.connect.timeout", "60s");
        context
    }

    fn start(&self, layout: Layout) -> Node {
        let services = vec![lease_service(LeaseSettings::default()).unwrap()];
        Node::launch(self.context(layout), services).unwrap()
    }
}

fn survives_restarts(layout: Layout) {
    let place = Place::new();
    let mut node = place.start(layout);
    let mut world = World::new(place.base.path(), place.ports[0]);
    let leads = world.tracker.wait_leader(0);
    world.until("leadership", |_| leads.answer());
    let minion = world.tracker.wait_minion(SystemClock.now().ns);
    let fence = world.tracker.fence(SystemClock.now().ns).unwrap();
    let held = world.claim("cache", "cache/0", 3_600 * SECOND).unwrap();
    let waits = [world.wait("cache"), world.wait("cache")];
    let session_id = world.client.session().unwrap().session_id();

    for is_snapshot in [false, true] {
        if is_snapshot {
            node.command(ClusterCommand::Snapshot).unwrap();
            world.until("the snapshot", |_| node.is_command_done().unwrap().then_some(()));
        }
        node.stop().unwrap();
        // A request without an answer is sent to the next leader.
        let now_ns = SystemClock.now().ns;
        let id = world.client.start_claim("cache", "cache/0", 3_600 * SECOND, now_ns).unwrap();
        node = place.start(layout);
        let again = world.until("the claim's answer", |world| world.client.poll_claim(id)).unwrap();
        assert_eq!(again.token, held.token);
        assert_eq!(again.guaranteed_until_ns, now_ns + 3_600 * SECOND, "spec 05 L1");
        assert_eq!(world.client.session().unwrap().session_id(), session_id);
        assert!(waits.iter().all(|id| world.client.poll_block(*id).is_none()));
        let claim = world.tracker.claim_leader(SystemClock.now().ns);
        assert!(world.until("the ticket", |_| claim.answer()));
        assert_eq!((world.tracker.state(), minion.answer()), (TrackerState::Leader, None));
        assert_eq!(world.tracker.fence(SystemClock.now().ns), Some(fence.clone()));
    }

    // The client learns from its wait that the lease was released while it was disconnected.
    world.release("cache", "cache/0", held.token);
    for id in waits {
        world.until("the wake-up", |world| world.client.poll_block(id)).unwrap();
    }
    world.tracker.stop(true);
    world.until("the tracker's end", |world| world.tracker.is_stopped().then_some(()));
    assert!(world.claim("db", "db/1", SECOND).unwrap().token > fence.token);
    node.stop().unwrap();
}

#[test]
fn a_tracker_and_waits_survive_restarts_of_a_fused_node() {
    survives_restarts(Layout::Fused);
}

#[test]
fn a_tracker_and_waits_survive_restarts_of_a_node_with_threads() {
    survives_restarts(Layout::Threads);
}

/// A host that stalls one duty cycle for an hour, between its start and the next message.
struct AnHourLater;

impl Clock for AnHourLater {
    fn now(&self) -> Now {
        let now = SystemClock.now();
        Now { ns: now.ns + 3_600 * SECOND, ..now }
    }
}

#[test]
fn a_claim_is_stamped_when_it_is_taken_not_when_its_duty_cycle_began() {
    let place = Place::new();
    let mut context = place.context(Layout::Fused);
    context.fresh_timestamps = false;
    let services = vec![lease_service(LeaseSettings::default()).unwrap()];
    let node = Node::launch_with(context, services, |parts| {
        parts.module.stamp_clock = Some(StampClock::new(AnHourLater));
    })
    .unwrap();
    let mut world = World::new(place.base.path(), place.ports[0]);
    world.claim("cache", "cache/0", SECOND).unwrap();
    let id = world.client.start_list(SystemClock.now().ns).unwrap();
    let leases = world.until("the list", |world| world.client.poll_list(id)).unwrap();
    let lease = leases.leases.iter().find(|lease| lease.application == "cache").unwrap();
    assert!(lease.expiry - SystemClock.now().epoch_ms > 3_500_000, "{lease:?}");
    node.stop().unwrap();
}

#[test]
fn a_client_that_asks_and_does_not_listen_holds_up_nobody() {
    let place = Place::new();
    let node = place.start(Layout::Fused);
    let mut world = World::with_leader_timeout(place.base.path(), place.ports[0], SECOND);
    for index in 0..20 {
        world.claim(&format!("application-with-a-long-name-{index}"), "unit/0", 3_600 * SECOND).unwrap();
    }
    let mut request = [0; 64];
    let length = Request::List { correlation_id: 7, cursor: 0 }.encode(&mut request).unwrap();
    let (mut sent, begun_ns) = (0, SystemClock.now().ns);
    // Answers of more than a thousand bytes each fill the client's window after a hundred.
    while sent < 1_000 {
        let now = SystemClock.now();
        assert!(now.ns < begun_ns + PATIENCE_NS, "{sent} sent");
        for agent in &mut world.agents {
            agent.do_work(&now).unwrap();
        }
        world.aeron.do_work(&now).unwrap();
        sent += usize::from(world.client.session().unwrap().offer(&request[..length]).is_ok());
    }
    let mut other = World::new(&place.base.path().join("other"), place.ports[0]);
    assert!(other.claim("cache", "cache/0", SECOND).is_ok());
    // The service waits for this client once instead of for each of the 900 answers without space.
    let waited_ns = SystemClock.now().ns - begun_ns;
    assert!(waited_ns < 45 * SECOND, "{waited_ns} ns");
    // The service closed its session. Once the client listens it opens another one and is served again.
    assert!(world.claim("queue", "queue/0", SECOND).is_ok());
    node.stop().unwrap();
}

/// Answers to one raw request.
struct Answers(Vec<(i64, AnswerCode)>);

impl EgressListener for Answers {
    fn on_message(&mut self, _: i64, _: i64, message: &[u8]) {
        if let Ok(Event::Answer(answer)) = Event::decode(message) {
            self.0.push((answer.correlation_id, answer.code));
        }
    }
}

/// A session requests the end of another one, once.
fn ask_for_the_end(world: &mut World, bare: &mut ClusterClient, session_id: i64) -> AnswerCode {
    let mut request = [0; 24];
    Request::EndSession { correlation_id: 1, session_id }.encode(&mut request).unwrap();
    let (mut answers, mut is_sent) = (Answers(Vec::new()), false);
    world.until("the answer", |world| {
        bare.poll(&mut world.aeron, &SystemClock.now(), &mut answers).unwrap();
        is_sent = is_sent || bare.is_connected() && bare.offer(&request).is_ok();
        answers.0.pop().map(|(_, code)| code)
    })
}

#[test]
fn a_session_that_broke_off_is_ended_before_the_next_one_is_used() {
    // Spec 05 L2: a claim in flight must not be granted after a denial.
    let place = Place::new();
    let node = place.start(Layout::Fused);
    let mut world = World::new(place.base.path(), place.ports[0]);
    let held = world.claim("cache", "cache/0", 3_600 * SECOND).unwrap();
    let first_id = world.client.session().unwrap().session_id();
    world.client.on_driver_lost("cut off");
    assert_eq!(world.claim("cache", "cache/0", 3_600 * SECOND).unwrap().token, held.token);
    let second_id = world.client.session().unwrap().session_id();

    let mut bare = ClusterClient::new(world.client.context().cluster.clone()).unwrap();
    assert_eq!(ask_for_the_end(&mut world, &mut bare, first_id), AnswerCode::SessionEnded, "by the client");
    let own_id = bare.session_id();
    assert_eq!(ask_for_the_end(&mut world, &mut bare, own_id), AnswerCode::Invalid);
    assert_eq!(ask_for_the_end(&mut world, &mut bare, own_id + 1), AnswerCode::SessionEnded, "never begun");
    // An open session: its owner gets the close event and opens another.
    assert_eq!(ask_for_the_end(&mut world, &mut bare, second_id), AnswerCode::SessionEnding);
    while ask_for_the_end(&mut world, &mut bare, second_id) == AnswerCode::SessionEnding {}
    world.until("another session", |world| {
        (world.client.is_connected() && world.client.session()?.session_id() > second_id).then_some(())
    });
    assert_eq!(world.claim("cache", "cache/0", 3_600 * SECOND).unwrap().token, held.token);
    node.stop().unwrap();
}
