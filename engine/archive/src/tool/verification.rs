//! Verifying recordings: positions, segments, frames and checksums (spec 03 §4.7).

use harrier_ringbuf::Memory;
use harrier_ringbuf::position::{FRAME_ALIGNMENT, align};
use harrier_ringbuf::storage::{Operation, Storage};

use super::editor::ArchiveEditor;
use super::{SegmentFile, ToolError};
use crate::catalog::{CatalogEntry, RecordingState, check_positions};
use crate::checksum::{Checksum, frame_length, is_padding};
use crate::descriptor::{ENTRY_HEADER_LENGTH, RecordingDescriptor};
use crate::recovery::{self, RecoveryError, read_seal};
use crate::seal::{BadFrame, SegmentSeal};

/// Treatment of a last frame that may lack a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TornAnswer {
    /// The recording is faulty.
    Refuse,
    /// The recording ends before the frame; its bytes are zeroed.
    Truncate,
    /// The frame is complete.
    Keep,
}

/// Scope of a verification.
#[derive(Debug, Clone, Copy)]
pub struct VerifyOptions {
    /// True to verify every segment instead of only the last.
    pub all_segments: bool,
    /// Checksum to verify in entries and frames; `None` for no verification.
    pub checksum: Option<Checksum>,
    /// Treatment of a last frame that may be torn.
    pub torn: TornAnswer,
}

/// Result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The recording is purged, so nothing is verified.
    Deleted,
    /// The recording is intact.
    Good {
        /// New stop position, when the catalog held another one.
        corrected_stop: Option<i64>,
        /// True when the entry was invalid before.
        became_valid: bool,
    },
    /// No frame has the requested checksum. Positions and frames were verified without it, and nothing was changed.
    NotStamped {
        /// Number of verified data frames.
        frames: u64,
    },
    /// The last frame may be torn and needs another [`TornAnswer`]. The entry is unchanged.
    Torn {
        /// Name of the segment file.
        segment: String,
        /// Offset of the frame in the segment.
        offset: usize,
    },
    /// The recording is faulty and its entry now invalid.
    Faulty {
        /// Description of the fault.
        reason: String,
    },
}

/// Data frames by the content of their session field.
#[derive(Debug, Default)]
struct Frames {
    stamped: u64,
    not_stamped: u64,
    /// First frame outside of a seal that matches neither its checksum nor the recording's session id.
    suspect: Option<String>,
}

/// Reason why a recording does not pass.
enum Objection {
    Torn { segment: String, offset: usize },
    Fault(String),
    Error(ToolError),
}

impl From<ToolError> for Objection {
    fn from(error: ToolError) -> Self {
        Self::Error(error)
    }
}

impl<M: Memory, S: Storage> ArchiveEditor<M, S> {
    /// Verifies one recording and writes the resulting stop position and state.
    ///
    /// # Errors
    /// [`ToolError::Unknown`], or a file that cannot be read or written.
    pub fn verify(&mut self, recording_id: i64, options: &VerifyOptions) -> Result<Verdict, ToolError> {
        let entry = self.files.entry(recording_id)?.clone();
        if entry.state == RecordingState::Deleted {
            return Ok(Verdict::Deleted);
        }
        let segments = self.files.segments(recording_id)?;
        let mut frames = Frames::default();
        let examined = self.examine(&entry, &segments, options, &mut frames);
        if options.checksum.is_some() && frames.stamped == 0 && frames.not_stamped > 0 && examined.is_ok() {
            return Ok(Verdict::NotStamped { frames: frames.not_stamped });
        }
        match examined
            .and_then(|stop| frames.suspect.map_or(Ok(stop), |reason| Err(Objection::Fault(reason))))
        {
            Ok(stop) => self.accept(&entry, stop, !segments.is_empty()),
            Err(Objection::Torn { segment, offset }) => Ok(Verdict::Torn { segment, offset }),
            Err(Objection::Error(error)) => Err(error),
            Err(Objection::Fault(reason)) => {
                self.set_valid(recording_id, false)?;
                Ok(Verdict::Faulty { reason })
            }
        }
    }

