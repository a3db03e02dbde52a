//! Offline work on the files of an archive (spec 03 §4.7): reads at any time, changes while no archive runs.

mod compaction;
mod editor;
mod migration;
mod verification;

use std::path::{Path, PathBuf};

use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH, align};
use harrier_ringbuf::storage::{OpenMode, Operation, Output, Storage, StorageError};
use thiserror::Error;

use crate::catalog::{CATALOG_FILE, Catalog, CatalogEntry, CatalogError};
use crate::checksum::{frame_length, is_padding};
use crate::descriptor::RecordingDescriptor;
use crate::mark_file::MarkFileError;
use crate::{recovery, segment};

pub use compaction::Compaction;
pub use editor::ArchiveEditor;
pub use migration::{MigrationStep, migrate};
pub use verification::{TornAnswer, Verdict, VerifyOptions};

/// Errors of archive tools.
#[derive(Debug, Error)]
pub enum ToolError {
    /// The directory holds no archive.
    #[error("no archive in {}: there is no {CATALOG_FILE}", directory.display())]
    Absent {
        /// The directory.
        directory: PathBuf,
    },
    /// The catalog is invalid.
    #[error("{}: {error}", path.display())]
    Catalog {
        /// Path of the catalog.
        path: PathBuf,
        /// Error found in the catalog.
        error: CatalogError,
    },
    /// The mark file cannot be read, or an archive is running in the directory.
    #[error(transparent)]
    Mark(#[from] MarkFileError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No entry in any state has this id.
    #[error("no recording with id {0}; harrier archive DIR describe-all lists all")]
    Unknown(i64),
    /// A purged recording cannot be restored.
    #[error("recording {0} was purged: its state stays DELETED")]
    Deleted(i64),
    /// A migration step was begun before and did not finish.
    #[error("{} shows that this step was begun before; restore the directory from its backup, or remove the file if nothing was changed", path.display())]
    MigrationBegun {
        /// The stamp file.
        path: PathBuf,
    },
    /// Invalid catalog capacity.
    #[error("capacity {wanted} is not between the catalog's {present} and {} bytes", i32::MAX)]
    Capacity {
        /// Requested capacity, bytes.
        wanted: u64,
        /// Present length of the file, bytes.
        present: u64,
    },
}

/// A segment file of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    /// File name.
    pub name: String,
    /// Position of the first byte; `None` when the file name holds none.
    pub base_position: Option<i64>,
}

/// A recorded frame.
#[derive(Debug, Clone, Copy)]
pub struct RecordedFrame<'a> {
    /// Position of the first byte.
    pub position: i64,
    /// Length with the header, without alignment, bytes.
    pub length: usize,
    /// Flags of the frame.
    pub flags: u8,
    /// True for padding.
    pub is_padding: bool,
    /// Session id, or the checksum in stamped recordings.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Term id.
    pub term_id: i32,
    /// Offset in the term, bytes.
    pub term_offset: i32,
    /// Reserved value of the header.
    pub reserved_value: i64,
    /// Payload; empty for padding.
    pub payload: &'a [u8],
}

/// Read access to the files of an archive. A running archive may change them meanwhile; the catalog is the one read at
/// opening.
pub struct ArchiveFiles<S: Storage> {
    directory: PathBuf,
    storage: S,
    bytes: Vec<u8>,
    catalog: Catalog,
}

