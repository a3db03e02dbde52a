//! Migrates files of older major versions to the present one (spec 03 §4.8).

use std::path::{Path, PathBuf};

use harrier_protocol::semantic_version_major;
use harrier_ringbuf::storage::{OpenMode, Operation, Output, Storage, SyncLevel};
use harrier_ringbuf::{Memory, Now};

use super::editor::write;
use super::{ToolError, read_file};
use crate::catalog::{CATALOG_FILE, CatalogError, HEADER_LENGTH, RecordingState};
use crate::descriptor::{ALIGNMENT, ENTRY_HEADER_LENGTH, RecordingDescriptor};
use crate::mark_file::{ACTIVITY_TIMEOUT_MS, MARK_FILE, MarkFileError, lock_out};
use crate::segment;

/// Length of the header and of each entry before version 3.
const OLD_ENTRY_LENGTH: usize = 1_024;
/// File that names the mark file's directory when it is not the archive's.
const MARK_LINK: &str = "archive-mark.lnk";
/// File name of the new catalog until it is complete.
const TEMPORARY_FILE: &str = "archive.catalog.updated";

/// Migration step from a major version to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStep {
    /// Version before the step.
    pub from: i32,
    /// Version after the step.
    pub to: i32,
    /// Renamed segment files, old and new names.
    pub renamed: Vec<(String, String)>,
}

/// An entry of a catalog before version 3.
struct OldEntry {
    state: i32,
    checksum: i32,
    descriptor: RecordingDescriptor,
}

/// Files of a directory of an older version.
struct OldFiles<S: Storage> {
    directory: PathBuf,
    storage: S,
    bytes: Vec<u8>,
    entries: Vec<OldEntry>,
}

/// Migrates a directory step by step to the present major version; returns no steps when it is current. Each step
/// leaves a stamp file; a step whose stamp exists was interrupted and is not repeated.
///
/// # Errors
/// [`MarkFileError::Active`] while an archive runs in the directory, [`ToolError::MigrationBegun`], an invalid catalog,
/// or a file that cannot be read, renamed or written.
pub fn migrate<M: Memory, S: Storage>(
    directory: &Path,
    memory: &M,
    storage: S,
    now: &Now,
) -> Result<Vec<MigrationStep>, ToolError> {
    let mut files = OldFiles::open(directory, storage)?;
    let mut steps = Vec::new();
    if files.major_version() >= 3 {
        return Ok(steps);
    }
    let mark = files.find_mark()?;
    if let Some((path, bytes)) = &mark {
        let (_, activity_offset) = mark_offsets(bytes);
        let activity_ms = bytes[activity_offset..].first_chunk().map_or(-1, |word| i64::from_le_bytes(*word));
        if activity_ms > 0 && now.epoch_ms - activity_ms < ACTIVITY_TIMEOUT_MS {
            return Err(MarkFileError::Active { path: path.clone() }.into());
        }
    }
    let _lock = lock_out(memory, directory, None, now.epoch_ms)?;
    files.read_entries()?;
    while files.major_version() < 3 {
        let from = files.version();
        let to = (semantic_version_major(from) + 1) << 16;
        files.stamp(from, to)?;
        let renamed = match semantic_version_major(from) {
            0 => files.name_by_position()?,
            1 => files.name_from_start_term()?,
            _ => {
                files.rewrite_catalog(to)?;
                Vec::new()
            }
        };
        if let Some((path, bytes)) = &mark {
            files.write(path, mark_offsets(bytes).0, to.to_le_bytes().to_vec())?;
        }
        let catalog = directory.join(CATALOG_FILE);
        files.write(&catalog, 0, to.to_le_bytes().to_vec())?;
        files.bytes[..4].copy_from_slice(&to.to_le_bytes());
        files.storage.blocking(Operation::SyncDirectory { path: directory.to_owned() })?;
        steps.push(MigrationStep { from, to, renamed });
    }
    Ok(steps)
}

