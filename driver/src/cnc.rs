//! The CnC file, through which clients find the driver, and the takeover of the driver's directory (spec 02 §5.14).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use thiserror::Error;

use harrier_protocol::cnc::{
    CNC_FILE, CNC_HEADER_LENGTH, CNC_VERSION, CNC_VERSION_OFFSET, COUNTER_METADATA_RATIO, CncHeader,
};
use harrier_protocol::record::RecordKind;
use harrier_ringbuf::broadcast::Transmitter;
use harrier_ringbuf::counters::CountersManager;
use harrier_ringbuf::date::Date;
use harrier_ringbuf::error_log::{self, DistinctErrorLog};
use harrier_ringbuf::loss_report::LossReport;
use harrier_ringbuf::many_to_one::ManyToOneRing;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, Memory, MemoryError, Now, Region, TransportError};

use crate::context::{DriverContext, InvalidSetting};
use crate::log_files::{IMAGES, PUBLICATIONS};
use crate::resolver::NamesError;

/// File of the loss report, in the driver's directory.
pub const LOSS_REPORT_FILE: &str = "loss-report.dat";

/// Reason why a driver does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another driver uses the directory.
    #[error("Active media driver detected: {}; stop it or choose another directory", path.display())]
    ActiveDriver {
        /// CnC file of that driver.
        path: PathBuf,
    },
    /// The existing CnC file has another version.
    #[error("CnC file {} has version {found}, not {CNC_VERSION}; remove the directory", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: i32,
    },
    /// The directory holds files that do not belong to a driver.
    #[error(
        "directory {} holds {count} files that are not a media driver's ({names}); it is not deleted: choose another directory \
         for the driver, or move them away",
        directory.display()
    )]
    ForeignFiles {
        /// The directory.
        directory: PathBuf,
        /// Number of foreign files and directories in it.
        count: usize,
        /// The names of some of them.
        names: String,
    },
    /// Invalid setting.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The directory could not be created or mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Name resolution could not be started.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// The host lacks or forbids the transport that the settings name.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The sections of the CnC file contradict each other.
    #[error("cannot lay out the CnC file: {0}")]
    Layout(String),
}

/// An error that the previous driver of the directory had recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousError {
    /// Number of occurrences.
    pub observations: i32,
    /// Time of the first occurrence, epoch ms.
    pub first_ms: i64,
    /// Time of the last occurrence, epoch ms.
    pub last_ms: i64,
    /// Text of the error.
    pub text: String,
}

/// Formats the error as the released driver does.
impl fmt::Display for PreviousError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, last] = [self.first_ms, self.last_ms].map(Date::of);
        let text = self.text.trim_end();
        write!(f, "{} observations from {first} to {last} for:\n{text}", self.observations)
    }
}

/// The mapped CnC file and loss report of a running driver.
pub(crate) struct Cnc<M: Memory> {
    header: AtomicBuffer,
    pub(crate) to_driver: ManyToOneRing,
    pub(crate) to_clients: Transmitter,
    pub(crate) counters: CountersManager,
    pub(crate) error_log: DistinctErrorLog,
    pub(crate) loss_report: LossReport,
    /// Bytes mapped for both files.
    pub(crate) mapped_length: usize,
    /// Errors that the previous driver of the directory had recorded.
    pub(crate) previous_errors: Vec<PreviousError>,
    lock: M::Lock,
}

/// Returns the path of the file that a living Harrier driver holds locked. It lies beside the directory, because a
/// starting driver deletes the directory.
fn lock_path(directory: &Path) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    directory.with_file_name(name)
}

impl<M: Memory> Cnc<M> {
    /// Takes the directory and writes its files, except the version, which [`publish`](Self::publish) adds.
    pub(crate) fn create(context: &DriverContext, memory: &M, now: &Now) -> Result<Self, StartError> {
        let directory = &context.directory;
        let path = directory.join(CNC_FILE);
        if let Some(parent) = directory.parent() {
            memory.create_directory(parent)?;
        }
        // With this setting the directory is taken even from a living driver (spec 02 §5.14, §6.3).
        if context.delete_directory_on_start {
            memory.remove(&lock_path(directory))?;
        }
        let lock = match memory.lock(&lock_path(directory)) {
            Ok(lock) => lock,
            Err(MemoryError::Locked { .. }) => return Err(StartError::ActiveDriver { path }),
            Err(error) => return Err(error.into()),
        };
        let taken = Self::take(context, memory, &path, lock, now);
        if taken.is_err()
            && let Ok(lock) = memory.lock(&lock_path(directory))
        {
            let _best_effort = memory.remove_lock_file(&lock, &lock_path(directory));
        }
        taken
    }

