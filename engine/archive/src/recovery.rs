//! Finds the end of a recording that its archive did not stop (spec 03 §4.5).

use std::ops::Range;
use std::path::Path;

use harrier_ringbuf::position::{FRAME_ALIGNMENT, align};
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel, WriteBuffer,
};
use thiserror::Error;

use crate::checksum::{Checksum, frame_length, is_padding};
use crate::descriptor::RecordingDescriptor;
use crate::seal::SegmentSeal;
use crate::segment;

/// Unit in which a crash can lose data, bytes.
const PAGE: usize = 4_096;

/// Errors of finding the end of a recording.
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

/// Finds the stop position of a recording after a process crash, from its segments. Blocks.
///
/// # Errors
/// See [`RecoveryError`].
pub fn find_stop_position<S: Storage>(
    storage: &mut S,
    directory: &Path,
    recording: &RecordingDescriptor,
    checksum: Option<Checksum>,
) -> Result<i64, RecoveryError> {
    let Some(tail) = Tail::open(storage, directory, recording, OpenMode::Read)? else {
        return Ok(recording.start_position);
    };
    storage.blocking(Operation::Close { file: tail.file })?;
    let end = scan(recording, tail.base, &tail.bytes, checksum)?;
    Ok((tail.base + end as i64).max(recording.start_position))
}

/// Finds the stop position of a recording after a possible machine crash: the start of the first incomplete frame.
/// Zeroes the bytes after it so that they are never read as frames. With a checksum every frame of the last segment
/// must match it. With `sync` the file is synced. Blocks.
///
/// # Errors
/// A file that cannot be read or written.
pub fn cut_torn_tail<S: Storage>(
    storage: &mut S,
    directory: &Path,
    recording: &RecordingDescriptor,
    checksum: Option<Checksum>,
    sync: Option<SyncLevel>,
) -> Result<i64, StorageError> {
    let Some(mut tail) = Tail::open(storage, directory, recording, OpenMode::ReadWrite)? else {
        return Ok(recording.start_position);
    };
    let end = tail.whole_end(recording, checksum, &(0..usize::MAX));
    tail.cut(storage, recording, end, sync)?;
    Ok((tail.base + end as i64).max(recording.start_position))
}

/// Like [`cut_torn_tail`], for an archive with seals. Frames must match their checksums within the last segment's seal,
/// and after its end when the seal is from the last recording session. Afterwards the seal covers all remaining frames.
pub(crate) fn cut_sealed_tail<S: Storage>(
    storage: &mut S,
    directory: &Path,
    recording: &RecordingDescriptor,
    sync: Option<SyncLevel>,
) -> Result<i64, StorageError> {
    let Some(mut tail) = Tail::open(storage, directory, recording, OpenMode::ReadWrite)? else {
        return Ok(recording.start_position);
    };
    let seal = read_seal(storage, directory, recording.recording_id, tail.base)?;
    let is_last = seal.as_ref().is_some_and(|seal| seal.session_id == recording.session_id);
    let stamped = seal.map_or(0..0, |seal| {
        let to = if is_last { usize::MAX } else { (seal.to - tail.base) as usize };
        (seal.from - tail.base) as usize..to
    });
    let end = tail.whole_end(recording, Some(Checksum::Crc32c), &stamped);
    tail.cut(storage, recording, end, sync)?;
    if is_last {
        let from = stamped.start.min(end);
        let mut seal = SegmentSeal::begin(recording, tail.base, tail.base + from as i64);
        seal.add(&tail.bytes[from..end], from);
        write_seal(storage, directory, &seal, sync)?;
    }
    Ok((tail.base + end as i64).max(recording.start_position))
}

/// The last segment of a recording.
struct Tail {
    base: i64,
    file: FileId,
    bytes: Vec<u8>,
}

impl Tail {
    /// Opens the segment with the highest position and reads it.
    fn open<S: Storage>(
        storage: &mut S,
        directory: &Path,
        recording: &RecordingDescriptor,
        mode: OpenMode,
    ) -> Result<Option<Self>, StorageError> {
        let Output::Names(names) = storage.blocking(Operation::List { path: directory.to_owned() })? else {
            return Ok(None);
        };
        let id = recording.recording_id;
        let Some(base) = names.iter().filter_map(|name| segment::parse(name, id)).max() else {
            return Ok(None);
        };
        let path = segment::path(directory, id, base);
        let Output::Opened(file, file_length) = storage.blocking(Operation::Open { path, mode })? else {
            return Ok(None);
        };
        let length = (file_length as usize).min(recording.segment_file_length as usize);
        match read_segment(storage, file, length) {
            Ok(bytes) => Ok(Some(Self { base, file, bytes })),
            Err(error) => {
                storage.blocking(Operation::Close { file })?;
                Err(error)
            }
        }
    }