/// Offsets of version and activity in a mark file; older files have no message header.
fn mark_offsets(bytes: &[u8]) -> (usize, usize) {
    let word = |offset: usize| bytes.get(offset..).and_then(|rest| rest.first_chunk().copied());
    let has_header =
        word(2).map(u16::from_le_bytes) == Some(200) && word(4).map(u16::from_le_bytes) == Some(100);
    if has_header { (8, 16) } else { (0, 8) }
}

impl<S: Storage> OldFiles<S> {
    fn open(directory: &Path, mut storage: S) -> Result<Self, ToolError> {
        let path = directory.join(CATALOG_FILE);
        let bytes = match read_file(&mut storage, &path, u64::MAX) {
            Ok(bytes) if bytes.len() < HEADER_LENGTH => {
                return Err(ToolError::Catalog { path, error: CatalogError::Short(bytes.len()) });
            }
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                return Err(ToolError::Absent { directory: directory.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { directory: directory.to_owned(), storage, bytes, entries: Vec::new() })
    }

    fn version(&self) -> i32 {
        self.bytes.first_chunk().map_or(0, |word| i32::from_le_bytes(*word))
    }

    fn major_version(&self) -> i32 {
        semantic_version_major(self.version())
    }

    fn find_mark(&mut self) -> Result<Option<(PathBuf, Vec<u8>)>, ToolError> {
        let mut folder = self.directory.clone();
        match read_file(&mut self.storage, &folder.join(MARK_LINK), 4_096) {
            Ok(link) => folder = PathBuf::from(String::from_utf8_lossy(&link).trim()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let path = folder.join(MARK_FILE);
        match read_file(&mut self.storage, &path, 64) {
            Ok(bytes) if bytes.len() == 64 => Ok(Some((path, bytes))),
            Ok(bytes) => Err(MarkFileError::Short { path, length: bytes.len() }.into()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn read_entries(&mut self) -> Result<(), ToolError> {
        let mut offset = OLD_ENTRY_LENGTH;
        while let Some(entry) = self.bytes.get(offset..offset + OLD_ENTRY_LENGTH) {
            let int = |at: usize| entry[at..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
            let length = int(0);
            if length <= 0 {
                break;
            }
            let error = |reason: String| ToolError::Catalog {
                path: self.directory.join(CATALOG_FILE),
                error: CatalogError::Entry { offset, reason },
            };
            let body = entry[ENTRY_HEADER_LENGTH..]
                .get(..length as usize)
                .ok_or_else(|| error(format!("{length} bytes are longer than an entry")))?;
            let descriptor =
                RecordingDescriptor::from_entry(body).map_err(|cause| error(cause.to_string()))?;
            crate::catalog::check_descriptor(&descriptor).map_err(error)?;
            self.entries.push(OldEntry { state: int(4), checksum: int(8), descriptor });
            offset += OLD_ENTRY_LENGTH;
        }
        Ok(())
    }

    /// Creates the stamp file of a step, which prevents repeating it.
    fn stamp(&mut self, from: i32, to: i32) -> Result<(), ToolError> {
        let path = self.directory.join(format!("migration-{from}-to-{to}.dat"));
        if read_file(&mut self.storage, &path, 0).is_ok() {
            return Err(ToolError::MigrationBegun { path });
        }
        let open = Operation::Open { path, mode: OpenMode::CreateNew };
        if let Output::Opened(file, _) = self.storage.blocking(open)? {
            self.storage.blocking(Operation::Close { file })?;
        }
        self.storage.blocking(Operation::SyncDirectory { path: self.directory.clone() })?;
        Ok(())
    }

    fn write(&mut self, path: &Path, offset: usize, bytes: Vec<u8>) -> Result<(), ToolError> {
        let open = Operation::Open { path: path.to_owned(), mode: OpenMode::ReadWrite };
        let Output::Opened(file, _) = self.storage.blocking(open)? else {
            unreachable!("opening a file opens it")
        };
        let written = write(&mut self.storage, file, offset, bytes).and_then(|()| {
            self.storage.blocking(Operation::Sync { file, level: SyncLevel::All }).map(|_| ())
        });
        self.storage.blocking(Operation::Close { file })?;
        Ok(written?)
    }

    /// Step from 0 to 1: segment indices in file names become positions.
    fn name_by_position(&mut self) -> Result<Vec<(String, String)>, ToolError> {
        self.rename(|recording, index| {
            let segment_length = i64::from(recording.segment_file_length);
            let base = recording.start_position - recording.start_position % segment_length;
            index.checked_mul(segment_length)?.checked_add(base)
        })
    }

    /// Step from 1 to 2: positions are counted from the start's term when a segment has several.
    fn name_from_start_term(&mut self) -> Result<Vec<(String, String)>, ToolError> {
        self.rename(|recording, position| {
            let term_length = i64::from(recording.term_buffer_length);
            let term_base = recording.start_position - recording.start_position % term_length;
            let is_same = recording.term_buffer_length == recording.segment_file_length || term_base == 0;
            if is_same { Some(position) } else { position.checked_add(term_base) }
        })
    }

    /// Renames the segments of valid recordings. Begins with the last one because names only grow.
    fn rename(
        &mut self,
        new_number: impl Fn(&RecordingDescriptor, i64) -> Option<i64>,
    ) -> Result<Vec<(String, String)>, ToolError> {
        let list = Operation::List { path: self.directory.clone() };
        let Output::Names(names) = self.storage.blocking(list)? else { return Ok(Vec::new()) };
        let mut renamed = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.state == RecordingState::Valid as i32) {
            let recording = &entry.descriptor;
            let id = recording.recording_id;
            let mut numbers: Vec<i64> = names.iter().filter_map(|name| segment::parse(name, id)).collect();
            numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
            for number in numbers {
                let Some(new) = new_number(recording, number).filter(|new| *new != number) else { continue };
                let (from, to) = (segment::file_name(id, number), segment::file_name(id, new));
                self.storage.blocking(Operation::Rename {
                    from: self.directory.join(&from),
                    to: self.directory.join(&to),
                })?;
                renamed.push((from, to));
            }
        }
        Ok(renamed)
    }

    /// Step from 2 to 3: entries become as short as possible. Checksums are copied.
    fn rewrite_catalog(&mut self, version: i32) -> Result<(), ToolError> {
        let mut bytes = vec![0; HEADER_LENGTH];
        let next = self.entries.last().map_or(0, |last| last.descriptor.recording_id + 1);
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        bytes[4..8].copy_from_slice(&(HEADER_LENGTH as i32).to_le_bytes());
        bytes[8..16].copy_from_slice(&next.to_le_bytes());
        bytes[16..20].copy_from_slice(&(ALIGNMENT as i32).to_le_bytes());
        for entry in &self.entries {
            let length = entry.descriptor.frame_length() - ENTRY_HEADER_LENGTH;
            let mut header = [0; ENTRY_HEADER_LENGTH];
            header[..4].copy_from_slice(&(length as i32).to_le_bytes());
            header[4..8].copy_from_slice(&entry.state.to_le_bytes());
            header[8..12].copy_from_slice(&entry.checksum.to_le_bytes());
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(&entry.descriptor.to_entry_body(length));
        }
        let path = self.directory.join(TEMPORARY_FILE);
        self.storage.blocking(Operation::Remove { path: path.clone() })?;
        let open = Operation::Open { path: path.clone(), mode: OpenMode::CreateNew };
        let Output::Opened(file, _) = self.storage.blocking(open)? else {
            unreachable!("opening a file opens it")
        };
        let written = write(&mut self.storage, file, 0, bytes.clone()).and_then(|()| {
            self.storage.blocking(Operation::Sync { file, level: SyncLevel::All }).map(|_| ())
        });
        self.storage.blocking(Operation::Close { file })?;
        written?;
        self.storage.blocking(Operation::Rename { from: path, to: self.directory.join(CATALOG_FILE) })?;
        self.bytes = bytes;
        Ok(())
    }
}