    fn accept(&mut self, entry: &CatalogEntry, stop: i64, has_segments: bool) -> Result<Verdict, ToolError> {
        let corrected_stop = (stop != entry.descriptor.stop_position).then_some(stop);
        if let Some(stop) = corrected_stop {
            self.set_stop(entry, stop)?;
        }
        let became_valid = has_segments && self.set_valid(entry.descriptor.recording_id, true)?;
        Ok(Verdict::Good { corrected_stop, became_valid })
    }

    /// Finds the end of the recording.
    fn examine(
        &mut self,
        entry: &CatalogEntry,
        segments: &[SegmentFile],
        options: &VerifyOptions,
        frames: &mut Frames,
    ) -> Result<i64, Objection> {
        let recording = &entry.descriptor;
        let (start, stop) = (recording.start_position, recording.stop_position);
        check_positions(recording).map_err(Objection::Fault)?;
        if stop != -1 && stop < start {
            return Err(Objection::Fault(format!("stopPosition={stop} is before startPosition={start}")));
        }
        self.check_entry(entry, options)?;
        let Some(last) = segments.iter().rev().find(|segment| segment.base_position.is_some()) else {
            return if stop == -1 || stop == start {
                Ok(start)
            } else {
                Err(Objection::Fault(format!("no segment file of {} bytes is there", stop - start)))
            };
        };
        let last_base = last.base_position.unwrap_or_default();
        let limit = last_base + i64::from(recording.segment_file_length);
        for (what, position) in [("startPosition", start), ("stopPosition", stop)] {
            if position > limit {
                return Err(Objection::Fault(format!(
                    "{what}={position} lies behind the last segment, which ends at {limit}"
                )));
            }
        }
        let end = self.find_end(recording, last, options)?.max(start);
        if end < stop && options.torn != TornAnswer::Truncate {
            return Err(Objection::Fault(format!(
                "positions {end} to {stop} are missing: the frames in {} end there; restore it from a backup, or end the \
                 recording there with --torn truncate",
                last.name
            )));
        }
        let mut next = recording.segment_base(start);
        for segment in segments {
            let Some(base) = segment.base_position.filter(|base| *base >= recording.segment_base(start))
            else {
                continue;
            };
            if !options.all_segments && base != last_base {
                continue;
            }
            if options.all_segments && base != next {
                return Err(Objection::Fault(format!("segment file of position {next} is missing")));
            }
            self.check_segment(recording, segment, base, end, options, frames)?;
            next = base + i64::from(recording.segment_file_length);
        }
        Ok(end)
    }

    fn check_entry(&self, entry: &CatalogEntry, options: &VerifyOptions) -> Result<(), Objection> {
        // An archive without checksums writes 0.
        let Some(checksum) = options.checksum.filter(|_| entry.checksum != 0) else { return Ok(()) };
        let body = &self.files.bytes[entry.offset + ENTRY_HEADER_LENGTH..entry.offset + entry.length];
        let computed = checksum.of(body);
        if computed == entry.checksum {
            return Ok(());
        }
        Err(Objection::Fault(format!("invalid catalog checksum: {computed} (recorded {})", entry.checksum)))
    }

    fn find_end(
        &mut self,
        recording: &RecordingDescriptor,
        last: &SegmentFile,
        options: &VerifyOptions,
    ) -> Result<i64, Objection> {
        let base = last.base_position.unwrap_or_default();
        let bytes = self.files.read_segment(recording, &last.name).map_err(ToolError::from)?;
        match recovery::scan(recording, base, &bytes, options.checksum) {
            Ok(end) => Ok(base + end as i64),
            Err(RecoveryError::Torn { segment, offset, .. }) => match options.torn {
                TornAnswer::Refuse => Err(Objection::Torn { segment, offset }),
                TornAnswer::Keep => {
                    let length = frame_length(&bytes, offset).unwrap_or(0);
                    let end = offset + align(length, FRAME_ALIGNMENT);
                    Ok(base + end.min(bytes.len()) as i64)
                }
                TornAnswer::Truncate => {
                    let path = self.files.directory.join(&last.name);
                    let length = recording.segment_file_length as u64;
                    self.with_file(&path, |storage, file| {
                        storage.blocking(Operation::SetLength { file, length: offset as u64 })?;
                        storage.blocking(Operation::SetLength { file, length }).map(|_| ())
                    })?;
                    Ok(base + offset as i64)
                }
            },
            Err(RecoveryError::Storage(error)) => Err(ToolError::from(error).into()),
        }
    }

