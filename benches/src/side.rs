//! Attachment of a measuring thread to a driver.

use std::path::{Path, PathBuf};

use harrier::client::{Aeron, ClientError, Context, ExclusivePublication, Publication, Subscription};
use harrier::driver::configuration::Properties;
use harrier::driver::context::{DriverContext, ThreadingMode};
use harrier::driver::{Driver, ExecutorMode, RunningDriver};
use harrier::platform::{HostTransport, MappedMemory, SystemClock, pin_current_thread};
use harrier::ringbuf::{Agent, Clock};

use crate::BenchError;
use crate::stopwatch::Stopwatch;

/// Longest wait for anything, ns.
pub(crate) const PATIENCE_NS: u64 = 20_000_000_000;

/// Creates a fresh directory in memory, which is removed when it is dropped.
pub(crate) fn directory() -> Result<tempfile::TempDir, BenchError> {
    let parent =
        if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    Ok(tempfile::Builder::new().prefix("harrier-bench-").tempdir_in(parent)?)
}

/// Settings of a driver below `directory`; the transport is that of the environment (`HARRIER_DRIVER_TRANSPORT` and so on).
pub(crate) fn driver_context(directory: &Path, name: &str) -> Result<DriverContext, BenchError> {
    let mut context = DriverContext::new(directory.join(name));
    context.seed = u64::from(std::process::id());
    context.term_buffer_sparse_file = false;
    let transport = std::env::vars().filter(|(name, _)| name.starts_with("HARRIER_DRIVER_"));
    Properties::from_environment(transport).apply(&mut context).map_err(BenchError::engine)?;
    Ok(context)
}

/// Returns settings of a client in which no message pays for the first access to a page.
fn client_context(directory: PathBuf) -> Context {
    let mut context = Context::new(directory);
    context.pre_touch_mapped_memory = true;
    context
}

/// Work of a measuring thread beside the measurement.
pub(crate) trait Side {
    /// Runs one duty cycle; returns the work done.
    fn step(&mut self) -> Result<usize, BenchError>;
    /// The client.
    fn aeron(&mut self) -> &mut Aeron;

    /// Steps until `poll` returns a value.
    fn until<V>(
        &mut self,
        what: &'static str,
        mut poll: impl FnMut(&mut Aeron) -> Result<Option<V>, ClientError>,
    ) -> Result<V, BenchError>
    where
        Self: Sized,
    {
        let stopwatch = Stopwatch::start();
        while stopwatch.ns() < PATIENCE_NS {
            self.step()?;
            if let Some(value) = poll(self.aeron()).map_err(BenchError::engine)? {
                return Ok(value);
            }
            std::thread::yield_now();
        }
        Err(BenchError::Timeout(what))
    }

    /// Adds an exclusive publication.
    fn exclusive(&mut self, channel: &str, stream_id: i32) -> Result<ExclusivePublication, BenchError>
    where
        Self: Sized,
    {
        let id = self.aeron().add_exclusive_publication(channel, stream_id).map_err(BenchError::engine)?;
        self.until("the publication", |aeron| aeron.exclusive_publication(id))
    }

    /// Adds a concurrent publication.
    fn concurrent(&mut self, channel: &str, stream_id: i32) -> Result<Publication, BenchError>
    where
        Self: Sized,
    {
        let id = self.aeron().add_publication(channel, stream_id).map_err(BenchError::engine)?;
        self.until("the publication", |aeron| aeron.publication(id))
    }

    /// Adds a subscription.
    fn subscription(&mut self, channel: &str, stream_id: i32) -> Result<Subscription, BenchError>
    where
        Self: Sized,
    {
        let id = self.aeron().add_subscription(channel, stream_id).map_err(BenchError::engine)?;
        self.until("the subscription", |aeron| aeron.subscription(id))
    }
}

/// Driver, client conductor and application in one thread: no hop between cores.
pub(crate) struct Invoked {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
}

impl Invoked {
    pub(crate) fn new(context: DriverContext) -> Result<Self, BenchError> {
        let now = SystemClock.now();
        let directory = context.directory.clone();
        let transport = HostTransport::new(&context.transport).map_err(BenchError::engine)?;
        let driver = Driver::build(context, MappedMemory, transport, ExecutorMode::Inline, &now)
            .map_err(BenchError::engine)?;
        let aeron =
            Aeron::connect(client_context(directory), MappedMemory, &now).map_err(BenchError::engine)?;
        Ok(Self { agents: driver.into_agents(), aeron })
    }
}

impl Side for Invoked {
    #[inline]
    fn step(&mut self) -> Result<usize, BenchError> {
        let now = SystemClock.now();
        let mut work_count = 0;
        for agent in &mut self.agents {
            work_count += agent.do_work(&now).map_err(BenchError::engine)?;
        }
        Ok(work_count + self.aeron.do_work(&now).map_err(BenchError::engine)?)
    }

    fn aeron(&mut self) -> &mut Aeron {
        &mut self.aeron
    }
}

/// A driver on a thread of its own, and a client of it whose conductor the owner runs.
pub(crate) struct Shared {
    aeron: Aeron,
    driver: Option<RunningDriver>,
}

impl Shared {
    pub(crate) fn new(mut context: DriverContext) -> Result<Self, BenchError> {
        context.threading_mode = ThreadingMode::Shared;
        let now = SystemClock.now();
        let directory = context.directory.clone();
        let transport = HostTransport::new(&context.transport).map_err(BenchError::engine)?;
        let driver = Driver::build(context, MappedMemory, transport, ExecutorMode::Inline, &now)
            .map_err(BenchError::engine)?
            .launch(SystemClock, pin_current_thread)?;
        let aeron =
            Aeron::connect(client_context(directory), MappedMemory, &now).map_err(BenchError::engine)?;
        Ok(Self { aeron, driver: Some(driver) })
    }
}

impl Side for Shared {
    fn step(&mut self) -> Result<usize, BenchError> {
        self.aeron.do_work(&SystemClock.now()).map_err(BenchError::engine)
    }

    fn aeron(&mut self) -> &mut Aeron {
        &mut self.aeron
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.aeron.close();
        if let Some(driver) = self.driver.take() {
            // When the driver failed, the measurement has failed before.
            let _outcome = driver.stop();
        }
    }
}