impl<S: Storage> ArchiveFiles<S> {
    /// Reads the catalog of a directory.
    ///
    /// # Errors
    /// [`ToolError::Absent`], [`ToolError::Catalog`], or a file that cannot be read.
    pub fn open(directory: &Path, mut storage: S) -> Result<Self, ToolError> {
        let path = directory.join(CATALOG_FILE);
        let bytes = match read_file(&mut storage, &path, u64::MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                return Err(ToolError::Absent { directory: directory.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        let catalog = Catalog::inspect(&bytes).map_err(|error| ToolError::Catalog { path, error })?;
        Ok(Self { directory: directory.to_owned(), storage, bytes, catalog })
    }

    /// The archive's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns an entry in any state.
    ///
    /// # Errors
    /// [`ToolError::Unknown`].
    pub fn entry(&self, recording_id: i64) -> Result<&CatalogEntry, ToolError> {
        self.catalog.entry(recording_id).ok_or(ToolError::Unknown(recording_id))
    }

    /// Lists the segment files of a recording by ascending position. Files whose names hold no position come first.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn segments(&mut self, recording_id: i64) -> Result<Vec<SegmentFile>, ToolError> {
        let list = Operation::List { path: self.directory.clone() };
        let Output::Names(names) = self.storage.blocking(list)? else { return Ok(Vec::new()) };
        let prefix = format!("{recording_id}-");
        let mut segments: Vec<SegmentFile> = names
            .into_iter()
            .filter(|name| name.starts_with(&prefix) && name.ends_with(segment::SUFFIX))
            .map(|name| SegmentFile { base_position: segment::parse(&name, recording_id), name })
            .collect();
        segments.sort_by_key(|segment| segment.base_position);
        Ok(segments)
    }

    /// Calls `visit` with every frame of a recording in order, until it returns false.
    ///
    /// # Errors
    /// [`ToolError::Unknown`], or a file that cannot be read. Missing segments are left out.
    pub fn for_each_frame(
        &mut self,
        recording_id: i64,
        visit: &mut dyn FnMut(&RecordedFrame<'_>) -> bool,
    ) -> Result<(), ToolError> {
        let recording = self.entry(recording_id)?.descriptor.clone();
        for segment in self.segments(recording_id)? {
            let Some(base) = segment.base_position else { continue };
            if base < recording.segment_base(recording.start_position) {
                continue;
            }
            let bytes = self.read_segment(&recording, &segment.name)?;
            let mut offset = recovery::first_offset(&recording, base);
            while let Some(length) = frame_length(&bytes, offset) {
                let position = base + offset as i64;
                let is_past_end = recording.stop_position != -1 && position >= recording.stop_position;
                if is_past_end || !visit(&frame_at(&bytes, offset, length, position)) {
                    return Ok(());
                }
                offset += align(length, FRAME_ALIGNMENT);
            }
        }
        Ok(())
    }

    fn read_segment(&mut self, recording: &RecordingDescriptor, name: &str) -> Result<Vec<u8>, StorageError> {
        let path = self.directory.join(name);
        read_file(&mut self.storage, &path, recording.segment_file_length as u64)
    }
}

fn frame_at(bytes: &[u8], offset: usize, length: usize, position: i64) -> RecordedFrame<'_> {
    let header = &bytes[offset..offset + HEADER_LENGTH];
    let int = |at: usize| header[at..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
    let is_padding = is_padding(bytes, offset);
    let payload_end = if is_padding { offset + HEADER_LENGTH } else { (offset + length).min(bytes.len()) };
    RecordedFrame {
        position,
        length,
        flags: header[5],
        is_padding,
        term_offset: int(8),
        session_id: int(12),
        stream_id: int(16),
        term_id: int(20),
        reserved_value: header[24..].first_chunk().map_or(0, |word| i64::from_le_bytes(*word)),
        payload: &bytes[offset + HEADER_LENGTH..payload_end],
    }
}

/// Reads at most `limit` bytes of a file.
fn read_file<S: Storage>(storage: &mut S, path: &Path, limit: u64) -> Result<Vec<u8>, StorageError> {
    let open = Operation::Open { path: path.to_owned(), mode: OpenMode::Read };
    let Output::Opened(file, length) = storage.blocking(open)? else { return Ok(Vec::new()) };
    let length = length.min(limit) as usize;
    let read = storage.blocking(Operation::Read { file, offset: 0, length, into: Vec::new() });
    storage.blocking(Operation::Close { file })?;
    match read? {
        Output::Data(bytes) => Ok(bytes),
        _ => Ok(Vec::new()),
    }
}
