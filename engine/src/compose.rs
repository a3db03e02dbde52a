//! Composition of a node from its parts, for any back ends: the host's or a simulator's.

use harrier_archive::{
    Archive, ArchiveContext, Checksum, LogAllocator, RecordingDescriptor, SyncLevel, TornTail,
};
use harrier_cluster::module::{ConsensusModule, ConsensusModuleContext, ModuleError};
use harrier_cluster::recording_log::is_recording_log_empty;
use harrier_cluster::service::{ClusteredService, ServiceContainer, ServiceContainerContext};
use harrier_driver::configuration::Properties;
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode};
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::memory::check_apart;
use harrier_ringbuf::{Agent, Memory, Now, Storage, Transport, Waiter};

use crate::fused;
use crate::lasting::Lasting;
use crate::node::{NodeContext, NodeError};

/// The settings of all parts of a node, each ready to be changed before [`Composition::build`].
#[derive(Debug, Clone)]
pub struct PartContexts {
    /// Media driver.
    pub driver: DriverContext,
    /// Archive.
    pub archive: ArchiveContext,
    /// Consensus module.
    pub module: ConsensusModuleContext,
    /// One container for each service that the node runs.
    pub containers: Vec<ServiceContainerContext>,
}

impl PartContexts {
    /// Derives the settings of a node's parts; `service_count` services run in the node.
    pub fn of(context: &NodeContext, service_count: usize) -> Self {
        Self {
            driver: driver_context(context),
            archive: archive_context(context),
            module: module_context(context, service_count),
            containers: container_contexts(context, service_count),
        }
    }

    /// Reads settings by name. Directories, member and services keep the values of [`NodeContext`]. Returns a warning
    /// for each unreadable value of the driver's settings.
    ///
    /// # Errors
    /// [`NodeError::Setting`].
    pub fn apply(&mut self, properties: &Properties) -> Result<Vec<String>, NodeError> {
        let mut driver = self.driver.clone();
        let warnings = properties.apply(&mut driver).map_err(setting)?;
        driver.directory.clone_from(&self.driver.directory);
        self.driver = driver;
        let lookup = |name: &str| {
            let is_own = !OF_THE_NODE.contains(&name);
            is_own.then(|| properties.get(name)).flatten().map(str::to_owned)
        };
        self.archive.apply(&lookup).map_err(setting)?;
        self.module.apply(&lookup).map_err(setting)?;
        for container in &mut self.containers {
            container.apply(&lookup).map_err(setting)?;
        }
        Ok(warnings)
    }
}

/// Settings that the node's own context determines.
const OF_THE_NODE: [&str; 22] = [
    "aeron.dir",
    "aeron.archive.dir",
    "aeron.archive.dir.delete.on.start",
    "aeron.archive.mark.file.dir",
    "aeron.archive.control.channel",
    "aeron.archive.control.channel.enabled",
    "aeron.archive.control.stream.id",
    "aeron.archive.local.control.channel",
    "aeron.archive.local.control.stream.id",
    "aeron.archive.segment.file.length",
    "aeron.archive.file.sync.level",
    "aeron.archive.catalog.file.sync.level",
    "aeron.archive.record.checksum",
    "aeron.archive.replay.checksum",
    "aeron.archive.authenticator.supplier",
    "aeron.cluster.dir",
    "aeron.cluster.services.dir",
    "aeron.cluster.id",
    "aeron.cluster.member.id",
    "aeron.cluster.members",
    "aeron.cluster.service.id",
    "aeron.cluster.service.count",
];

fn setting(error: impl std::fmt::Display) -> NodeError {
    NodeError::Setting(error.to_string())
}

/// The parts of a node; they find each other in their first duty cycles.
pub struct Composition<M: Memory, S: Storage, T: Transport> {
    /// Media driver.
    pub driver: Driver<M, T>,
    /// Archive.
    pub archive: Archive<M, S>,
    /// Consensus module.
    pub module: ConsensusModule<M, S>,
    /// Settings of the services' containers, which are created on the threads that run them.
    pub containers: Vec<ServiceContainerContext>,
    memory: M,
}

