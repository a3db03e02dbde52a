//! A driver with a Harrier client.
pub mod seam;

use std::path::Path;

use harrier_client::{Aeron, ClientError, Context, ExclusivePublication, Publication, Subscription};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, DriverHandle, ExecutorMode};
use harrier_platform::{HostTransport, MappedMemory, PausingClock};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::transport::{TransportKind, TransportOptions};
use harrier_ringbuf::{Agent, Clock, Transport};

/// Longest wait for one condition.
pub const PATIENCE_NS: i64 = 60_000_000_000;

/// A sender of numbered messages of one length.
pub struct Numbered {
    message: Vec<u8>,
    sent: u64,
    count: u64,
}

impl Numbered {
    pub fn new(count: u64, length: usize) -> Self {
        Self { message: vec![7; length], sent: 0, count }
    }

    /// Offers the next message, if there is one.
    pub fn offer(&mut self, publication: &mut ExclusivePublication) {
        if self.sent == self.count {
            return;
        }
        self.message[..8].copy_from_slice(&self.sent.to_le_bytes());
        match publication.offer(&self.message) {
            Ok(_) => self.sent += 1,
            Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A receiver of numbered messages, which checks that none is missing.
#[derive(Default)]
pub struct NumberedReader {
    assembler: FragmentAssembler,
    pub received: u64,
}

impl NumberedReader {
    pub fn poll(&mut self, subscription: &mut Subscription, length: usize) {
        let Self { assembler, received } = self;
        subscription.poll(16, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| {
                assert_eq!(message.len(), length);
                assert_eq!(u64::from_le_bytes(message[..8].try_into().unwrap()), *received);
                *received += 1;
            });
        });
    }
}

/// A driver and a client of it on one thread. Their time stands still while the host holds up the thread.
pub struct World {
    agents: Vec<Box<dyn Agent>>,
    pub client: Aeron,
    pub directory: tempfile::TempDir,
    pub handle: DriverHandle,
    /// Lead of the world's time over its clock, ms.
    ahead_ms: i64,
    /// True while the executor, which is the last of the agents, does not run.
    pub holds_executor: bool,
}

/// Returns the settings of a small driver below a directory.
pub fn context(directory: &Path) -> DriverContext {
    let mut context = DriverContext::new(directory.join("aeron"));
    context.seed = 42;
    context.timer_interval_ns = 20_000_000;
    context.client_liveness_timeout_ns = 1_000_000_000;
    context.publication_unblock_timeout_ns = 1_500_000_000;
    context.image_liveness_timeout_ns = 300_000_000;
    context.publication_linger_timeout_ns = 100_000_000;
    context.counters_buffer_length = 1 << 20;
    context.term_buffer_length = 64 << 10;
    context.ipc_term_buffer_length = 64 << 10;
    context
}

/// Environment variable that names the transport of the tests; without it they use sockets.
pub const TRANSPORT_VARIABLE: &str = "HARRIER_TEST_TRANSPORT";

/// Returns the transport of the tests. When the host lacks it, the tests run on sockets and print a message, or fail
/// when everything is required.
fn transport() -> HostTransport {
    let name = std::env::var(TRANSPORT_VARIABLE).ok();
    let kind = name.map(|name| TransportKind::by_name(&name).unwrap()).unwrap_or_default();
    let options = TransportOptions { kind, ..TransportOptions::default() };
    HostTransport::new(&options).unwrap_or_else(|error| {
        let is_required = std::env::var_os("HARRIER_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!is_required, "{error}");
        eprintln!("SKIPPED, runs on sockets: {error}");
        HostTransport::new(&TransportOptions::default()).unwrap()
    })
}

impl World {
    pub fn new(change: impl FnOnce(&mut DriverContext)) -> Self {
        Self::with_transport(transport(), change)
    }

    /// Creates a world on a transport.
    pub fn with_transport<T: Transport>(transport: T, change: impl FnOnce(&mut DriverContext)) -> Self {
        Self::build(transport, ExecutorMode::Inline, change)
    }

    /// Creates a world whose executor is a separate agent.
    pub fn with_executor(change: impl FnOnce(&mut DriverContext)) -> Self {
        Self::build(transport(), ExecutorMode::Queued, change)
    }

    fn build<T: Transport>(
        transport: T,
        mode: ExecutorMode,
        change: impl FnOnce(&mut DriverContext),
    ) -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-streams-").tempdir_in("/dev/shm").unwrap();
        let mut context = context(directory.path());
        change(&mut context);
        let aeron_directory = context.directory.clone();
        let now = PausingClock.now();
        let driver = Driver::build(context, MappedMemory, transport, mode, &now).unwrap();
        let client = Aeron::connect(Context::new(aeron_directory), MappedMemory, &now).unwrap();
        let handle = driver.handle.clone();
        let agents = driver.into_agents();
        Self { agents, client, directory, handle, ahead_ms: 0, holds_executor: false }
    }

    pub fn step(&mut self) {
        let mut now = PausingClock.now();
        now.ns += self.ahead_ms * 1_000_000;
        now.epoch_ms += self.ahead_ms;
        let running = self.agents.len() - usize::from(self.holds_executor);
        for agent in &mut self.agents[..running] {
            agent.do_work(&now).unwrap();
        }
        self.client.do_work(&now).unwrap();
    }

    /// Returns the lead of the world's time over its clock, ns.
    pub fn ahead_ns(&self) -> i64 {
        self.ahead_ms * 1_000_000
    }

    /// Lets this many seconds pass at once.
    pub fn pass(&mut self, seconds: i64) {
        for _ in 0..seconds * 20 {
            self.pass_ms(50);
        }
    }

    /// Runs one duty cycle of all agents after a time.
    pub fn pass_ms(&mut self, ms: i64) {
        self.ahead_ms += ms;
        self.step();
    }

    pub fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(&mut self.client) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    pub fn publication(&mut self, channel: &str, stream_id: i32) -> Result<Publication, ClientError> {
        let id = self.client.add_publication(channel, stream_id).unwrap();
        self.until("the publication", |client| client.publication(id).transpose())
    }

    pub fn exclusive(&mut self, channel: &str, stream_id: i32) -> Result<ExclusivePublication, ClientError> {
        let id = self.client.add_exclusive_publication(channel, stream_id).unwrap();
        self.until("the publication", |client| client.exclusive_publication(id).transpose())
    }

    pub fn subscription(&mut self, channel: &str, stream_id: i32) -> Result<Subscription, ClientError> {
        let id = self.client.add_subscription(channel, stream_id).unwrap();
        self.until("the subscription", |client| client.subscription(id).transpose())
    }

    /// Offers `count` numbered messages of `length` bytes and checks that they arrive in order.
    pub fn exchange(
        &mut self,
        publication: &mut ExclusivePublication,
        subscription: &mut Subscription,
        count: u64,
        length: usize,
    ) {
        let mut numbered = Numbered::new(count, length);
        let mut reader = NumberedReader::default();
        self.until("the last message", |_| {
            numbered.offer(publication);
            reader.poll(subscription, length);
            (reader.received == count).then_some(())
        });
    }

    /// Waits until the driver has done a command.
    pub fn done(&mut self, id: Result<i64, ClientError>) -> Result<(), ClientError> {
        let id = id?;
        self.until("the answer", |client| match client.command_done(id) {
            Ok(is_done) => is_done.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })
    }
}

/// Returns an address of this host with a free port.
pub fn free_address() -> std::net::SocketAddr {
    ([127, 0, 0, 1], harrier_platform::free_ports(1).unwrap()[0]).into()
}