    /// Takes a directory whose lock is held.
    fn take(
        context: &DriverContext,
        memory: &M,
        path: &Path,
        lock: M::Lock,
        now: &Now,
    ) -> Result<Self, StartError> {
        let directory = &context.directory;
        let mut previous_errors = Vec::new();
        if !context.delete_directory_on_start {
            previous_errors = check_previous(context, memory, path, now)?;
        }
        crate::directory::remove(memory, directory)?;
        let written = Self::write(context, memory, path, (previous_errors, lock), now);
        if written.is_err() {
            // The first error is more useful than a failure to remove the rest.
            let _best_effort = memory.remove_directory(directory);
        }
        written
    }

    /// Writes the files after the old directory was removed.
    fn write(
        context: &DriverContext,
        memory: &M,
        path: &Path,
        (previous_errors, lock): (Vec<PreviousError>, M::Lock),
        now: &Now,
    ) -> Result<Self, StartError> {
        let directory = &context.directory;
        memory.create_directory(&directory.join(PUBLICATIONS))?;
        memory.create_directory(&directory.join(IMAGES))?;
        let page = context.file_page_size;
        let loss_length = context.loss_report_buffer_length.next_multiple_of(page);
        let loss_report = memory.create(&directory.join(LOSS_REPORT_FILE), loss_length, false)?;

        let header = header(context, now);
        let layout = header.layout().map_err(|error| StartError::Layout(error.to_string()))?;
        let buffer = memory.create(path, layout.file_length, false)?;
        let bytes = header.encode();
        buffer.copy_in(CNC_VERSION_OFFSET + 4, &bytes[CNC_VERSION_OFFSET + 4..]);
        let section = |range: &std::ops::Range<usize>| buffer.slice(range.start, range.len());
        let layout_error = |error: &dyn std::fmt::Display| StartError::Layout(error.to_string());
        let to_driver =
            ManyToOneRing::new(section(&layout.to_driver)).map_err(|error| layout_error(&error))?;
        let to_clients =
            Transmitter::new(section(&layout.to_clients)).map_err(|error| layout_error(&error))?;
        let counters = CountersManager::new(
            section(&layout.counters_metadata),
            section(&layout.counters_values),
            context.counters_free_to_reuse_timeout_ns / 1_000_000,
        )
        .map_err(|error| layout_error(&error))?;
        // Most of the counter sections is never used, so their pages are entered on first use.
        for ring in [&layout.to_driver, &layout.to_clients] {
            memory.populate(&section(ring));
        }
        // This makes the first client's id 1 (spec 02 §5.14).
        to_driver.next_correlation_id();
        Ok(Self {
            header: buffer.slice(0, CNC_HEADER_LENGTH),
            to_driver,
            to_clients,
            counters,
            error_log: DistinctErrorLog::new(section(&layout.error_log)),
            loss_report: LossReport::new(loss_report),
            mapped_length: layout.file_length + loss_length,
            previous_errors,
            lock,
        })
    }

    /// Lets clients connect: writes the heartbeat first and the version last.
    pub(crate) fn publish(&self, now: &Now) {
        self.to_driver.set_consumer_heartbeat_ms(now.epoch_ms);
        self.header.store_i32(CNC_VERSION_OFFSET, CNC_VERSION, Ordering::Release);
    }

    /// Removes the files of a driver that does not start.
    pub(crate) fn remove(self, memory: &M, directory: &Path) -> Result<(), MemoryError> {
        memory.remove_directory(directory)?;
        memory.remove_lock_file(&self.lock, &lock_path(directory))
    }

    /// Splits the file into its sections and the parts that are needed to close it.
    pub(crate) fn into_parts(self) -> CncParts<M> {
        CncParts {
            end: CncEnd { to_driver: self.to_driver.clone(), lock: self.lock },
            to_driver: self.to_driver,
            to_clients: self.to_clients,
            counters: self.counters,
            error_log: self.error_log,
            loss_report: self.loss_report,
        }
    }
}