impl<M: Memory, S: Storage, T: Transport> Composition<M, S, T> {
    /// Locks the directories, recovers the state of an earlier run and creates the parts. `storage` is called once for
    /// each part with files: the archive, then the consensus module.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn build(
        contexts: PartContexts,
        memory: &M,
        transport: T,
        mut storage: impl FnMut() -> std::io::Result<S>,
        mode: ExecutorMode,
        now: &Now,
    ) -> Result<Self, NodeError> {
        let PartContexts { driver, mut archive, mut module, containers } = contexts;
        let directories = [
            ("archive directory", archive.archive_directory.as_path()),
            ("cluster directory", module.cluster_directory.as_path()),
        ];
        check_apart(memory, ("driver directory", &driver.directory), &directories)?;
        let is_guarded = driver.log_allocation_length > 0;
        let driver = Driver::build(driver, memory.clone(), transport, mode, now)?;
        if is_guarded {
            let handle = driver.handle.clone();
            let allocator = LogAllocator::new(move |id| handle.allocate_log(id));
            module.ingress_channel = with_hint(&module.ingress_channel);
            module.log_allocator.get_or_insert(allocator.clone());
            archive.control_channel = archive.control_channel.as_deref().map(with_hint);
            archive.log_allocator.get_or_insert(allocator);
        }
        let archive = Archive::launch(archive, memory.clone(), storage()?, now)?;
        let mut storage = storage()?;
        check_log(&archive, &module, &mut storage)?;
        let module = ConsensusModule::launch(module, memory.clone(), storage, now)?;
        Ok(Self { driver, archive, module, containers, memory: memory.clone() })
    }

    /// Returns all agents of a fused node in message order. `waiter` creates the function with which a service's
    /// callback waits; `services` are those that the node runs.
    ///
    /// # Errors
    /// A service whose directory is taken.
    pub fn into_fused(
        self,
        services: Vec<Box<dyn ClusteredService>>,
        mut waiter: impl FnMut() -> Box<dyn Waiter>,
        now: &Now,
    ) -> Result<Vec<Box<dyn Agent>>, NodeError>
    where
        S: 'static,
    {
        let Self { driver, archive, module, containers, memory } = self;
        let Driver { conductor, sender, receiver, executor, .. } = driver;
        let (module, commit) = fused::split(module);
        let mut agents: Vec<Box<dyn Agent>> =
            vec![Box::new(receiver), Box::new(module), Box::new(archive), Box::new(commit)];
        for (context, service) in containers.into_iter().zip(services) {
            let container = ServiceContainer::launch(context, service, memory.clone(), waiter(), now)?;
            agents.push(Box::new(Lasting::new(container)));
        }
        agents.push(Box::new(sender));
        agents.push(Box::new(conductor));
        if let Some(executor) = executor {
            agents.push(Box::new(executor));
        }
        Ok(agents)
    }
}

/// Checks that an archive with a log has a recording log beside it. Otherwise the member would begin an empty log.
fn check_log<M: Memory, S: Storage>(
    archive: &Archive<M, S>,
    module: &ConsensusModuleContext,
    storage: &mut S,
) -> Result<(), NodeError> {
    let directory = &module.cluster_directory;
    if module.start_anew || !is_recording_log_empty(storage, directory).map_err(ModuleError::from)? {
        return Ok(());
    }
    let is_log = |recording: &&RecordingDescriptor| {
        recording.stream_id == module.log_stream_id && recording.stop_position > recording.start_position
    };
    let Some(log) = archive.catalog().valid_from(0).find(is_log) else { return Ok(()) };
    let (id, start, stop) = (log.recording_id, log.start_position, log.stop_position);
    let found = format!("the archive has a log from {start} to {stop} in recording {id}");
    Err(ModuleError::RecordingLogMissing { directory: directory.clone(), found }.into())
}

/// Adds the parameter that allocates an image's whole log only after authentication.
pub(crate) fn with_hint(channel: &str) -> String {
    match ChannelUri::parse(channel) {
        Ok(mut uri) => {
            uri.put_if_absent("log-allocation", "hint");
            uri.to_string()
        }
        // The subscribing part reports the error.
        Err(_) => channel.to_owned(),
    }
}

