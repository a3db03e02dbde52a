//! Lease messages allocate nothing in client, service, fence and transport.

use std::path::Path;

use harrier::client::{Aeron, Context};
use harrier::cluster::client::ClusterClientContext;
use harrier::driver::context::DriverContext;
use harrier::driver::{ExecutorMode, HostDriver};
use harrier::lease::{
    ClaimError, Fence, LeaseClient, LeaseClientContext, LeaseSettings, PolledClaimer, RequestId, Tenure,
};
use harrier::leases::{fenced, lease_service};
use harrier::platform::{CountingAllocator, MappedMemory, SystemClock, free_ports};
use harrier::ringbuf::{Agent, Clock};
use harrier::services::EchoService;
use harrier::{Node, NodeContext};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const PATIENCE_NS: i64 = 60_000_000_000;
const WARM_UP_NS: i64 = 1_500_000_000;
const WARM_UP: usize = 50;
const MEASURED: u64 = 1_000;
const LONG_NS: i64 = 3_600_000_000_000;
const UNITS: [&str; 2] = ["db/0", "db/1"];

/// The client's media driver and the client, on the test's thread.
struct World {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
    client: LeaseClient,
    echoes: u64,
}

impl World {
    fn new(directory: &Path, ingress_port: u16) -> Self {
        let now = SystemClock.now();
        let mut context = DriverContext::new(directory.join("client"));
        context.term_buffer_length = 64 << 10;
        let directory = context.directory.clone();
        let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now).unwrap();
        let aeron = Aeron::connect(Context::new(directory), MappedMemory, &now).unwrap();
        let endpoints = format!("0=127.0.0.1:{ingress_port}");
        let mut cluster = ClusterClientContext::new(endpoints, "aeron:udp?endpoint=127.0.0.1:0");
        cluster.message_timeout_ns = PATIENCE_NS;
        let mut context = LeaseClientContext::new(cluster);
        (context.timeout_ns, context.resend_ns) = (PATIENCE_NS, PATIENCE_NS);
        let client = LeaseClient::new(context).unwrap();
        Self { agents: driver.into_agents(), aeron, client, echoes: 0 }
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        loop {
            let now = SystemClock.now();
            assert!(now.ns < deadline_ns, "{what} did not come");
            for agent in &mut self.agents {
                agent.do_work(&now).unwrap();
            }
            self.aeron.do_work(&now).unwrap();
            let echoes = &mut self.echoes;
            let mut listener = |_: i64, _: i64, _: &[u8]| *echoes += 1;
            self.client.do_work_with(&mut self.aeron, &now, &mut listener);
            if let Some(value) = condition(self) {
                return value;
            }
        }
    }

    fn claim(&mut self, unit: &str) -> Result<Tenure, ClaimError> {
        let id = self.client.start_claim("db", unit, LONG_NS, SystemClock.now().ns).unwrap();
        self.until("the claim's answer", |world| world.client.poll_claim(id))
    }

    /// All steps of a tenure: claimed, denied to another unit, renewed, checked, fenced, waited for, released.
    fn tenure(&mut self, unit: &str, fence: &mut Fence, buffer: &mut Vec<u8>) {
        let tenure = self.claim(unit).unwrap();
        assert_eq!(self.claim("db/2"), Err(ClaimError::Denied));
        assert_eq!(self.claim(unit).unwrap().token, tenure.token);
        let id = self.client.start_check("db", unit, SystemClock.now().ns).unwrap();
        self.until("the check's answer", |world| world.client.poll_check(id, Some(fence))).unwrap();
        assert_eq!(fence.token, tenure.token);
        for (correlation_id, token) in [(1, tenure.token), (2, 0)] {
            // The service echoes the first message; the fence returns the second.
            fence.token = token;
            fence.wrap(correlation_id, b"message", buffer);
            let before = self.echoes;
            self.until("a session", |world| world.client.session()?.offer(buffer).ok());
            self.until("the echo", |world| (world.echoes > before).then_some(()));
        }
        let waits: [RequestId; 3] =
            std::array::from_fn(|_| self.client.start_block("db", SystemClock.now().ns).unwrap());
        self.client.cancel(waits[2]);
        let id = self.client.start_release("db", unit, tenure.token, SystemClock.now().ns).unwrap();
        self.until("the release's answer", |world| world.client.poll_release(id)).unwrap();
        for id in &waits[..2] {
            self.until("the wake-up", |world| world.client.poll_block(*id)).unwrap();
        }
    }
}

/// Runs without the test harness, whose thread would allocate once a test has taken a minute.
fn main() {
    let directory = tempfile::Builder::new().prefix("harrier-leases-").tempdir_in("/dev/shm").unwrap();
    let ports = free_ports(5).unwrap();
    let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let members = format!("0,{}", endpoints.join(","));
    let aeron_directory = directory.path().join("node-aeron");
    let context = NodeContext::new(directory.path().join("node"), aeron_directory, 0, members);
    let settings = LeaseSettings::default();
    // The lease service ignores other messages, so a second service echoes them.
    let services =
        vec![lease_service(settings).unwrap(), fenced(Box::new(|| Box::new(EchoService)), settings).unwrap()];
    let node = Node::launch(context, services).unwrap();
    let mut world = World::new(directory.path(), ports[0]);
    let (mut fence, mut buffer) = (Fence::default(), Vec::new());
    // One-time work of the clients, with their first heartbeat, belongs to the start.
    let end_ns = SystemClock.now().ns + WARM_UP_NS;
    while SystemClock.now().ns < end_ns {
        UNITS.iter().for_each(|unit| world.tenure(unit, &mut fence, &mut buffer));
    }
    // Completes work that became due while the host stalled the process.
    for turn in 0..WARM_UP {
        world.tenure(UNITS[turn % 2], &mut fence, &mut buffer);
    }
    let before = CountingAllocator::count();
    for turn in 0..MEASURED {
        world.tenure(UNITS[turn as usize % 2], &mut fence, &mut buffer);
    }
    assert_eq!(CountingAllocator::count() - before, 0);
    node.stop().unwrap();
}
