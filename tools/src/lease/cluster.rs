//! The session with the cluster, over a driver that runs or one of its own.

use std::path::Path;

use harrier::cluster::client::ClusterClientContext;
use harrier::driver::context::{DriverContext, ThreadingMode};
use harrier::driver::{Driver, ExecutorMode, RunningDriver};
use harrier::lease::LeaseClientContext;
use harrier::leases::BlockingLeaseClient;
use harrier::platform::{MappedMemory, SystemClock, UdpTransport, pin_current_thread};
use harrier::ringbuf::Clock;
use harrier::ringbuf::idle::{Backoff, IdleStrategy};

use super::SessionArguments;
use crate::CommandError;

/// A lease client and what it works with. Dropped in this order: the client ends its session before its driver goes.
pub(super) struct Session {
    pub(super) client: BlockingLeaseClient,
    _driver: Option<OwnDriver>,
}

struct OwnDriver {
    _running: RunningDriver,
    /// Removed when the driver has stopped.
    directory: tempfile::TempDir,
}

impl OwnDriver {
    /// A small driver in shared memory: one thread, short buffers, at rest without work.
    fn start() -> Result<Self, CommandError> {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new()
            .prefix("harrier-lease-")
            .tempdir_in(parent)
            .map_err(CommandError::failed)?;
        let mut context = DriverContext::new(directory.path().join("aeron"));
        let now = SystemClock.now();
        context.seed = now.ns as u64 ^ u64::from(std::process::id());
        context.threading_mode = ThreadingMode::Shared;
        context.shared_idle = IdleStrategy::Backoff(Backoff::new(10, 20, 1_000, 200_000));
        context.counters_buffer_length = 1 << 20;
        context.term_buffer_length = 64 << 10;
        context.ipc_term_buffer_length = 64 << 10;
        let driver = Driver::build(context, MappedMemory, UdpTransport, ExecutorMode::Queued, &now)
            .map_err(CommandError::failed)?;
        let running = driver.launch(SystemClock, pin_current_thread).map_err(CommandError::failed)?;
        Ok(Self { _running: running, directory })
    }
}

impl Session {
    /// Opens a session; calls wait for it.
    pub(super) fn open(arguments: &SessionArguments) -> Result<Self, CommandError> {
        let Some(ingress) = &arguments.ingress else {
            return Err(CommandError::Usage("--ingress is missing: id=host:port of each member".into()));
        };
        let egress = format!("aeron:udp?endpoint={}", arguments.egress);
        let mut cluster = ClusterClientContext::new(ingress.as_str(), egress);
        cluster.ingress_channel = "aeron:udp?term-length=64k".into();
        cluster.client_name = "harrier-lease".into();
        let timeout_ns = (arguments.timeout_ms as i64).saturating_mul(1_000_000);
        cluster.message_timeout_ns = timeout_ns;
        let mut context = LeaseClientContext::new(cluster);
        context.timeout_ns = timeout_ns;
        let (directory, driver) = match &arguments.aeron_dir {
            Some(directory) => (directory.clone(), None),
            None => {
                let own = OwnDriver::start()?;
                (own.directory.path().join("aeron"), Some(own))
            }
        };
        let client = BlockingLeaseClient::connect(directory, context)
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        Ok(Self { client, _driver: driver })
    }
}
