//! Where a recording ends that its archive did not stop (spec 03 §4.5).

use std::path::Path;

use harrier_ringbuf::position::{FRAME_ALIGNMENT, align};
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel};
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
        "recording {recording_id}: the frame at {offset} of segment {segment} may be torn; run harrier archive DIR verify"
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
    let Some((base, file, bytes)) = open_last_segment(storage, directory, recording, OpenMode::Read)? else {
        return Ok(recording.start_position);
    };
    storage.blocking(Operation::Close { file })?;
    let end = scan(recording, base, &bytes, checksum)?;
    Ok((base + end as i64).max(recording.start_position))
}

/// The stop position of a recording whose machine may have died: everything before the first frame that is not whole.
/// What lies behind is zeroed, so that it is never taken for frames again. With `sync` the file is synced. Blocks.
///
/// # Errors
/// A segment that cannot be read or written.
pub fn cut_torn_tail<S: Storage>(
    storage: &mut S,
    directory: &Path,
    recording: &RecordingDescriptor,
    checksum: Option<Checksum>,
    sync: Option<SyncLevel>,
) -> Result<i64, StorageError> {
    let Some((base, file, bytes)) = open_last_segment(storage, directory, recording, OpenMode::ReadWrite)?
    else {
        return Ok(recording.start_position);
    };
    let end = whole_end(recording, base, &bytes, checksum);
    if bytes[end..].iter().any(|byte| *byte != 0) {
        storage.blocking(Operation::SetLength { file, length: end as u64 })?;
        let length = recording.segment_file_length as u64;
        storage.blocking(Operation::SetLength { file, length })?;
    }
    if let Some(level) = sync {
        storage.blocking(Operation::Sync { file, level })?;
    }
    storage.blocking(Operation::Close { file })?;
    Ok((base + end as i64).max(recording.start_position))
}

/// The segment with the highest position: its position, its open file and its bytes.
fn open_last_segment<S: Storage>(
    storage: &mut S,
    directory: &Path,
    recording: &RecordingDescriptor,
    mode: OpenMode,
) -> Result<Option<(i64, FileId, Vec<u8>)>, StorageError> {
    let Output::Names(names) = storage.blocking(Operation::List { path: directory.to_owned() })? else {
        return Ok(None);
    };
    let id = recording.recording_id;
    let Some(base) = names.iter().filter_map(|name| segment::parse(name, id)).max() else { return Ok(None) };
    let path = segment::path(directory, id, base);
    let Output::Opened(file, file_length) = storage.blocking(Operation::Open { path, mode })? else {
        return Ok(None);
    };
    let length = (file_length as usize).min(recording.segment_file_length as usize);
    match read_segment(storage, file, length) {
        Ok(bytes) => Ok(Some((base, file, bytes))),
        Err(error) => {
            storage.blocking(Operation::Close { file })?;
            Err(error)
        }
    }
}

fn read_segment<S: Storage>(storage: &mut S, file: FileId, length: usize) -> Result<Vec<u8>, StorageError> {
    let read = Operation::Read { file, offset: 0, length, into: Vec::new() };
    match storage.blocking(read)? {
        Output::Data(bytes) => Ok(bytes),
        _ => Ok(Vec::new()),
    }
}

/// Where the first frame of a segment begins.
pub(crate) fn first_offset(recording: &RecordingDescriptor, base: i64) -> usize {
    let start = recording.start_position;
    let first_base = start - (start & (i64::from(recording.term_buffer_length) - 1));
    if base == first_base { (start - base) as usize } else { 0 }
}

/// Follows the frames of a segment as long as they are whole; returns where they end.
fn whole_end(recording: &RecordingDescriptor, base: i64, bytes: &[u8], checksum: Option<Checksum>) -> usize {
    let mut offset = first_offset(recording, base).min(bytes.len());
    while let Some(length) = frame_length(bytes, offset) {
        let end = offset + align(length, FRAME_ALIGNMENT);
        if end > recording.segment_file_length as usize
            || !is_frame_at(bytes, offset, end, recording, base)
            || !is_undamaged(bytes, offset, length, checksum)
        {
            break;
        }
        offset = end;
    }
    offset.min(bytes.len())
}

/// Whether the header is that of a frame of this recording at this place. Padding reaches to the end of its term.
fn is_frame_at(bytes: &[u8], offset: usize, end: usize, recording: &RecordingDescriptor, base: i64) -> bool {
    let int = |at: usize| bytes[offset + at..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
    let term_length = recording.term_buffer_length as usize;
    let position = base + offset as i64;
    let term_id = recording.initial_term_id.wrapping_add((position / term_length as i64) as i32);
    int(8) as usize == offset % term_length
        && int(16) == recording.stream_id
        && int(20) == term_id
        && (offset % term_length) + (end - offset) <= term_length
        && (!is_padding(bytes, offset) || end.is_multiple_of(term_length))
}

/// Whether all of a frame is there, by its checksum. Without one only the process can have died, which tears nothing: to
/// judge by pages of zeros would lose messages that hold zeros.
fn is_undamaged(bytes: &[u8], offset: usize, length: usize, checksum: Option<Checksum>) -> bool {
    let Some(checksum) = checksum.filter(|_| !is_padding(bytes, offset)) else { return true };
    let end = offset + align(length, FRAME_ALIGNMENT);
    let Some(frame) = bytes.get(offset..end) else { return false };
    frame[12..16].first_chunk().map(|word| i32::from_le_bytes(*word)) == Some(checksum.of_frame(frame))
}

/// Follows the frames of a segment; returns where they end.
pub(crate) fn scan(
    recording: &RecordingDescriptor,
    base: i64,
    bytes: &[u8],
    checksum: Option<Checksum>,
) -> Result<usize, RecoveryError> {
    let mut offset = first_offset(recording, base);
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