/// The sections of a CnC file with their writers.
pub(crate) struct CncParts<M: Memory> {
    pub(crate) to_driver: ManyToOneRing,
    pub(crate) to_clients: Transmitter,
    pub(crate) counters: CountersManager,
    pub(crate) error_log: DistinctErrorLog,
    pub(crate) loss_report: LossReport,
    pub(crate) end: CncEnd<M>,
}

/// Holds the directory until the driver closes.
pub(crate) struct CncEnd<M: Memory> {
    to_driver: ManyToOneRing,
    lock: M::Lock,
}

impl<M: Memory> CncEnd<M> {
    /// Marks the driver as ended, for clients and for the next driver.
    pub(crate) fn retire(&self) {
        self.to_driver.set_consumer_heartbeat_ms(-1);
    }

    /// Gives the directory up: removes its lock file.
    pub(crate) fn leave(self, memory: &M, directory: &Path) -> Result<(), MemoryError> {
        memory.remove_lock_file(&self.lock, &lock_path(directory))
    }
}

/// Returns the age of the driver's heartbeat in a directory, ms; `None` when no CnC file can be read.
pub fn heartbeat_age_ms<M: Memory>(memory: &M, directory: &Path, now: &Now) -> Option<i64> {
    let path = directory.join(CNC_FILE);
    let length = memory.length(&path).ok().filter(|length| *length >= CNC_HEADER_LENGTH)?;
    let buffer = memory.map(&path, MapMode::ReadOnly).ok()?;
    let mut bytes = [0; CNC_HEADER_LENGTH];
    buffer.copy_out(0, &mut bytes);
    let layout = CncHeader::decode(&bytes).ok()?.layout().ok()?;
    layout.check_file_length(length).ok()?;
    let ring = ManyToOneRing::new(buffer.slice(layout.to_driver.start, layout.to_driver.len())).ok()?;
    Some(now.epoch_ms - ring.consumer_heartbeat_ms())
}

fn header(context: &DriverContext, now: &Now) -> CncHeader {
    CncHeader {
        version: CNC_VERSION,
        to_driver_length: context.conductor_buffer_length as i32,
        to_clients_length: context.clients_buffer_length as i32,
        counters_metadata_length: (context.counters_buffer_length * COUNTER_METADATA_RATIO) as i32,
        counters_values_length: context.counters_buffer_length as i32,
        error_log_length: context.error_buffer_length as i32,
        client_liveness_timeout_ns: context.client_liveness_timeout_ns,
        start_timestamp_ms: now.epoch_ms,
        pid: i64::from(std::process::id()),
        file_page_size: context.file_page_size as i32,
    }
}

