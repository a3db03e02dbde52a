//! The archive's mark file, which identifies the owner of the directory (spec 03 §4.6).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use harrier_protocol::record::UnknownVersion;
use harrier_protocol::sbe::{Decoder, Encoder, MessageHeader};
use harrier_protocol::semantic_version_major;
use harrier_ringbuf::date::Date;
use harrier_ringbuf::error_log::{self, DistinctErrorLog};
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, Memory, MemoryError, Now, Region};
use thiserror::Error;

use crate::catalog::FILE_VERSION;
use crate::context::ArchiveContext;
use crate::owner::{OWNER_OFFSET, is_owned, write_owner};

/// Name of the mark file.
pub const MARK_FILE: &str = "archive-mark.dat";
const HEADER_LENGTH: usize = 8_192;
const VERSION: usize = 8;
const ACTIVITY: usize = 16;
/// Offsets of the lengths of header and error log.
const HEADER_LENGTH_AT: usize = 52;
const ERROR_LENGTH_AT: usize = 56;
/// A younger mark belongs to a running archive, ms.
pub(crate) const ACTIVITY_TIMEOUT_MS: i64 = 10_000;

/// Errors of locking a directory.
#[derive(Debug, Error)]
pub enum MarkFileError {
    /// Another archive is running in the directory.
    #[error("active mark file {}: another archive uses the directory; stop it or choose another", path.display())]
    Active {
        /// The mark file.
        path: PathBuf,
    },
    /// A mark file of another version.
    #[error("mark file {} has version {version:#x}, this archive reads 3.x; run harrier archive DIR migrate", path.display())]
    Version {
        /// The mark file.
        path: PathBuf,
        /// Version found.
        version: i32,
    },
    /// A truncated mark file.
    #[error("mark file {} of {length} bytes is cut; restore it from a backup or remove it", path.display())]
    Short {
        /// The mark file.
        path: PathBuf,
        /// Bytes found.
        length: usize,
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

/// The mark file of a running archive.
pub(crate) struct MarkFile<M: Memory> {
    buffer: AtomicBuffer,
    pub(crate) errors: DistinctErrorLog,
    /// True when the directory is new or this implementation was the last to start on it.
    pub(crate) was_ours: bool,
    /// Errors that the last archive on this mark file recorded.
    pub(crate) previous_errors: Vec<PreviousError>,
    next_update_ms: i64,
    _locks: Vec<M::Lock>,
}

/// An error that an earlier archive recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousError {
    /// Number of observations.
    pub count: i32,
    /// Time of the first observation, epoch ms.
    pub first_ms: i64,
    /// Time of the last observation, epoch ms.
    pub last_ms: i64,
    /// Text of the error.
    pub text: String,
}

/// Formats the error as the released programs do in their files of saved errors (spec 02 §5.15).
impl fmt::Display for PreviousError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, last] = [self.first_ms, self.last_ms].map(Date::of);
        write!(f, "{} observations from {first} to {last} for:\n{}", self.count, self.text.trim_end())
    }
}

/// Removes the archive's directory with all recordings. An archive that runs on it is left alone.
///
/// # Errors
/// [`MarkFileError::Active`], or a file that cannot be removed.
pub(crate) fn clear_directory<M: Memory>(
    context: &ArchiveContext,
    memory: &M,
    now: &Now,
) -> Result<(), MarkFileError> {
    let directory = &context.archive_directory;
    memory.create_directory(directory)?;
    let mark = ArchiveMark::read(memory, directory)?;
    let lock = lock_out(memory, directory, mark.as_ref(), now.epoch_ms)?;
    memory.remove_directory(directory)?;
    drop(lock);
    Ok(())
}

