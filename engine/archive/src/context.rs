//! Settings of an archive (spec 03 §6.2).

mod settings;
mod validation;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use harrier_ringbuf::Clock;
use thiserror::Error;

use crate::auth::{Authenticator, AuthorisationService};
use crate::checksum::Checksum;
use crate::log_allocator::LogAllocator;

/// Crashes that written data survives (spec 03 §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncLevel {
    /// A process crash.
    None,
    /// A machine crash: data is synced after each write.
    Data,
    /// A machine crash: data and metadata are synced after each write.
    All,
}

impl SyncLevel {
    /// Converts a level number.
    pub fn from_level(level: u32) -> Option<Self> {
        [Self::None, Self::Data, Self::All].get(level as usize).copied()
    }
}

/// Treatment of a recording's end that a machine crash may have torn (spec 03 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TornTail {
    /// The archive refuses to start and asks for ArchiveTool, as Aeron does.
    Refuse,
    /// The recording ends before the first incomplete frame, and the bytes after it are zeroed. With a record checksum
    /// every frame of the last segment is checked. No synced data is lost.
    Cut,
}

/// Clock that times reads and writes of segments.
#[derive(Clone)]
pub struct FileClock(Arc<dyn Clock + Send + Sync>);

impl FileClock {
    /// Creates a file clock from `clock`.
    pub fn new(clock: impl Clock + Send + Sync + 'static) -> Self {
        Self(Arc::new(clock))
    }

    pub(crate) fn time_ns(&self) -> i64 {
        self.0.now().ns
    }
}

impl fmt::Debug for FileClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileClock")
    }
}

/// Invalid setting.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("archive setting {setting} {rule}")]
pub struct InvalidSetting {
    /// Name and value.
    pub setting: String,
    /// Description of valid values.
    pub rule: &'static str,
}

/// All settings of an archive. Times are ns, lengths bytes; names and defaults are those of spec 03 §6.2.
#[derive(Debug, Clone)]
pub struct ArchiveContext {
    /// Directory of the media driver.
    pub aeron_directory: PathBuf,
    /// Directory of the catalog and the segments.
    pub archive_directory: PathBuf,
    /// Directory of the mark file; `None` for the archive's directory.
    pub mark_file_directory: Option<PathBuf>,
    /// True to remove the archive's directory with all recordings at the start.
    pub delete_directory_on_start: bool,
    /// Id of the archive; `None` uses an id from the driver.
    pub archive_id: Option<i64>,
    /// UDP channel for requests of remote clients; `None` serves local clients only.
    pub control_channel: Option<String>,
    /// Stream for requests of remote clients.
    pub control_stream_id: i32,
    /// IPC channel for requests of local clients.
    pub local_control_channel: String,
    /// Stream for requests of local clients.
    pub local_control_stream_id: i32,
    /// Term length of response publications, bytes.
    pub control_term_buffer_length: i32,
    /// MTU of response publications, bytes.
    pub control_mtu_length: i32,
    /// True when the logs of response publications are sparse files.
    pub control_term_buffer_sparse: bool,
    /// True to publish recording events.
    pub recording_events_enabled: bool,
    /// Channel of recording events.
    pub recording_events_channel: String,
    /// Stream of recording events.
    pub recording_events_stream_id: i32,
    /// Channel on which other archives replay to replications; requests may name another one.
    pub replication_channel: Option<String>,
    /// Channel on which source archives answer; `None` uses an ephemeral port on the control channel's host.
    pub replication_response_channel: Option<String>,
    /// Timeout of each step of a replication, ns.
    pub replication_message_timeout_ns: i64,
    /// Length of a segment file, bytes.
    pub segment_file_length: i32,
    /// Maximum bytes of one read or write of a segment.
    pub file_io_max_length: usize,
    /// Sync level of segments.
    pub file_sync_level: SyncLevel,
    /// Sync level of the catalog.
    pub catalog_file_sync_level: SyncLevel,
    /// Free bytes below which no recording starts.
    pub low_storage_space_threshold: u64,
    /// Maximum number of active recordings.
    pub max_concurrent_recordings: usize,
    /// Maximum number of active replays.
    pub max_concurrent_replays: usize,
    /// Initial length of the catalog, bytes.
    pub catalog_capacity: usize,
    /// Time in which a client and its response channel must connect, ns.
    pub connect_timeout_ns: i64,
    /// Interval of pings to clients, ns.
    pub session_liveness_check_interval_ns: i64,
    /// Time after which an ended replay is closed, ns.
    pub replay_linger_timeout_ns: i64,
    /// Checksum written into recorded frames.
    pub record_checksum: Option<Checksum>,
    /// Checksum verified in replayed frames.
    pub replay_checksum: Option<Checksum>,
    /// Treatment of a torn end of a recording; not an Aeron setting.
    pub torn_tail: TornTail,
    /// Authenticates clients.
    pub authenticator: Authenticator,
    /// Authorises requests.
    pub authorisation: AuthorisationService,
    /// Time after which the start fails without a driver, ns.
    pub driver_timeout_ns: i64,
    /// Length of the mark file's error log, bytes.
    pub error_buffer_length: usize,
    /// Duty cycles longer than this are counted, ns.
    pub conductor_cycle_threshold_ns: i64,
    /// As the conductor's; recorder, replayer and conductor are one agent, so only the conductor's has an effect.
    pub recorder_cycle_threshold_ns: i64,
    /// As the conductor's; see `recorder_cycle_threshold_ns`.
    pub replayer_cycle_threshold_ns: i64,
    /// Maximum number of control sessions.
    pub max_control_sessions: usize,
    /// Clock that times reads and writes of segments for their counters; `None` uses the duty cycle's time.
    pub file_clock: Option<FileClock>,
    /// Allocates the log of a control image once a session on it is authenticated; for control channels with
    /// `log-allocation=hint`.
    pub log_allocator: Option<LogAllocator>,
    /// Seed of control session ids and replay tokens.
    pub seed: u64,
}