/// Refuses a directory whose driver is alive; returns the errors that a dead one recorded.
fn check_previous<M: Memory>(
    context: &DriverContext,
    memory: &M,
    path: &Path,
    now: &Now,
) -> Result<Vec<PreviousError>, StartError> {
    let length = match memory.length(path) {
        Ok(length) => length,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if length < CNC_HEADER_LENGTH {
        return Ok(Vec::new());
    }
    let buffer = memory.map(path, MapMode::ReadOnly)?;
    let version = buffer.load_i32(CNC_VERSION_OFFSET, Ordering::Acquire);
    // Our lock is free, so a file without a version was left by a driver that died while it started.
    if version == 0 {
        return Ok(Vec::new());
    }
    let mut bytes = [0; CNC_HEADER_LENGTH];
    buffer.copy_out(0, &mut bytes);
    let Ok(header) = CncHeader::decode(&bytes) else {
        return Err(StartError::Version { path: path.to_owned(), found: version });
    };
    let Ok(layout) = header.layout() else { return Ok(Vec::new()) };
    if layout.check_file_length(length).is_err() {
        return Ok(Vec::new());
    }
    let Ok(ring) = ManyToOneRing::new(buffer.slice(layout.to_driver.start, layout.to_driver.len())) else {
        return Ok(Vec::new());
    };
    let heartbeat_ms = ring.consumer_heartbeat_ms();
    let is_fresh = heartbeat_ms > 0 && now.epoch_ms - heartbeat_ms <= context.driver_timeout_ms;
    // A Harrier driver holds the lock while it lives. This process has the lock, so only a peer's driver can be alive.
    if is_fresh && !was_ours(memory, path, header.pid) {
        return Err(StartError::ActiveDriver { path: path.to_owned() });
    }
    let mut errors = Vec::new();
    error_log::read(
        &buffer.slice(layout.error_log.start, layout.error_log.len()),
        0,
        &mut |observations, first_ms, last_ms, text: &str| {
            errors.push(PreviousError { observations, first_ms, last_ms, text: text.to_owned() });
        },
    );
    Ok(errors)
}

/// Name of the file with the id of the Harrier process that made the directory (docs/protocol/own-files.md).
pub(crate) const OWNER_FILE: &str = "harrier.pid";
const OWNER_KIND: RecordKind = RecordKind { magic: *b"HPID", version: 1, name: "driver's owner record" };

fn was_ours<M: Memory>(memory: &M, path: &Path, pid: i64) -> bool {
    let Ok(buffer) = memory.map(&path.with_file_name(OWNER_FILE), MapMode::ReadOnly) else { return false };
    let mut bytes = vec![0; buffer.capacity()];
    buffer.copy_out(0, &mut bytes);
    // A record of a newer version counts as a peer's, so the heartbeat decides whether its driver is alive.
    matches!(OWNER_KIND.open(&bytes), Ok(Some(payload)) if *payload == pid.to_le_bytes())
}

/// Marks the directory as made by this process, so that a free lock shows the death of the process.
pub(crate) fn write_owner<M: Memory>(memory: &M, directory: &Path) -> Result<(), MemoryError> {
    let record = OWNER_KIND.seal(&i64::from(std::process::id()).to_le_bytes());
    memory.create(&directory.join(OWNER_FILE), record.len(), false)?.copy_in(0, &record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::heap::HeapMemory;

    fn context() -> DriverContext {
        DriverContext::new("/shm/aeron")
    }

    fn at(epoch_ms: i64) -> Now {
        Now { ns: 0, epoch_ms }
    }

    #[test]
    fn a_live_driver_keeps_its_directory() {
        let memory = HeapMemory::new();
        let first = Cnc::create(&context(), &memory, &at(1_000)).unwrap();
        first.publish(&at(1_000));
        assert!(matches!(Cnc::create(&context(), &memory, &at(1_000)), Err(StartError::ActiveDriver { .. })));
    }

    #[test]
    fn a_peers_driver_is_known_by_its_heartbeat() {
        let memory = HeapMemory::new();
        let first = Cnc::create(&context(), &memory, &at(1_000)).unwrap();
        first.publish(&at(1_000));
        drop(first);
        let again = |epoch_ms| Cnc::create(&context(), &memory, &at(epoch_ms)).map(|_| ());
        assert!(matches!(again(11_000), Err(StartError::ActiveDriver { .. })));
        again(11_001).unwrap();
    }

    #[test]
    fn a_dead_driver_of_ours_is_known_at_once() {
        let memory = HeapMemory::new();
        let mut first = Cnc::create(&context(), &memory, &at(1_000)).unwrap();
        write_owner(&memory, &context().directory).unwrap();
        first.error_log.record(1_000, "it broke");
        first.publish(&at(1_000));
        drop(first);
        let second = Cnc::create(&context(), &memory, &at(1_001)).unwrap();
        let expected =
            "1 observations from 1970-01-01 00:00:01.000+0000 to 1970-01-01 00:00:01.000+0000 for:\nit broke";
        assert_eq!(second.previous_errors[0].to_string(), expected);
    }

    #[test]
    fn a_cut_or_foreign_file_is_no_panic() {
        let memory = HeapMemory::new();
        let path = Path::new("/shm/aeron").join(CNC_FILE);
        memory.create(&path, 100, true).unwrap();
        Cnc::create(&context(), &memory, &at(1_000)).map(|_| ()).unwrap();
        memory.remove(&path).unwrap();
        let buffer = memory.create(&path, 4_096, true).unwrap();
        buffer.store_i32(0, 0x0009_0000, Ordering::Release);
        assert!(matches!(
            Cnc::create(&context(), &memory, &at(1_000)),
            Err(StartError::Version { found: 0x0009_0000, .. })
        ));
    }
}