impl<M: Memory> MarkFile<M> {
    /// Locks the directory. The archive is not ready before [`signal_ready`](Self::signal_ready).
    pub(crate) fn take(context: &ArchiveContext, memory: &M, now: &Now) -> Result<Self, MarkFileError> {
        let directory = &context.archive_directory;
        memory.create_directory(directory)?;
        let mark_directory = context.mark_file_directory.as_ref().unwrap_or(directory);
        memory.create_directory(mark_directory)?;
        let path = mark_directory.join(MARK_FILE);
        let lock = |directory: &Path| match memory.lock(&lock_path(directory)) {
            Ok(lock) => Ok(lock),
            Err(MemoryError::Locked { .. }) => Err(MarkFileError::Active { path: path.clone() }),
            Err(error) => Err(error.into()),
        };
        let mut locks = vec![lock(directory)?];
        let is_elsewhere = memory.resolve(mark_directory) != memory.resolve(directory);
        if is_elsewhere {
            locks.push(lock(mark_directory)?);
        }
        let error_length = context.error_buffer_length;
        let length = (HEADER_LENGTH + error_length).next_multiple_of(4_096);
        let mut previous_errors = Vec::new();
        let mut was_ours = false;
        let buffer = match memory.map(&path, MapMode::ReadWrite) {
            Ok(buffer) if buffer.capacity() >= length => {
                was_ours = check_previous(&buffer, &path, now)?;
                previous_errors = errors_of(&buffer);
                buffer
            }
            Ok(buffer) => {
                // A cut file says nothing; a whole one is replaced when the error log has become longer.
                if buffer.capacity() >= HEADER_LENGTH {
                    was_ours = check_previous(&buffer, &path, now)?;
                    previous_errors = errors_of(&buffer);
                }
                memory.remove(&path)?;
                memory.create(&path, length, false)?
            }
            Err(error) if error.is_not_found() => memory.create(&path, length, false)?,
            Err(error) => return Err(error.into()),
        };
        // The owner record is flushed before the fields that it confirms, so that a machine crash in between leaves an
        // owned file.
        write_owner(&buffer, i64::from(std::process::id()), now.epoch_ms);
        memory.flush(&buffer)?;
        buffer.zero(0, OWNER_OFFSET);
        buffer.zero(HEADER_LENGTH, buffer.capacity() - HEADER_LENGTH);
        write_header(&buffer, context, now)?;
        memory.flush(&buffer)?;
        write_link(memory, directory, is_elsewhere.then_some(mark_directory))?;
        let errors = DistinctErrorLog::new(buffer.slice(HEADER_LENGTH, error_length));
        Ok(Self { buffer, errors, was_ours, previous_errors, next_update_ms: 0, _locks: locks })
    }

    pub(crate) fn set_archive_id(&self, archive_id: i64) {
        self.buffer.store_i64(64, archive_id, Ordering::Release);
    }

    /// Marks the archive as ready.
    pub(crate) fn signal_ready(&self, now: &Now) {
        self.buffer.store_i64(ACTIVITY, now.epoch_ms, Ordering::Release);
        self.buffer.store_i32(VERSION, FILE_VERSION, Ordering::Release);
    }

    /// Updates the activity timestamp once a second.
    pub(crate) fn update_activity(&mut self, now: &Now) {
        if now.epoch_ms >= self.next_update_ms {
            self.next_update_ms = now.epoch_ms + 1_000;
            self.buffer.store_i64(ACTIVITY, now.epoch_ms, Ordering::Release);
        }
    }

    /// Marks the archive as terminated.
    pub(crate) fn signal_terminated(&self) {
        self.buffer.store_i64(ACTIVITY, -1, Ordering::Release);
    }
}

/// Contents of a mark file (spec 03 §4.6).
#[derive(Debug, Clone)]
pub struct ArchiveMark {
    /// Path of the file.
    pub path: PathBuf,
    /// Version; 0 while an archive starts.
    pub version: i32,
    /// Activity time, epoch ms; -1 after a clean shutdown.
    pub activity_ms: i64,
    /// Start time, epoch ms.
    pub start_ms: i64,
    /// Process id.
    pub pid: i64,
    /// Stream for requests of remote clients.
    pub control_stream_id: i32,
    /// Stream for requests of local clients.
    pub local_control_stream_id: i32,
    /// Stream of recording events.
    pub events_stream_id: i32,
    /// Id of the archive; -1 for none.
    pub archive_id: i64,
    /// Control channel URI.
    pub control_channel: String,
    /// IPC channel for requests of local clients.
    pub local_control_channel: String,
    /// Channel of recording events.
    pub events_channel: String,
    /// Directory of the media driver.
    pub aeron_directory: PathBuf,
    /// The error log; its capacity is 0 in files of old versions.
    pub errors: AtomicBuffer,
    is_ours: bool,
}

