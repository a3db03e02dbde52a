//! Mark files of consensus modules and service containers (spec 04 §1.8, §6.3).

mod header;
mod old_errors;

pub use header::MarkHeader;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use harrier_archive::{OWNER_OFFSET, is_owned, write_owner};
use harrier_protocol::record::UnknownVersion;
use harrier_protocol::sbe::{Encoder, MessageHeader};
use harrier_protocol::{semantic_version, semantic_version_major};
use harrier_ringbuf::error_log::DistinctErrorLog;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, Memory, MemoryError, Now, Region};
use thiserror::Error;

/// Version of mark files and of node-state.
pub const FILE_VERSION: i32 = semantic_version(0, 3, 0);
const HEADER_LENGTH: usize = 8_192;
const ERROR_BUFFER_LENGTH: usize = 1 << 20;
const FILE_PAGE: usize = 4_096;
const VERSION: usize = 8;
const ACTIVITY: usize = 16;
const MEMBER_ID: usize = 64;
const ACTIVITY_TIMEOUT_MS: i64 = 10_000;
/// Component type of a backup.
const BACKUP: i32 = 3;

/// Component that a mark file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// A consensus module.
    ConsensusModule,
    /// The container of a service.
    Container,
}

/// Errors of locking a directory.
#[derive(Debug, Error)]
pub enum MarkError {
    /// Another component is running in the directory.
    #[error("active mark file {}: another process uses the directory; stop it or choose another", path.display())]
    Active {
        /// The mark file.
        path: PathBuf,
    },
    /// A mark file of another version.
    #[error("mark file {} has version {version:#x}, this member reads 0.x", path.display())]
    Version {
        /// The mark file.
        path: PathBuf,
        /// Version found.
        version: i32,
    },
    /// A mark file of another component type.
    #[error("mark file {} belongs to a component of type {found}, not {expected}", path.display())]
    Component {
        /// The mark file.
        path: PathBuf,
        /// Type of this component.
        expected: i32,
        /// Type found.
        found: i32,
    },
    /// The header is invalid.
    #[error("channels and directory names are too long for the mark file")]
    Header,
    /// An owner record of a newer program.
    #[error(transparent)]
    Owner(#[from] UnknownVersion),
    /// The file could not be created, mapped or locked.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Contents of a component's mark file.
#[derive(Debug, Clone)]
pub struct MarkFacts {
    /// Component that the file belongs to.
    pub component: Component,
    /// Directory of the cluster's files.
    pub cluster_directory: PathBuf,
    /// Directory of the media driver.
    pub aeron_directory: PathBuf,
    /// Control stream of the local archive.
    pub archive_stream_id: i32,
    /// Stream from the consensus module to the services.
    pub service_stream_id: i32,
    /// Stream from the services to the consensus module.
    pub module_stream_id: i32,
    /// Stream of ingress; -1 in a service's file.
    pub ingress_stream_id: i32,
    /// Id of the member; -1 in a service's file.
    pub member_id: i32,
    /// Id of the service; -1 in the consensus module's file.
    pub service_id: i32,
    /// Id of the cluster, which its counters carry.
    pub cluster_id: i32,
    /// Channel between consensus module and services.
    pub control_channel: String,
    /// Channel URI of ingress.
    pub ingress_channel: String,
    /// Name of the service.
    pub service_name: String,
}

impl MarkFacts {
    fn file_name(&self, extension: &str) -> String {
        match self.component {
            Component::ConsensusModule => format!("cluster-mark.{extension}"),
            Component::Container => format!("cluster-mark-service-{}.{extension}", self.service_id),
        }
    }

    fn component_name(&self) -> &'static str {
        match self.component {
            Component::ConsensusModule => "CONSENSUS_MODULE",
            Component::Container => "CONTAINER",
        }
    }

    fn component_type(&self) -> i32 {
        match self.component {
            Component::ConsensusModule => 1,
            Component::Container => 2,
        }
    }
}

/// Optional settings of a mark file.
#[derive(Debug, Clone)]
pub struct MarkOptions {
    /// Directory of the mark file when it is not the cluster's; a link file there points to it.
    pub directory: Option<PathBuf>,
    /// Length of the error log, bytes.
    pub error_buffer_length: usize,
    /// Name of the authenticator.
    pub authenticator: String,
    /// Directory of the services' mark files when it is not the cluster's.
    pub services_directory: Option<PathBuf>,
}

impl Default for MarkOptions {
    fn default() -> Self {
        Self {
            directory: None,
            error_buffer_length: ERROR_BUFFER_LENGTH,
            authenticator: String::new(),
            services_directory: None,
        }
    }
}

/// The mark file of a running component.
pub struct MarkFile<M: Memory> {
    buffer: AtomicBuffer,
    /// The component's error log.
    pub errors: DistinctErrorLog,
    previous: Previous,
    next_update_ms: i64,
    _lock: M::Lock,
}

/// Handle that updates the activity of a [`MarkFile`] from another owner.
#[derive(Debug)]
pub struct MarkActivity {
    buffer: AtomicBuffer,
    next_update_ms: i64,
}

impl MarkActivity {
    /// Updates the activity timestamp once a second.
    pub fn update(&mut self, now: &Now) {
        if now.epoch_ms >= self.next_update_ms {
            self.next_update_ms = now.epoch_ms + 1_000;
            self.buffer.store_i64(ACTIVITY, now.epoch_ms, Ordering::Release);
        }
    }
}

impl<M: Memory> MarkFile<M> {
    /// Locks the directory.
    ///
    /// # Errors
    /// See [`MarkError`].
    pub fn take(facts: &MarkFacts, memory: &M, now: &Now) -> Result<Self, MarkError> {
        Self::take_with(facts, &MarkOptions::default(), memory, now)
    }