/// Maximum term length of an image in a node.
const MAX_IMAGE_TERM_LENGTH: i32 = 64 << 20;
/// Initial log length of an unauthenticated sender's image.
const UNAUTHENTICATED_LOG_LENGTH: i32 = 256 << 10;
/// Maximum sessions of one stream.
const STREAM_SESSION_LIMIT: i32 = 4_096;

fn driver_context(context: &NodeContext) -> DriverContext {
    let mut driver = DriverContext::new(&context.aeron_directory);
    driver.image_max_term_length = MAX_IMAGE_TERM_LENGTH;
    driver.log_allocation_length = UNAUTHENTICATED_LOG_LENGTH;
    driver.stream_session_limit = STREAM_SESSION_LIMIT;
    driver.seed = context.seed;
    driver.term_buffer_sparse_file = context.sparse_logs;
    driver
}

fn archive_context(context: &NodeContext) -> ArchiveContext {
    let mut archive = ArchiveContext::new(&context.aeron_directory, context.directory.join("archive"));
    archive.seed = context.seed.rotate_left(7);
    archive.segment_file_length = context.segment_length;
    archive.file_sync_level = context.sync_level;
    archive.catalog_file_sync_level = context.sync_level;
    // A machine crash tears only data that was never acknowledged; checksums distinguish it from acknowledged data.
    archive.torn_tail = TornTail::Cut;
    if context.sync_level > SyncLevel::None {
        archive.record_checksum = Some(Checksum::Crc32c);
    }
    let member = harrier_cluster::members::parse(&context.members)
        .ok()
        .and_then(|members| members.into_iter().find(|member| member.id == context.member_id));
    let endpoint = member.map(|member| member.archive);
    let host = endpoint.as_ref().and_then(|endpoint| endpoint.rsplit_once(':'));
    archive.replication_channel = host.map(|(host, _)| format!("aeron:udp?endpoint={host}:0"));
    archive.control_channel = endpoint.map(|endpoint| format!("aeron:udp?endpoint={endpoint}"));
    archive
}

fn module_context(context: &NodeContext, services: usize) -> ConsensusModuleContext {
    let directory = context.directory.join("cluster");
    let mut module =
        ConsensusModuleContext::new(&context.aeron_directory, directory, context.member_id, &context.members);
    module.cluster_id = context.cluster_id;
    module.start_anew = context.start_anew;
    module.service_count = context.service_count.max(services);
    module.max_sessions = context.max_sessions;
    module.session_timeout_ns = context.session_timeout_ns;
    module.log_channel = format!("aeron:udp?term-length={}", context.log_term_length);
    module.snapshot_channel = snapshot_channel(context);
    module.archive.control_response_stream_id = context.cluster_id * 100 + 120;
    module.archive.seed = context.seed.rotate_left(13);
    module.seed = context.seed.rotate_left(21);
    module.file_sync_level = match context.sync_level {
        SyncLevel::None => None,
        SyncLevel::Data => Some(harrier_ringbuf::storage::SyncLevel::Data),
        SyncLevel::All => Some(harrier_ringbuf::storage::SyncLevel::All),
    };
    module
}

/// Uses the log's term length: the driver's default for IPC takes more memory than a snapshot needs.
fn snapshot_channel(context: &NodeContext) -> String {
    format!("aeron:ipc?alias=snapshot|term-length={}", context.log_term_length)
}

fn container_contexts(context: &NodeContext, count: usize) -> Vec<ServiceContainerContext> {
    (0..count as i32)
        .map(|service_id| {
            let directory = context.directory.join("cluster");
            let mut container = ServiceContainerContext::new(&context.aeron_directory, directory, service_id);
            container = container.for_cluster(context.cluster_id);
            container.snapshot_channel = snapshot_channel(context);
            container.archive.seed = context.seed.rotate_left(29 + service_id as u32);
            container
        })
        .collect()
}