impl ArchiveContext {
    /// Creates default settings for a driver's and an archive's directory.
    pub fn new(aeron_directory: impl Into<PathBuf>, archive_directory: impl Into<PathBuf>) -> Self {
        Self {
            aeron_directory: aeron_directory.into(),
            archive_directory: archive_directory.into(),
            mark_file_directory: None,
            delete_directory_on_start: false,
            archive_id: None,
            control_channel: None,
            control_stream_id: 10,
            local_control_channel: "aeron:ipc?term-length=64k".into(),
            local_control_stream_id: 10,
            control_term_buffer_length: 64 << 10,
            control_mtu_length: 1_408,
            control_term_buffer_sparse: true,
            recording_events_enabled: false,
            recording_events_channel: "aeron:udp?control-mode=dynamic|control=localhost:8030".into(),
            recording_events_stream_id: 30,
            replication_channel: None,
            replication_response_channel: None,
            replication_message_timeout_ns: 10_000_000_000,
            segment_file_length: 128 << 20,
            file_io_max_length: 1 << 20,
            file_sync_level: SyncLevel::None,
            catalog_file_sync_level: SyncLevel::None,
            low_storage_space_threshold: 128 << 20,
            max_concurrent_recordings: 20,
            max_concurrent_replays: 20,
            catalog_capacity: 1 << 20,
            connect_timeout_ns: 5_000_000_000,
            session_liveness_check_interval_ns: 1_000_000_000,
            replay_linger_timeout_ns: 5_000_000_000,
            record_checksum: None,
            replay_checksum: None,
            torn_tail: TornTail::Refuse,
            authenticator: Authenticator::AllowAll,
            authorisation: AuthorisationService::AllowAll,
            driver_timeout_ns: 10_000_000_000,
            error_buffer_length: 1 << 20,
            conductor_cycle_threshold_ns: 100_000_000,
            recorder_cycle_threshold_ns: 100_000_000,
            replayer_cycle_threshold_ns: 100_000_000,
            max_control_sessions: 1_024,
            file_clock: None,
            log_allocator: None,
            seed: 0,
        }
    }
}
