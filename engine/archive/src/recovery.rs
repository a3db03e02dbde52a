//! Where a recording ends that its archive did not stop (spec 03 §4.5).

use std::path::Path;

use harrier_ringbuf::position::{FRAME_ALIGNMENT, align};
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, Storage, StorageError};
use thiserror::Error;

use crate::checksum::{Checksum, frame_length, is_padding};
use crate::descriptor::RecordingDescriptor;
use crate::segment;

/// Pages that may be lost one by one.
const PAGE: usize = 4_096;

/// Why the end of a recording cannot be told.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// The last frame may be torn.
    #[error(
        "recording {recording_id}: the frame at {offset} of segment {segment} may be torn; run ArchiveTool verify"
    )]
    Torn {
        /// The recording.
        recording_id: i64,
        /// File name of the segment.
        segment: String,
        /// Offset of the frame in the segment.
        offset: usize,
    },
    /// A segment could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The stop position of a recording whose archive died: what its segments hold. Blocks.
///
/// # Errors
/// See [`RecoveryError`].
pub fn find_stop_position<S: Storage>(
    storage: &mut S,
    directory: &Path,
    recording: &RecordingDescriptor,
    checksum: Option<Checksum>,
) -> Result<i64, RecoveryError> {
    let Output::Names(names) = storage.blocking(Operation::List { path: directory.to_owned() })? else {
        return Ok(recording.start_position);
    };
    let id = recording.recording_id;
    let Some(base) = names.iter().filter_map(|name| segment::parse(name, id)).max() else {
        return Ok(recording.start_position);
    };
    let path = segment::path(directory, id, base);
    let opened = storage.blocking(Operation::Open { path, mode: OpenMode::Read })?;
    let Output::Opened(file, file_length) = opened else { return Ok(recording.start_position) };
    let length = (file_length as usize).min(recording.segment_file_length as usize);
    let found = read_segment(storage, file, length).map(|bytes| scan(recording, base, &bytes, checksum));
    storage.blocking(Operation::Close { file })?;
    let end = found??;
    Ok((base + end as i64).max(recording.start_position))
}

fn read_segment<S: Storage>(storage: &mut S, file: FileId, length: usize) -> Result<Vec<u8>, StorageError> {
    let read = Operation::Read { file, offset: 0, length, into: Vec::new() };
    match storage.blocking(read)? {
        Output::Data(bytes) => Ok(bytes),
        _ => Ok(Vec::new()),
    }
}

/// Follows the frames of a segment; returns where they end.
fn scan(
    recording: &RecordingDescriptor,
    base: i64,
    bytes: &[u8],
    checksum: Option<Checksum>,
) -> Result<usize, RecoveryError> {
    let start = recording.start_position;
    let first_base = start - (start & (i64::from(recording.term_buffer_length) - 1));
    let mut offset = if base == first_base { (start - base) as usize } else { 0 };
    let mut last = None;
    while let Some(length) = frame_length(bytes, offset) {
        let aligned = align(length, FRAME_ALIGNMENT);
        if aligned > recording.segment_file_length as usize - offset {
            break;
        }
        last = Some((offset, length));
        offset += aligned;
    }
    match last {
        Some((at, length)) if !is_whole(bytes, at, length, checksum) => Err(RecoveryError::Torn {
            recording_id: recording.recording_id,
            segment: segment::file_name(recording.recording_id, base),
            offset: at,
        }),
        _ => Ok(offset),
    }
}

/// False when a page of the last frame may not have been written.
fn is_whole(bytes: &[u8], offset: usize, length: usize, checksum: Option<Checksum>) -> bool {
    let end = offset + align(length, FRAME_ALIGNMENT);
    // Of a padding frame only the header is written (spec 03 §8, 15).
    if is_padding(bytes, offset) || offset / PAGE == (end - 1) / PAGE {
        return true;
    }
    let Some(frame) = bytes.get(offset..end) else { return false };
    if let Some(checksum) = checksum {
        let stored = frame[12..16].first_chunk().map(|word| i32::from_le_bytes(*word));
        if stored == Some(checksum.of_frame(frame)) {
            return true;
        }
    }
    let first_page = (offset / PAGE + 1) * PAGE;
    (first_page..end)
        .step_by(PAGE)
        .all(|page| bytes[page..end.min(page + PAGE)].iter().any(|byte| *byte != 0))
}
