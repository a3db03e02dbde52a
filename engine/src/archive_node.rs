//! An archive of its own: beside a running media driver, or with one (spec 03 §6.1).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harrier_archive::{Archive, ArchiveContext, FileClock, LogAllocator, PreviousError, SyncLevel};
use harrier_driver::configuration::Properties;
use harrier_driver::context::DriverContext;
use harrier_driver::{
    Driver, ErrorInbox, ExecutorMode, HostDriver, PreviousError as DriverError, RunningDriver,
};
use harrier_platform::{FileStorage, HostTransport, MappedMemory, SystemClock, pin_current_thread};
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::memory::check_apart;
use harrier_ringbuf::runner::{AgentRunner, ThreadPace};
use harrier_ringbuf::{Agent, Clock, SharedThread};

use crate::compose::with_hint;
use crate::node::{Layout, NodeError, background, default_idle, seed};

/// Settings of an archive of its own.
#[derive(Debug, Clone)]
pub struct ArchiveNodeContext {
    /// Settings of the archive.
    pub archive: ArchiveContext,
    /// Settings of the driver that runs with the archive; `None` uses a running one.
    pub driver: Option<DriverContext>,
    /// Assignment of agents to threads. With [`Layout::Fused`] the driver's threading mode has no effect.
    pub layout: Layout,
    /// Idle strategy of the archive's thread.
    pub idle: IdleStrategy,
}

impl ArchiveNodeContext {
    /// Creates default settings of an archive beside a running driver.
    pub fn new(aeron_directory: impl Into<PathBuf>, archive_directory: impl Into<PathBuf>) -> Self {
        let mut archive = ArchiveContext::new(aeron_directory, archive_directory);
        archive.seed = seed();
        Self { archive, driver: None, layout: Layout::Threads, idle: default_idle() }
    }

    /// Runs a driver with the archive, in the same Aeron directory.
    pub fn with_driver(mut self) -> Self {
        let mut driver = DriverContext::new(&self.archive.aeron_directory);
        driver.seed = self.archive.seed.rotate_left(11);
        self.driver = Some(driver);
        self
    }

    /// Reads the settings of archive and driver by name. Returns a warning for each value that is ignored.
    ///
    /// # Errors
    /// [`NodeError::Setting`].
    pub fn apply(&mut self, properties: &Properties) -> Result<Vec<String>, NodeError> {
        let setting = |error: &dyn std::fmt::Display| NodeError::Setting(error.to_string());
        let mut warnings = Vec::new();
        if let Some(directory) = properties.get("aeron.dir") {
            self.archive.aeron_directory = directory.into();
        }
        if let Some(driver) = &mut self.driver {
            warnings = properties.apply(driver).map_err(|error| setting(&error))?;
            self.archive.aeron_directory.clone_from(&driver.directory);
            self.archive.control_mtu_length = driver.mtu_length;
            self.archive.replay_linger_timeout_ns = driver.publication_linger_timeout_ns;
        }
        if let Some(text) = properties.get("aeron.driver.timeout") {
            let timeout_ms: i64 = text.parse().map_err(|_| {
                setting(&format!("aeron.driver.timeout={text} must be a number of milliseconds"))
            })?;
            self.archive.driver_timeout_ns = timeout_ms.saturating_mul(1_000_000);
        }
        let lookup = |name: &str| properties.get(name).map(str::to_owned);
        self.archive.apply(&lookup).map_err(|error| setting(&error))?;
        self.check_required(properties)?;
        self.apply_threads(properties, &mut warnings)?;
        Ok(warnings)
    }

    /// Checks the settings that have no default.
    fn check_required(&self, properties: &Properties) -> Result<(), NodeError> {
        let enabled = properties.get("aeron.archive.control.channel.enabled");
        let is_local = enabled.is_some_and(|text| matches!(text, "0" | "off" | "false"));
        if self.archive.control_channel.is_none() && !is_local {
            return Err(NodeError::Setting(
                "aeron.archive.control.channel must be set, or aeron.archive.control.channel.enabled must be false"
                    .to_owned(),
            ));
        }
        if self.archive.replication_channel.is_none() {
            return Err(NodeError::Setting("aeron.archive.replication.channel must be set".to_owned()));
        }
        Ok(())
    }

