//! Small media drivers that commands run themselves.

use std::path::{Path, PathBuf};

use harrier::driver::context::{DriverContext, ThreadingMode};
use harrier::driver::{ExecutorMode, HostDriver, RunningDriver};
use harrier::platform::SystemClock;
use harrier::ringbuf::idle::{Backoff, IdleStrategy};
use harrier::ringbuf::{Agent, Clock};

use crate::CommandError;

/// Creates a directory below /dev/shm, or where the system keeps temporary files. It is removed when it is dropped.
pub(crate) fn directory(prefix: &str) -> Result<tempfile::TempDir, CommandError> {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix(prefix).tempdir_in(parent).map_err(CommandError::failed)
}

/// Returns settings of a small driver: few counters, and ids that no other driver draws.
pub(crate) fn context(directory: &Path) -> DriverContext {
    let mut context = DriverContext::new(directory.join("aeron"));
    context.seed = SystemClock.now().ns as u64 ^ u64::from(std::process::id());
    context.threading_mode = ThreadingMode::Shared;
    context.shared_idle = IdleStrategy::Backoff(Backoff::new(10, 20, 1_000, 200_000));
    context.counters_buffer_length = 1 << 20;
    context
}

/// A driver on a thread of its own.
pub(crate) struct OwnDriver {
    _running: RunningDriver,
    /// Removed when the driver has stopped.
    directory: tempfile::TempDir,
}

impl OwnDriver {
    /// Starts a driver with short buffers that sleeps without work.
    pub(crate) fn start(prefix: &str) -> Result<Self, CommandError> {
        let directory = directory(prefix)?;
        let mut context = context(directory.path());
        context.term_buffer_length = 64 << 10;
        context.ipc_term_buffer_length = 64 << 10;
        let now = SystemClock.now();
        let driver =
            HostDriver::on_host(context, ExecutorMode::Queued, &now).map_err(CommandError::failed)?;
        let running = driver.launch_on_host().map_err(CommandError::failed)?;
        Ok(Self { _running: running, directory })
    }

    /// Directory of the driver.
    pub(crate) fn aeron_directory(&self) -> PathBuf {
        self.directory.path().join("aeron")
    }
}

/// A driver whose agents its owner runs: the shortest path between a program and its sockets.
pub(crate) struct InvokedDriver {
    /// Dropped first; the directory is removed afterwards.
    pub(crate) agents: Vec<Box<dyn Agent>>,
    directory: tempfile::TempDir,
}

impl InvokedDriver {
    /// Starts a driver with terms of the usual length.
    pub(crate) fn start(prefix: &str) -> Result<Self, CommandError> {
        let directory = directory(prefix)?;
        let mut context = context(directory.path());
        context.term_buffer_sparse_file = true;
        let now = SystemClock.now();
        let driver =
            HostDriver::on_host(context, ExecutorMode::Inline, &now).map_err(CommandError::failed)?;
        Ok(Self { agents: driver.into_agents(), directory })
    }

    /// Directory of the driver.
    pub(crate) fn aeron_directory(&self) -> PathBuf {
        self.directory.path().join("aeron")
    }
}