/// Name of the file that names the mark file's directory when it is not the archive's.
const LINK_FILE: &str = "archive-mark.lnk";
/// Bytes of the message header before the block.
const MESSAGE_HEADER: usize = 8;
const BLOCK: MessageHeader =
    MessageHeader { block_length: 128, template_id: 200, schema_id: 100, version: 2 };

impl ArchiveMark {
    /// Reads the mark file of an archive's directory without changing anything; `None` when there is none.
    ///
    /// # Errors
    /// A file of another version, a truncated file, or one that cannot be mapped.
    pub fn read<M: Memory>(memory: &M, directory: &Path) -> Result<Option<Self>, MarkFileError> {
        let path = linked(memory, directory)?.join(MARK_FILE);
        let buffer = match memory.map(&path, MapMode::ReadOnly) {
            Ok(buffer) => buffer,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = vec![0; buffer.capacity().min(OWNER_OFFSET)];
        buffer.copy_out(0, &mut bytes);
        let is_framed = bytes.get(2..6).is_some_and(|ids| ids == [200, 0, 100, 0]);
        // Files of old versions have no message header, so every field is 8 bytes earlier.
        let body = if is_framed { &bytes[MESSAGE_HEADER..] } else { &bytes[..] };
        let short = || MarkFileError::Short { path: path.clone(), length: buffer.capacity() };
        let mut mark = Decoder::body(BLOCK, body).map_err(|_| short())?;
        let block = mark.block();
        let version = block.i32(0, 0);
        if version > 0 && semantic_version_major(version) != semantic_version_major(FILE_VERSION) {
            return Err(MarkFileError::Version { path: path.clone(), version });
        }
        let mut text = || mark.text("mark file text", 0).map(str::to_owned).map_err(|_| short());
        let texts = [text()?, text()?, text()?, text()?];
        let [control_channel, local_control_channel, events_channel, aeron_directory] = texts;
        let (header, errors) = (block.i32(44, 0).max(0) as usize, block.i32(48, 0).max(0) as usize);
        let has_errors = header >= bytes.len() && header + errors <= buffer.capacity();
        Ok(Some(Self {
            version,
            activity_ms: block.i64(8, 0),
            start_ms: block.i64(16, 0),
            pid: block.i64(24, 0),
            control_stream_id: block.i32(32, 0),
            local_control_stream_id: block.i32(36, 0),
            events_stream_id: block.i32(40, 0),
            archive_id: block.i64(56, 0),
            control_channel,
            local_control_channel,
            events_channel,
            aeron_directory: aeron_directory.into(),
            errors: if has_errors { buffer.slice(header, errors) } else { AtomicBuffer::heap(0) },
            is_ours: is_owned(&buffer)?,
            path,
        }))
    }

    /// True when an archive has updated its activity within the last 10 s. The lock tells immediately for this
    /// implementation.
    pub fn is_active(&self, now_ms: i64) -> bool {
        self.activity_ms > 0 && now_ms - self.activity_ms <= ACTIVITY_TIMEOUT_MS
    }
}

fn linked<M: Memory>(memory: &M, directory: &Path) -> Result<PathBuf, MarkFileError> {
    let link = match memory.map(&directory.join(LINK_FILE), MapMode::ReadOnly) {
        Ok(buffer) => buffer,
        Err(error) if error.is_not_found() => return Ok(directory.to_owned()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = vec![0; link.capacity()];
    link.copy_out(0, &mut bytes);
    Ok(PathBuf::from(String::from_utf8_lossy(&bytes).trim()))
}

/// Reads the errors that an archive has recorded in its mark file.
fn errors_of(buffer: &AtomicBuffer) -> Vec<PreviousError> {
    let [header, length] = [HEADER_LENGTH_AT, ERROR_LENGTH_AT]
        .map(|at| usize::try_from(buffer.load_i32(at, Ordering::Acquire)).unwrap_or(0));
    let mut errors = Vec::new();
    if header == HEADER_LENGTH && length > 0 && header + length <= buffer.capacity() {
        error_log::read(&buffer.slice(header, length), 0, &mut |count, first_ms, last_ms, text| {
            errors.push(PreviousError { count, first_ms, last_ms, text: text.to_owned() });
        });
    }
    errors
}

/// Names the mark file's directory for readers of the archive's directory, or removes the name of an earlier one
/// (spec 03 §4.1).
fn write_link<M: Memory>(
    memory: &M,
    directory: &Path,
    mark_directory: Option<&Path>,
) -> Result<(), MemoryError> {
    let path = directory.join(LINK_FILE);
    memory.remove(&path)?;
    let Some(target) = mark_directory else { return Ok(()) };
    let target: PathBuf = memory.resolve(target).components().collect();
    let text = target.to_string_lossy();
    let link = memory.create(&path, text.len(), false)?;
    link.copy_in(0, text.as_bytes());
    memory.flush(&link)
}

/// Excludes every archive from the directory while the lock is held.
///
/// # Errors
/// [`MarkFileError::Active`] while an archive runs in the directory.
pub(crate) fn lock_out<M: Memory>(
    memory: &M,
    directory: &Path,
    mark: Option<&ArchiveMark>,
    now_ms: i64,
) -> Result<M::Lock, MarkFileError> {
    let path = mark.map_or_else(|| directory.join(MARK_FILE), |mark| mark.path.clone());
    if mark.is_some_and(|mark| !mark.is_ours && mark.is_active(now_ms)) {
        return Err(MarkFileError::Active { path });
    }
    match memory.lock(&lock_path(directory)) {
        Err(MemoryError::Locked { .. }) => Err(MarkFileError::Active { path }),
        other => Ok(other?),
    }
}

fn lock_path(directory: &Path) -> PathBuf {
    directory.join("archive-mark.lock")
}

/// Checks the mark of the last archive; true when it was this implementation. The lock is free, so only another
/// implementation can be running.
fn check_previous(buffer: &AtomicBuffer, path: &Path, now: &Now) -> Result<bool, MarkFileError> {
    let version = buffer.load_i32(VERSION, Ordering::Acquire);
    if version != 0 && semantic_version_major(version) != semantic_version_major(FILE_VERSION) {
        return Err(MarkFileError::Version { path: path.to_owned(), version });
    }
    let activity_ms = buffer.load_i64(ACTIVITY, Ordering::Acquire);
    let is_fresh = activity_ms > 0 && now.epoch_ms - activity_ms < ACTIVITY_TIMEOUT_MS;
    let is_ours = is_owned(buffer)?;
    if is_fresh && !is_ours {
        return Err(MarkFileError::Active { path: path.to_owned() });
    }
    Ok(is_ours)
}

fn write_header(buffer: &AtomicBuffer, context: &ArchiveContext, now: &Now) -> Result<(), MarkFileError> {
    let mut bytes = vec![0; OWNER_OFFSET];
    let (control_channel, control_stream_id) =
        (context.control_channel.as_deref().unwrap_or_default(), context.control_stream_id);
    let events_channel =
        if context.recording_events_enabled { context.recording_events_channel.as_str() } else { "" };
    Encoder::new(&mut bytes, BLOCK)
        .i64(8, -1)
        .i64(16, now.epoch_ms)
        .i64(24, i64::from(std::process::id()))
        .i32(32, control_stream_id)
        .i32(36, context.local_control_stream_id)
        .i32(40, context.recording_events_stream_id)
        .i32(44, HEADER_LENGTH as i32)
        .i32(48, context.error_buffer_length as i32)
        .i64(56, context.archive_id.unwrap_or(-1))
        .text(control_channel)
        .text(&context.local_control_channel)
        .text(events_channel)
        .text(&context.aeron_directory.to_string_lossy())
        .finish()
        .map_err(|_| MarkFileError::Header)?;
    buffer.copy_in(0, &bytes);
    Ok(())
}
