//! Verifies replayed blocks against the seal of their segment.

use harrier_ringbuf::position::{FRAME_ALIGNMENT, align};

use super::ReplaySession;
use crate::checksum::{frame_length, is_padding};
use crate::descriptor::RecordingDescriptor;
use crate::seal::{BadFrame, SegmentSeal, verify_frame};
use crate::segment;

impl ReplaySession {
    /// Stores the seal of the segment. A truncated recording may end within a group; the frames before that end are
    /// verified one by one.
    pub(super) fn take_seal(&mut self, seal: Option<SegmentSeal>) {
        let stop = self.setup.recording.stop_position;
        self.seal = seal.map(|mut seal| {
            self.stamped_end = if self.setup.is_stamped_live { i64::MAX } else { seal.to };
            if stop != -1 {
                seal.cut(stop);
            }
            seal
        });
    }

    /// Offset and length of the next read: whole groups where the seal has them, otherwise the available bytes.
    pub(super) fn next_read(&self) -> (usize, usize) {
        let start = (self.position - self.file_base) as usize;
        let term_length = i64::from(self.setup.recording.term_buffer_length);
        let rest_of_term = (term_length - (self.position & (term_length - 1))) as usize;
        let max = rest_of_term.min(self.setup.io_max_length);
        let wanted = (self.stop_position - self.position) as usize;
        let Some(seal) = &self.seal else { return (start, wanted.min(max)) };
        let Some((offset, mut end)) = seal.group_around(start) else {
            // A read that begins before the first stamped frame ends at that frame.
            let unstamped = usize::try_from(seal.from - self.position).ok().filter(|length| *length > 0);
            return (start, wanted.min(max).min(unstamped.unwrap_or(max)));
        };
        while let Some((_, next)) = seal.group_around(end) {
            if next - start > max || end >= start + wanted {
                break;
            }
            end = next;
        }
        (offset, end - offset)
    }

    /// Verifies the block. Frames of a group outside the replay's range are read for verification only and are not
    /// offered.
    pub(super) fn verify(&mut self) -> Result<(), BadFrame> {
        let (recording, offset) = (&self.setup.recording, self.read_offset);
        if let Some(seal) = &self.seal {
            if seal.group_around(offset).is_some() {
                seal.verify(&self.buffer, offset, recording)?;
            } else if (seal.from..self.stamped_end).contains(&(self.file_base + offset as i64)) {
                verify_frames(&self.buffer, offset, recording, self.file_base)?;
            }
        }
        assert!(
            self.file_base + offset as i64 <= self.position && self.position < self.stop_position,
            "a replay reads at or before its position and up to its end"
        );
        let end = (self.stop_position - self.file_base) as usize - offset;
        self.buffer.truncate(end);
        self.first = (self.position - self.file_base) as usize - offset;
        self.offered = self.first;
        Ok(())
    }

    /// Describes the bad frame and the possible remedies.
    pub(super) fn describe(&self, bad: &BadFrame) -> String {
        let id = self.setup.recording.recording_id;
        let path = self.setup.directory.join(segment::file_name(id, self.file_base));
        format!(
            "{}: frame at offset {} (position {} of recording {id}): {}; the file is damaged: restore it from a backup; \
             harrier archive DIR verify --all --checksum CRC-32C finds all such frames",
            path.display(),
            bad.offset,
            self.file_base + bad.offset as i64,
            bad.reason
        )
    }
}

/// Verifies stamped frames outside of groups, as far as they were read completely.
fn verify_frames(
    buffer: &[u8],
    offset: usize,
    recording: &RecordingDescriptor,
    base: i64,
) -> Result<(), BadFrame> {
    let mut at = 0;
    while let Some(length) = frame_length(buffer, at) {
        let end = at + align(length, FRAME_ALIGNMENT);
        if end > buffer.len() && !is_padding(buffer, at) {
            break;
        }
        verify_frame(buffer, at, offset, recording, base)?;
        at = end;
    }
    Ok(())
}