    /// Reads the settings of threads. Conductor, recorder and replayer are one agent, so recorder and replayer have no
    /// thread to idle.
    fn apply_threads(
        &mut self,
        properties: &Properties,
        warnings: &mut Vec<String>,
    ) -> Result<(), NodeError> {
        let name = "aeron.archive.idle.strategy";
        if let Some(text) = properties.get(name) {
            self.idle = IdleStrategy::by_name(text)
                .map_err(|error| NodeError::Setting(format!("{name}={text}: {error}")))?;
        }
        for name in ["aeron.archive.recorder.idle.strategy", "aeron.archive.replayer.idle.strategy"] {
            if let Some(text) = properties.get(name) {
                IdleStrategy::by_name(text)
                    .map_err(|error| NodeError::Setting(format!("{name}={text}: {error}")))?;
                warnings.push(format!(
                    "WARNING: {name}={text} has no effect: the archive's agents share a thread"
                ));
            }
        }
        match properties.get("aeron.archive.threading.mode") {
            None | Some("DEDICATED" | "SHARED") => {}
            Some(text) => {
                return Err(NodeError::Setting(format!(
                    "aeron.archive.threading.mode={text} must be DEDICATED or SHARED; INVOKER needs an embedding program"
                )));
            }
        }
        if let Some(text) = properties.get("aeron.archive.max.catalog.entries") {
            warnings.push(format!(
                "WARNING: aeron.archive.max.catalog.entries={text} has no effect: see aeron.archive.catalog.capacity"
            ));
        }
        Ok(())
    }

    /// Formats the effective configuration of all parts.
    pub fn printed(&self) -> String {
        let driver = self.driver.as_ref().map(DriverContext::printed).unwrap_or_default();
        driver + &self.archive.printed()
    }
}

/// A running archive; dropping it stops it.
pub struct ArchiveNode {
    /// Stopped in this order: the archive first.
    runners: Vec<AgentRunner>,
    driver: Option<RunningDriver>,
    is_terminating: Option<Arc<AtomicBool>>,
    ready: Arc<AtomicBool>,
    failures: Arc<ErrorInbox>,
    warnings: Vec<String>,
    previous_errors: Vec<PreviousError>,
    previous_driver_errors: Vec<DriverError>,
}

