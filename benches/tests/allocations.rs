//! Messages allocate nothing: streams that have run for a while take no memory.

use std::path::Path;

use harrier::client::{Aeron, Context, ExclusivePublication, Subscription};
use harrier::cluster::client::{ClusterClient, ClusterClientContext, ClusterClientError};
use harrier::driver::context::DriverContext;
use harrier::driver::{Driver, ExecutorMode};
use harrier::platform::{CountingAllocator, HostTransport, MappedMemory, SystemClock, free_ports};
use harrier::ringbuf::append::OfferError;
use harrier::ringbuf::transport::{TransportKind, TransportOptions};
use harrier::ringbuf::{Agent, Clock};
use harrier::services::EchoService;
use harrier::{Node, NodeContext};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const PATIENCE_NS: i64 = 60_000_000_000;
const WARM_UP: u64 = 2_000;
const WARM_UP_NS: i64 = 1_500_000_000;
const MEASURED: u64 = 5_000;
const STREAM_ID: i32 = 7;
/// Number of messages that are offered before the first of them is back.
const BURST: u64 = 100;

struct World {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
}

impl World {
    fn new(directory: &Path, name: &str, transport: HostTransport) -> Self {
        let now = SystemClock.now();
        let mut context = DriverContext::new(directory.join(name));
        context.term_buffer_length = 64 << 10;
        context.ipc_term_buffer_length = 64 << 10;
        let directory = context.directory.clone();
        let driver = Driver::build(context, MappedMemory, transport, ExecutorMode::Inline, &now).unwrap();
        let aeron = Aeron::connect(Context::new(directory), MappedMemory, &now).unwrap();
        Self { agents: driver.into_agents(), aeron }
    }

    fn step(&mut self) {
        let now = SystemClock.now();
        for agent in &mut self.agents {
            agent.do_work(&now).unwrap();
        }
        self.aeron.do_work(&now).unwrap();
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> V {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        while SystemClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(&mut self.aeron) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    fn stream(&mut self, channel: &str) -> (ExclusivePublication, Subscription) {
        let id = self.aeron.add_subscription(channel, STREAM_ID).unwrap();
        let subscription = self.until("the subscription", |aeron| aeron.subscription(id).unwrap());
        let id = self.aeron.add_exclusive_publication(channel, STREAM_ID).unwrap();
        let publication = self.until("the publication", |aeron| aeron.exclusive_publication(id).unwrap());
        (publication, subscription)
    }

    fn exchange(&mut self, stream: &mut (ExclusivePublication, Subscription), count: u64) {
        let (mut sent, mut received) = (0_u64, 0_u64);
        let mut message = [0_u8; 100];
        self.until("the last message", |_| {
            // Messages are sent in bursts, so that there are runs of datagrams.
            while sent < count && sent - received < BURST {
                message[..8].copy_from_slice(&sent.to_le_bytes());
                match stream.0.offer(&message) {
                    Ok(_) => sent += 1,
                    Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => {
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            stream.1.poll(10, &mut |payload, _| {
                assert_eq!(payload.first_chunk(), Some(&received.to_le_bytes()));
                received += 1;
            });
            (received == count).then_some(())
        });
    }
}

fn sockets() -> HostTransport {
    HostTransport::new(&TransportOptions::default()).unwrap()
}

/// Counts allocations of runs of datagrams over one transport back end. A burst is one send call, and arrives
/// together.
fn udp_allocations(kind: TransportKind, segmentation: bool) {
    let options = TransportOptions { kind, segmentation, ..TransportOptions::default() };
    match HostTransport::new(&options) {
        Ok(transport) => {
            let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_ports(1).unwrap()[0]);
            assert_eq!(stream_allocations(&channel, transport), 0, "{options:?}");
        }
        Err(error) => {
            let is_required = std::env::var_os("HARRIER_REQUIRE_PEERS").is_some_and(|value| value == "1");
            assert!(!is_required, "{error}");
            eprintln!("SKIPPED {options:?}: {error}");
        }
    }
}

fn stream_allocations(channel: &str, transport: HostTransport) -> u64 {
    let directory = tempfile::Builder::new().prefix("harrier-allocations-").tempdir_in("/dev/shm").unwrap();
    let mut world = World::new(directory.path(), "aeron", transport);
    let mut stream = world.stream(channel);
    // Actions that clients do once, with their first heartbeat, belong to the start.
    let end_ns = SystemClock.now().ns + WARM_UP_NS;
    while SystemClock.now().ns < end_ns {
        world.exchange(&mut stream, WARM_UP);
    }
    // When the host has held the process up until then, overdue work is done now.
    world.exchange(&mut stream, WARM_UP);
    let before = CountingAllocator::count();
    world.exchange(&mut stream, MEASURED);
    CountingAllocator::count() - before
}

fn echoes(world: &mut World, client: &mut ClusterClient, count: u64) {
    let (mut sent, mut received) = (0_u64, 0_u64);
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    while received < count {
        world.step();
        let now = SystemClock.now();
        assert!(now.ns < deadline_ns, "{received} of {sent} answers");
        let mut listener = |_: i64, _: i64, message: &[u8]| {
            assert_eq!(message.first_chunk(), Some(&received.to_le_bytes()));
            received += 1;
        };
        client.poll(&mut world.aeron, &now, &mut listener).unwrap();
        if client.is_connected() && sent < count && sent - received < 16 {
            let mut message = [0_u8; 100];
            message[..8].copy_from_slice(&sent.to_le_bytes());
            match client.offer(&message) {
                Ok(_) => sent += 1,
                Err(ClusterClientError::Offer(error)) if error.is_retryable() => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn cluster_allocations() -> u64 {
    let directory = tempfile::Builder::new().prefix("harrier-allocations-").tempdir_in("/dev/shm").unwrap();
    let ports = free_ports(5).unwrap();
    let members = format!(
        "0,127.0.0.1:{},127.0.0.1:{},127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}",
        ports[0], ports[1], ports[2], ports[3], ports[4]
    );
    let aeron_directory = directory.path().join("node-aeron");
    let context = NodeContext::new(directory.path().join("node"), aeron_directory, 0, members);
    let node = Node::launch(context, vec![Box::new(|| Box::new(EchoService))]).unwrap();
    let mut world = World::new(directory.path(), "client", sockets());
    let endpoints = format!("0=127.0.0.1:{}", ports[0]);
    let mut context = ClusterClientContext::new(endpoints, "aeron:udp?endpoint=127.0.0.1:0");
    context.message_timeout_ns = PATIENCE_NS;
    let mut client = ClusterClient::new(context).unwrap();
    let end_ns = SystemClock.now().ns + WARM_UP_NS;
    while SystemClock.now().ns < end_ns {
        echoes(&mut world, &mut client, WARM_UP / 10);
    }
    echoes(&mut world, &mut client, WARM_UP / 10);
    let before = CountingAllocator::count();
    echoes(&mut world, &mut client, MEASURED);
    let allocations = CountingAllocator::count() - before;
    node.stop().unwrap();
    allocations
}

/// The only thread of this program besides those that are counted. The standard test harness allocates when a test
/// has taken a minute.
fn main() {
    assert_eq!(stream_allocations("aeron:ipc", sockets()), 0, "IPC");
    for kind in [TransportKind::Sockets, TransportKind::IoUring] {
        udp_allocations(kind, true);
        udp_allocations(kind, false);
    }
    assert_eq!(cluster_allocations(), 0, "cluster");
}