    /// Follows the frames of a segment up to the recording's end.
    fn check_segment(
        &mut self,
        recording: &RecordingDescriptor,
        segment: &SegmentFile,
        base: i64,
        end: i64,
        options: &VerifyOptions,
        frames: &mut Frames,
    ) -> Result<(), Objection> {
        let bytes = self.files.read_segment(recording, &segment.name).map_err(ToolError::from)?;
        let seal = self.sealed_by(recording, base, options)?;
        let segment_length = i64::from(recording.segment_file_length);
        let limit = (end - base).clamp(0, segment_length) as usize;
        let fault = |reason: String| Err(Objection::Fault(format!("file {}: {reason}", segment.name)));
        let mut offset = recovery::first_offset(recording, base);
        while offset < limit {
            let Some(length) = frame_length(&bytes, offset) else {
                return fault(format!("no frame at {offset}, the recording goes on to {limit}"));
            };
            let int =
                |at: usize| bytes[offset + at..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
            let position = base + offset as i64;
            let term_length = i64::from(recording.term_buffer_length);
            let term_id = recording.initial_term_id.wrapping_add((position / term_length) as i32);
            let expected = ((position % term_length) as i32, term_id, recording.stream_id);
            let found = (int(8), int(20), int(16));
            if found != expected {
                return fault(format!(
                    "frame at {offset} has termOffset={} termId={} streamId={}, expected {} {} {}",
                    found.0, found.1, found.2, expected.0, expected.1, expected.2
                ));
            }
            let next = offset + align(length, FRAME_ALIGNMENT);
            if next as i64 > segment_length {
                return fault(format!("frame at {offset} of {length} bytes runs past the segment"));
            }
            if let Some(checksum) = options.checksum.filter(|_| !is_padding(&bytes, offset)) {
                let computed = bytes.get(offset..next).map(|frame| checksum.of_frame(frame));
                let is_sealed = seal.as_ref().is_some_and(|seal| (seal.from..seal.to).contains(&position));
                let reason = || format!("frame at {offset} has checksum {}, computed {computed:?}", int(12));
                match computed == Some(int(12)) {
                    true => frames.stamped += 1,
                    false if is_sealed => return fault(reason()),
                    false => {
                        frames.not_stamped += 1;
                        if seal.is_none() && int(12) != recording.session_id && frames.suspect.is_none() {
                            frames.suspect = Some(format!("file {}: {}", segment.name, reason()));
                        }
                    }
                }
            }
            offset = next;
        }
        match seal.map(|seal| verify_groups(&seal, &bytes, limit, recording)) {
            Some(Err(bad)) => fault(format!("frame at {}: {}", bad.offset, bad.reason)),
            _ => Ok(()),
        }
    }

    /// Reads the seal of a segment when checksums are verified.
    fn sealed_by(
        &mut self,
        recording: &RecordingDescriptor,
        base: i64,
        options: &VerifyOptions,
    ) -> Result<Option<SegmentSeal>, Objection> {
        if options.checksum != Some(Checksum::Crc32c) {
            return Ok(None);
        }
        let directory = self.files.directory.clone();
        let seal = read_seal(&mut self.files.storage, &directory, recording.recording_id, base);
        Ok(seal.map_err(ToolError::from)?)
    }
}

/// Verifies the groups of a seal that end before an offset.
fn verify_groups(
    seal: &SegmentSeal,
    bytes: &[u8],
    limit: usize,
    recording: &RecordingDescriptor,
) -> Result<(), BadFrame> {
    let (from, to) = ((seal.from - seal.base) as usize, (seal.to - seal.base) as usize);
    let mut seal = seal.clone();
    if to > limit {
        seal.cut(seal.base + limit as i64);
    }
    let end = (seal.to - seal.base) as usize;
    bytes.get(from..end).map_or(Ok(()), |bytes| seal.verify(bytes, from, recording))
}