    /// Locks the directory with optional settings. Errors of an earlier run are saved to a separate file.
    ///
    /// # Errors
    /// See [`MarkError`].
    pub fn take_with(
        facts: &MarkFacts,
        options: &MarkOptions,
        memory: &M,
        now: &Now,
    ) -> Result<Self, MarkError> {
        memory.create_directory(&facts.cluster_directory)?;
        let directory = options.directory.as_deref().unwrap_or(&facts.cluster_directory);
        memory.create_directory(directory)?;
        write_link(facts, directory, memory)?;
        let path = directory.join(facts.file_name("dat"));
        let lock = match memory.lock(&path.with_extension("lock")) {
            Ok(lock) => lock,
            Err(MemoryError::Locked { .. }) => return Err(MarkError::Active { path }),
            Err(error) => return Err(error.into()),
        };
        let errors_length = options.error_buffer_length;
        let length = (HEADER_LENGTH + errors_length).next_multiple_of(FILE_PAGE);
        let mut previous = Previous::NONE;
        let buffer = match memory.map(&path, MapMode::ReadWrite) {
            Ok(buffer) => {
                if buffer.capacity() >= HEADER_LENGTH {
                    previous = check_previous(&buffer, facts, &path, now)?;
                    old_errors::save(&buffer, facts, memory, now)?;
                }
                if buffer.capacity() == length {
                    buffer
                } else {
                    memory.remove(&path)?;
                    memory.create(&path, length, false)?
                }
            }
            Err(error) if error.is_not_found() => memory.create(&path, length, false)?,
            Err(error) => return Err(error.into()),
        };
        // The owner record is flushed before the fields that it confirms, so that a machine crash in between leaves an
        // owned file.
        write_owner(&buffer, i64::from(std::process::id()), now.epoch_ms);
        memory.flush(&buffer)?;
        buffer.zero(0, OWNER_OFFSET);
        buffer.zero(HEADER_LENGTH, length - HEADER_LENGTH);
        write_header(&buffer, facts, options, now)?;
        memory.flush(&buffer)?;
        let errors = DistinctErrorLog::new(buffer.slice(HEADER_LENGTH, errors_length));
        Ok(Self { buffer, errors, previous, next_update_ms: 0, _lock: lock })
    }

    /// Highest candidate term id in an earlier mark file; -1 for none. Present members keep it in node-state.dat.
    pub fn previous_candidate_term_id(&self) -> i64 {
        self.previous.candidate_term_id
    }

    /// True when this implementation was the last to start on the file.
    pub fn was_ours(&self) -> bool {
        self.previous.is_ours
    }

    /// Records that the component failed to start.
    pub fn signal_failed_start(&self) {
        self.buffer.store_i32(VERSION, -1, Ordering::Release);
    }

    /// Marks the component as ready.
    pub fn signal_ready(&self, now: &Now) {
        self.buffer.store_i64(ACTIVITY, now.epoch_ms, Ordering::Release);
        self.buffer.store_i32(VERSION, FILE_VERSION, Ordering::Release);
    }

    /// Sets the id of the member that a container belongs to.
    pub fn set_member_id(&self, member_id: i32) {
        self.buffer.store_i32(MEMBER_ID, member_id, Ordering::Release);
    }