    /// Follows complete frames and returns where they end. Checksums are verified within a range of offsets.
    fn whole_end(
        &self,
        recording: &RecordingDescriptor,
        checksum: Option<Checksum>,
        stamped: &Range<usize>,
    ) -> usize {
        let (base, bytes) = (self.base, &self.bytes);
        let mut offset = first_offset(recording, base).min(bytes.len());
        while let Some(length) = frame_length(bytes, offset) {
            let end = offset + align(length, FRAME_ALIGNMENT);
            let checksum = checksum.filter(|_| stamped.contains(&offset));
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

    /// Zeroes the bytes after `end` and closes the file.
    fn cut<S: Storage>(
        &mut self,
        storage: &mut S,
        recording: &RecordingDescriptor,
        end: usize,
        sync: Option<SyncLevel>,
    ) -> Result<(), StorageError> {
        let file = self.file;
        if self.bytes[end..].iter().any(|byte| *byte != 0) {
            storage.blocking(Operation::SetLength { file, length: end as u64 })?;
            let length = recording.segment_file_length as u64;
            storage.blocking(Operation::SetLength { file, length })?;
        }
        if let Some(level) = sync {
            storage.blocking(Operation::Sync { file, level })?;
        }
        storage.blocking(Operation::Close { file })?;
        Ok(())
    }
}

/// Reads the seal of a segment; `None` when no complete one exists. Blocks.
pub(crate) fn read_seal<S: Storage>(
    storage: &mut S,
    directory: &Path,
    recording_id: i64,
    base: i64,
) -> Result<Option<SegmentSeal>, StorageError> {
    let path = segment::seal_path(directory, recording_id, base);
    let (file, length) = match storage.blocking(Operation::Open { path: path.clone(), mode: OpenMode::Read })
    {
        Ok(Output::Opened(file, length)) => (file, length as usize),
        Err(error) if !error.is_not_found() => return Err(error),
        _ => return Ok(None),
    };
    let bytes = read_segment(storage, file, length);
    storage.blocking(Operation::Close { file })?;
    SegmentSeal::read(&bytes?, recording_id, base)
        .map_err(|error| StorageError::new("read", &path, std::io::Error::other(error)))
}

/// Writes the seal of a segment. Blocks.
pub(crate) fn write_seal<S: Storage>(
    storage: &mut S,
    directory: &Path,
    seal: &SegmentSeal,
    sync: Option<SyncLevel>,
) -> Result<(), StorageError> {
    let path = segment::seal_path(directory, seal.recording_id, seal.base);
    let open = Operation::Open { path, mode: OpenMode::CreateOrOpen };
    let Output::Opened(file, _) = storage.blocking(open)? else { return Ok(()) };
    let bytes = WriteBuffer::Owned(seal.encode());
    let written = storage.blocking(Operation::Write { file, offset: 0, bytes });
    if let (Ok(_), Some(level)) = (&written, sync) {
        storage.blocking(Operation::Sync { file, level })?;
    }
    storage.blocking(Operation::Close { file })?;
    written.map(|_| ())
}

fn read_segment<S: Storage>(storage: &mut S, file: FileId, length: usize) -> Result<Vec<u8>, StorageError> {
    let read = Operation::Read { file, offset: 0, length, into: Vec::new() };
    match storage.blocking(read)? {
        Output::Data(bytes) => Ok(bytes),
        _ => Ok(Vec::new()),
    }
}

/// Offset of the first frame of a segment.
pub(crate) fn first_offset(recording: &RecordingDescriptor, base: i64) -> usize {
    let start = recording.start_position;
    let first_base = start - (start & (i64::from(recording.term_buffer_length) - 1));
    if base == first_base { (start - base) as usize } else { 0 }
}

/// True when the header is that of a frame of this recording at this offset. Padding must reach to the end of its term.
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

/// True when the frame's checksum proves it complete. Without a checksum only a process crash is possible, which tears
/// nothing; judging by zero pages would lose messages that contain zeros.
fn is_undamaged(bytes: &[u8], offset: usize, length: usize, checksum: Option<Checksum>) -> bool {
    let Some(checksum) = checksum.filter(|_| !is_padding(bytes, offset)) else { return true };
    let end = offset + align(length, FRAME_ALIGNMENT);
    let Some(frame) = bytes.get(offset..end) else { return false };
    frame[12..16].first_chunk().map(|word| i32::from_le_bytes(*word)) == Some(checksum.of_frame(frame))
}

/// Follows the frames of a segment and returns where they end.
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
    // A truncated file holds part of the frame.
    if end > bytes.len() {
        return false;
    }
    // Only the header of a padding frame is written (spec 03 §8, 15).
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
