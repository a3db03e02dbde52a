//! Compaction of a catalog: removes entries that are not valid, with their segments (spec 03 §4.7).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::{OpenMode, Operation, Output, Storage, SyncLevel};

use super::ToolError;
use super::editor::{ArchiveEditor, write};
use crate::catalog::{CATALOG_FILE, HEADER_LENGTH, RecordingState};
use crate::seal::SEAL_SUFFIX;

/// File name of the new catalog until it is complete.
const TEMPORARY_FILE: &str = "archive.catalog.compact";

/// Result of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// Number of removed entries.
    pub deleted_entries: usize,
    /// Bytes of the removed entries.
    pub reclaimed_bytes: usize,
    /// Number of removed segment files.
    pub deleted_segments: usize,
}

impl<M: Memory, S: Storage> ArchiveEditor<M, S> {
    /// Rewrites the catalog with only its valid entries at minimal length, and removes the segments of the others.
    /// Keeps the next recording id.
    ///
    /// # Errors
    /// A file that cannot be read, written or removed. The new catalog takes the old one's place before any segment
    /// goes.
    pub fn compact(&mut self) -> Result<Compaction, ToolError> {
        let mut done = Compaction { deleted_entries: 0, reclaimed_bytes: 0, deleted_segments: 0 };
        let mut bytes = self.files.bytes[..HEADER_LENGTH].to_vec();
        // Old writers may imply the next id by the last entry, which may be removed here.
        bytes[8..16].copy_from_slice(&self.files.catalog.next_recording_id().to_le_bytes());
        let mut doomed = Vec::new();
        for entry in self.files.catalog.entries().to_vec() {
            if entry.state == RecordingState::Valid {
                bytes.extend_from_slice(&self.files.bytes[entry.offset..entry.offset + entry.length]);
                continue;
            }
            done.deleted_entries += 1;
            done.reclaimed_bytes += entry.length;
            let segments = self.files.segments(entry.descriptor.recording_id)?;
            doomed.extend(segments.into_iter().map(|segment| segment.name));
        }
        // A segment with a seal needs a catalog entry, so seals are removed before entries.
        for name in &doomed {
            let path = self.files.directory.join(name).with_extension(&SEAL_SUFFIX[1..]);
            self.files.storage.blocking(Operation::Remove { path })?;
        }
        self.replace_catalog(bytes)?;
        done.deleted_segments = doomed.len();
        self.remove(&doomed)?;
        Ok(done)
    }

    fn replace_catalog(&mut self, bytes: Vec<u8>) -> Result<(), ToolError> {
        let directory = self.files.directory.clone();
        let path = directory.join(TEMPORARY_FILE);
        let storage = &mut self.files.storage;
        storage.blocking(Operation::Remove { path: path.clone() })?;
        let open = Operation::Open { path: path.clone(), mode: OpenMode::CreateNew };
        let Output::Opened(file, _) = storage.blocking(open)? else {
            unreachable!("opening a file opens it")
        };
        let written = write(storage, file, 0, bytes)
            .and_then(|()| storage.blocking(Operation::Sync { file, level: SyncLevel::All }).map(|_| ()));
        storage.blocking(Operation::Close { file })?;
        written?;
        storage.blocking(Operation::Rename { from: path, to: directory.join(CATALOG_FILE) })?;
        storage.blocking(Operation::SyncDirectory { path: directory })?;
        self.read_again()
    }
}