    /// Updates the activity timestamp once a second.
    pub fn update_activity(&mut self, now: &Now) {
        if now.epoch_ms >= self.next_update_ms {
            self.next_update_ms = now.epoch_ms + 1_000;
            self.buffer.store_i64(ACTIVITY, now.epoch_ms, Ordering::Release);
        }
    }

    /// Returns a handle that updates the activity.
    pub fn activity(&self) -> MarkActivity {
        MarkActivity { buffer: self.buffer.clone(), next_update_ms: 0 }
    }

    /// Marks the component as terminated.
    pub fn signal_terminated(&self) {
        self.buffer.store_i64(ACTIVITY, -1, Ordering::Release);
    }
}

/// Replaces the link in the cluster's directory; a mark file inside that directory needs none (spec 04 §6).
fn write_link<M: Memory>(facts: &MarkFacts, directory: &Path, memory: &M) -> Result<(), MarkError> {
    let link = facts.cluster_directory.join(facts.file_name("lnk"));
    match memory.remove(&link) {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    if directory != facts.cluster_directory {
        let text = directory.to_string_lossy();
        memory.create(&link, text.len(), false)?.copy_in(0, text.as_bytes());
    }
    Ok(())
}

/// State that the last component left in a mark file.
#[derive(Debug, Clone, Copy)]
struct Previous {
    candidate_term_id: i64,
    is_ours: bool,
}

impl Previous {
    const NONE: Self = Self { candidate_term_id: -1, is_ours: false };
}

/// Checks the mark of the last component. The lock is free, so only another implementation can be running.
fn check_previous(
    buffer: &AtomicBuffer,
    facts: &MarkFacts,
    path: &Path,
    now: &Now,
) -> Result<Previous, MarkError> {
    let mut head = vec![0; HEADER_LENGTH];
    buffer.copy_out(0, &mut head);
    let Some(previous) = MarkHeader::parse(&head) else { return Ok(Previous::NONE) };
    let version = previous.version;
    if version > 0 && semantic_version_major(version) != semantic_version_major(FILE_VERSION) {
        return Err(MarkError::Version { path: path.to_owned(), version });
    }
    let activity_ms = previous.activity_timestamp_ms;
    let is_fresh = activity_ms > 0 && now.epoch_ms - activity_ms < ACTIVITY_TIMEOUT_MS;
    let is_ours = is_owned(buffer)?;
    if is_fresh && !is_ours {
        return Err(MarkError::Active { path: path.to_owned() });
    }
    let (expected, found) = (facts.component_type(), previous.component_type);
    // A backup may become a member; files older than component types have none.
    let is_backup = facts.component == Component::ConsensusModule && found == BACKUP;
    if version > 0 && found > 0 && found != expected && !is_backup {
        return Err(MarkError::Component { path: path.to_owned(), expected, found });
    }
    Ok(Previous { candidate_term_id: if version > 0 { previous.candidate_term_id } else { -1 }, is_ours })
}

fn write_header(
    buffer: &AtomicBuffer,
    facts: &MarkFacts,
    options: &MarkOptions,
    now: &Now,
) -> Result<(), MarkError> {
    let mut bytes = vec![0; OWNER_OFFSET];
    let header = MessageHeader { block_length: 128, template_id: 200, schema_id: 110, version: 2 };
    let services_directory = options.services_directory.as_deref().unwrap_or(&facts.cluster_directory);
    Encoder::new(&mut bytes, header)
        .i32(4, facts.component_type())
        .i64(8, -1)
        .i64(16, now.epoch_ms)
        .i64(24, i64::from(std::process::id()))
        .i64(32, -1)
        .i32(40, facts.archive_stream_id)
        .i32(44, facts.service_stream_id)
        .i32(48, facts.module_stream_id)
        .i32(52, facts.ingress_stream_id)
        .i32(56, facts.member_id)
        .i32(60, facts.service_id)
        .i32(64, HEADER_LENGTH as i32)
        .i32(68, options.error_buffer_length as i32)
        .i32(72, facts.cluster_id)
        .text(&facts.aeron_directory.to_string_lossy())
        .text(&facts.control_channel)
        .text(&facts.ingress_channel)
        .text(&facts.service_name)
        .text(&options.authenticator)
        .text(&services_directory.to_string_lossy())
        .finish()
        .map_err(|_| MarkError::Header)?;
    buffer.copy_in(0, &bytes);
    Ok(())
}

#[cfg(test)]
mod tests;