impl ArchiveNode {
    /// Starts the archive, and its driver if it has one. They connect in their first duty cycles;
    /// [`is_ready`](Self::is_ready) reports when the archive serves clients.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn launch(context: ArchiveNodeContext) -> Result<Self, NodeError> {
        let ArchiveNodeContext { mut archive, driver, layout, idle } = context;
        let now = SystemClock.now();
        // A driver deletes its directory when it starts, so this comes first.
        let mark_directory = archive.mark_file_directory.as_ref().unwrap_or(&archive.archive_directory);
        check_apart(
            &MappedMemory,
            ("driver directory", archive.aeron_directory.as_path()),
            &[
                ("archive directory", archive.archive_directory.as_path()),
                ("mark file directory", mark_directory.as_path()),
            ],
        )?;
        let mut is_guarded = false;
        archive.file_clock.get_or_insert(FileClock::new(SystemClock));
        let driver = match driver {
            None => None,
            Some(settings) => {
                is_guarded = settings.log_allocation_length > 0;
                let transport = HostTransport::new(&settings.transport)?;
                Some(Driver::build(settings, MappedMemory, transport, ExecutorMode::Queued, &now)?)
            }
        };
        if let Some(handle) = driver.as_ref().map(|driver| driver.handle.clone()).filter(|_| is_guarded) {
            archive.control_channel = archive.control_channel.as_deref().map(with_hint);
            archive.log_allocator.get_or_insert(LogAllocator::new(move |id| handle.allocate_log(id)));
        }
        let storage = match archive.file_sync_level.max(archive.catalog_file_sync_level) {
            // Writes to the page cache are faster done inline; only syncs are worth a thread.
            SyncLevel::None => FileStorage::inline(),
            _ => FileStorage::threaded()?,
        };
        let archive = Archive::launch(archive, MappedMemory, storage, &now)?;
        let mut node = Self {
            runners: Vec::new(),
            driver: None,
            is_terminating: driver.as_ref().map(|driver| driver.handle.is_terminating.clone()),
            ready: archive.ready_flag(),
            failures: Arc::default(),
            warnings: archive.warnings().to_vec(),
            previous_errors: archive.previous_errors().to_vec(),
            previous_driver_errors: Vec::new(),
        };
        node.start(archive, driver, layout, idle)?;
        Ok(node)
    }

    fn start(
        &mut self,
        archive: Archive<MappedMemory, FileStorage>,
        mut driver: Option<HostDriver>,
        layout: Layout,
        idle: IdleStrategy,
    ) -> Result<(), NodeError> {
        let mut fused = None;
        if let Some(mut driver) = driver.take() {
            self.previous_driver_errors = std::mem::take(&mut driver.previous_errors);
            match layout {
                Layout::Threads => self.driver = Some(driver.launch(SystemClock, pin_current_thread)?),
                Layout::Fused => {
                    fused = Some((driver.receiver, driver.sender, driver.conductor));
                    if let Some(executor) = driver.executor {
                        self.runners.push(background("aeron-executor", Box::new(executor))?);
                    }
                }
            }
        }
        let failures = self.failures.clone();
        let runner = AgentRunner::start("harrier-archive", move || {
            let thread = SharedThread::new(
                Box::new(ThreadPace::new(SystemClock, idle)),
                Box::new(move |role, error| failures.push(format!("{role}: {error}"))),
            );
            let mut agents: Vec<Box<dyn Agent>> = Vec::new();
            if let Some((receiver, sender, conductor)) = fused {
                agents.push(Box::new(receiver));
                agents.push(Box::new(archive));
                agents.push(Box::new(sender));
                agents.push(Box::new(conductor));
            } else {
                agents.push(Box::new(archive));
            }
            thread.install(agents).map_err(|error| error.to_string())?;
            Ok(thread)
        })?;
        self.runners.insert(0, runner);
        Ok(())
    }

    /// True once the archive serves clients.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// True when a part has ended, or the driver was asked to terminate.
    pub fn is_ending(&self) -> bool {
        self.is_terminating()
            || self.runners.iter().any(AgentRunner::is_finished)
            || self.driver.as_ref().is_some_and(RunningDriver::is_ending)
    }

    /// True when a client has ended the driver that runs with the archive.
    pub fn is_terminating(&self) -> bool {
        self.is_terminating.as_ref().is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    /// Error texts of ended parts, without duplicates.
    pub fn failures(&self) -> Vec<String> {
        self.failures.drain()
    }

    /// Descriptions of damaged catalog entries, which the archive does not serve.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Errors that the last archive on the directory recorded.
    pub fn previous_errors(&self) -> &[PreviousError] {
        &self.previous_errors
    }

    /// Errors that the last driver on its directory recorded; empty without a driver of its own.
    pub fn previous_driver_errors(&self) -> &[DriverError] {
        &self.previous_driver_errors
    }

    /// Stops the archive, then its driver.
    ///
    /// # Errors
    /// Errors of threads that did not end normally.
    pub fn stop(mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        for runner in self.runners.drain(..) {
            if let Err(error) = runner.stop() {
                outcome = Err(error);
            }
        }
        match self.driver.take().map(RunningDriver::stop) {
            Some(Err(error)) => Err(error),
            _ => outcome,
        }
    }
}
