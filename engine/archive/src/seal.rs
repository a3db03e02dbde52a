//! Segment seals: records of the stamped frames of a segment file (docs/protocol/own-files.md).
//!
//! The seal of a stamped segment file is `<recordingId>-<segmentBasePosition>.seal` in the same directory. It names the
//! positions whose data frames carry CRC-32C in their session field (spec 03 §3.5). That checksum does not cover the
//! frame headers, so the seal has a checksum over the headers of the frames that begin in each 64 KiB of the segment.
//! Frames of other implementations are outside of the seal and are not verified.

use harrier_protocol::record::{HEADER_LENGTH as RECORD_HEADER, RecordKind, UnknownVersion};
use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH, align};

use crate::checksum::{Checksum, frame_length, is_padding};
use crate::descriptor::RecordingDescriptor;

const KIND: RecordKind = RecordKind { magic: *b"HSEG", version: 1, name: "segment seal" };
/// Suffix of the files.
pub const SEAL_SUFFIX: &str = ".seal";
/// Length of a chunk, bytes. Frames are grouped by the chunk in which they begin, so a group never crosses a term.
const CHUNK_LENGTH: u32 = 64 << 10;
const FIXED_LENGTH: usize = 48;
const ENTRY_LENGTH: usize = 8;
const SESSION_ID: usize = 12;

/// Group of the frames that begin in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    /// Offset of the group's first frame in the segment.
    first: u32,
    /// CRC-32C of the frame headers as stored in the file.
    headers: u32,
}

/// Contents of a seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentSeal {
    pub(crate) recording_id: i64,
    /// Position of the segment's first byte.
    pub(crate) base: i64,
    /// Position of the first stamped frame.
    pub(crate) from: i64,
    /// Position after the last frame that is in a group.
    pub(crate) to: i64,
    /// Session id in the catalog when the seal was written.
    pub(crate) session_id: i32,
    /// Checksum of the invariant fields of the catalog entry, see [`shape_of`].
    pub(crate) shape: u32,
    groups: Vec<Group>,
}

/// A frame that differs from the written one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadFrame {
    /// Offset in the segment.
    pub(crate) offset: usize,
    pub(crate) reason: &'static str,
}

/// CRC-32C of a recording's descriptor without the fields that stopping and extending change.
pub(crate) fn shape_of(recording: &RecordingDescriptor) -> u32 {
    let mut shape = recording.clone();
    (shape.control_session_id, shape.correlation_id, shape.session_id) = (0, 0, 0);
    (shape.stop_timestamp, shape.stop_position) = (0, 0);
    crc32c::crc32c(&shape.to_entry_body(shape.frame_length()))
}

impl SegmentSeal {
    /// Creates a seal without frames; stamping begins at `from`. Reserves memory for all groups of the segment.
    pub(crate) fn begin(recording: &RecordingDescriptor, base: i64, from: i64) -> Self {
        let groups = recording.segment_file_length as usize / CHUNK_LENGTH as usize + 1;
        Self {
            recording_id: recording.recording_id,
            base,
            from,
            to: from,
            session_id: recording.session_id,
            shape: shape_of(recording),
            groups: Vec::with_capacity(groups),
        }
    }

    /// Takes over the frames of an earlier seal of the same segment; keeps the present session id and shape.
    pub(crate) fn resume(&mut self, earlier: Self) {
        (self.from, self.to) = (earlier.from, earlier.to);
        self.groups.extend(earlier.groups);
    }

    /// Decodes the seal of a recording's segment; `None` when it is incomplete or of another segment.
    pub(crate) fn read(bytes: &[u8], recording_id: i64, base: i64) -> Result<Option<Self>, UnknownVersion> {
        let Some(payload) = KIND.open(bytes)? else { return Ok(None) };
        let Some((fixed, entries)) = payload.split_at_checked(FIXED_LENGTH) else { return Ok(None) };
        let long = |at: usize| fixed[at..].first_chunk().map_or(0, |word| i64::from_le_bytes(*word));
        let word =
            |bytes: &[u8], at: usize| bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let groups = entries
            .chunks_exact(ENTRY_LENGTH)
            .map(|entry| Group { first: word(entry, 0), headers: word(entry, 4) })
            .collect();
        let seal = Self {
            recording_id: long(0),
            base: long(8),
            from: long(16),
            to: long(24),
            session_id: word(fixed, 32) as i32,
            shape: word(fixed, 36),
            groups,
        };
        Ok((seal.recording_id == recording_id && seal.base == base).then_some(seal))
    }

    /// Encodes the seal.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_HEADER];
        for value in [self.recording_id, self.base, self.from, self.to] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&self.session_id.to_le_bytes());
        bytes.extend_from_slice(&self.shape.to_le_bytes());
        bytes.resize(RECORD_HEADER + FIXED_LENGTH, 0);
        for group in &self.groups {
            bytes.extend_from_slice(&group.first.to_le_bytes());
            bytes.extend_from_slice(&group.headers.to_le_bytes());
        }
        KIND.seal_in_place(&mut bytes);
        bytes
    }

    /// Adds the frames of a block written at an offset of the segment. Only the header of padding is needed.
    pub(crate) fn add(&mut self, block: &[u8], offset: usize) {
        let mut at = 0;
        while let Some(length) = frame_length(block, at) {
            self.add_frame(&block[at..at + HEADER_LENGTH], (offset + at) as u32);
            at += align(length, FRAME_ALIGNMENT);
        }
        self.to = self.to.max(self.base + (offset + at) as i64);
    }

    fn add_frame(&mut self, header: &[u8], offset: u32) {
        match self.groups.last_mut() {
            Some(group) if group.first / CHUNK_LENGTH == offset / CHUNK_LENGTH => {
                group.headers = crc32c::crc32c_append(group.headers, header);
            }
            _ => self.groups.push(Group { first: offset, headers: crc32c::crc32c(header) }),
        }
    }

    /// Removes the frames from a position on. When that position lies inside a group, returns the offset from which
    /// frames up to the position must be added again.
    pub(crate) fn cut(&mut self, position: i64) -> Option<usize> {
        if position >= self.to {
            return None;
        }
        let end = (position - self.base).max(0) as u32;
        self.groups.retain(|group| group.first < end);
        self.to = position.max(self.from);
        let group = self.groups.pop()?;
        self.to = self.base + i64::from(group.first);
        Some(group.first as usize)
    }

    /// Range of offsets to read for the verification of the frame at an offset: its whole group. `None` when the frame
    /// is in no group.
    pub(crate) fn group_around(&self, offset: usize) -> Option<(usize, usize)> {
        let end = (self.to - self.base) as usize;
        if offset >= end {
            return None;
        }
        let next = self.groups.partition_point(|group| group.first as usize <= offset);
        let group = self.groups.get(next.checked_sub(1)?)?;
        Some((group.first as usize, self.groups.get(next).map_or(end, |group| group.first as usize)))
    }

    /// Verifies whole groups; the bytes begin at the first one.
    pub(crate) fn verify(
        &self,
        bytes: &[u8],
        offset: usize,
        recording: &RecordingDescriptor,
    ) -> Result<(), BadFrame> {
        let mut at = 0;
        while at < bytes.len() {
            let Some((first, end)) = self.group_around(offset + at) else { return Ok(()) };
            let Some(group) = bytes.get(at..end - offset).filter(|_| first == offset + at) else {
                return Err(BadFrame {
                    offset: offset + at,
                    reason: "the file is shorter than its seal says",
                });
            };
            let mut headers = 0;
            let mut frame = 0;
            while frame < group.len() {
                let next = verify_frame(group, frame, first, recording, self.base)?;
                headers = crc32c::crc32c_append(headers, &group[frame..frame + HEADER_LENGTH]);
                frame = next;
            }
            let expected = self.groups.iter().find(|group| group.first as usize == first);
            if frame != group.len() || expected.is_none_or(|sealed| sealed.headers != headers) {
                let reason = "a header among the frames from here on is not the one that was written";
                return Err(BadFrame { offset: first, reason });
            }
            at = end - offset;
        }
        Ok(())
    }
}

/// Verifies a stamped frame and returns the offset of the next. `bytes` begin at `base_offset` of the segment.
pub(crate) fn verify_frame(
    bytes: &[u8],
    at: usize,
    base_offset: usize,
    recording: &RecordingDescriptor,
    segment_base: i64,
) -> Result<usize, BadFrame> {
    let bad = |reason| Err(BadFrame { offset: base_offset + at, reason });
    let Some(length) = frame_length(bytes, at) else { return bad("there is no frame") };
    let end = at + align(length, FRAME_ALIGNMENT);
    let int = |field: usize| bytes[at + field..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
    let position = segment_base + (base_offset + at) as i64;
    let term_length = i64::from(recording.term_buffer_length);
    let term_id = recording.initial_term_id.wrapping_add((position / term_length) as i32);
    let rest_of_term = (term_length - position % term_length) as usize;
    if (int(8), int(16), int(20)) != ((position % term_length) as i32, recording.stream_id, term_id)
        || end - at > rest_of_term
    {
        return bad("its header is not that of a frame at this position");
    }
    match bytes.get(at..end) {
        _ if is_padding(bytes, at) => Ok(end),
        Some(frame) if Checksum::Crc32c.of_frame(frame) == int(SESSION_ID) => Ok(end),
        Some(_) => bad("it does not match its checksum"),
        None => bad("it is cut"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> RecordingDescriptor {
        RecordingDescriptor {
            control_session_id: 0,
            correlation_id: 0,
            recording_id: 7,
            start_timestamp: 1,
            stop_timestamp: -1,
            start_position: 0,
            stop_position: -1,
            initial_term_id: 3,
            segment_file_length: 128 << 10,
            term_buffer_length: 64 << 10,
            mtu_length: 1_408,
            session_id: 9,
            stream_id: 100,
            stripped_channel: "aeron:ipc".into(),
            original_channel: "aeron:ipc".into(),
            source_identity: "aeron:ipc".into(),
        }
    }

    /// Builds a segment of stamped frames with `payload` bytes each and padding at term ends. Also returns where the
    /// frames end.
    fn segment(payload: usize, count: usize) -> (Vec<u8>, usize) {
        let (term, mut bytes, mut at) = (64 << 10, vec![0; 128 << 10], 0);
        for number in 0..count {
            let rest = term - at % term;
            let padding = align(HEADER_LENGTH + payload, FRAME_ALIGNMENT) > rest;
            let length = if padding { rest } else { HEADER_LENGTH + payload };
            bytes[at..at + 4].copy_from_slice(&(length as i32).to_le_bytes());
            bytes[at + 5..at + 7].copy_from_slice(&[0xc0, u8::from(!padding)]);
            bytes[at + 8..at + 12].copy_from_slice(&((at % term) as i32).to_le_bytes());
            bytes[at + 16..at + 20].copy_from_slice(&100_i32.to_le_bytes());
            bytes[at + 20..at + 24].copy_from_slice(&(3 + (at / term) as i32).to_le_bytes());
            if !padding {
                bytes[at + 32..at + length].fill(number as u8);
            }
            at += align(length, FRAME_ALIGNMENT);
        }
        Checksum::Crc32c.stamp(&mut bytes[..at]);
        (bytes, at)
    }

    fn sealed(bytes: &[u8], end: usize) -> SegmentSeal {
        let mut seal = SegmentSeal::begin(&recording(), 0, 0);
        seal.add(&bytes[..end], 0);
        seal
    }

    #[test]
    fn a_seal_is_read_back_for_its_own_segment_only() {
        let (bytes, end) = segment(1_000, 100);
        let seal = sealed(&bytes, end);
        let encoded = seal.encode();
        assert_eq!(SegmentSeal::read(&encoded, 7, 0), Ok(Some(seal)));
        assert_eq!(SegmentSeal::read(&encoded, 8, 0), Ok(None));
        assert_eq!(SegmentSeal::read(&encoded, 7, 65_536), Ok(None));
        assert_eq!(SegmentSeal::read(&encoded[..40], 7, 0), Ok(None));
    }

    #[test]
    fn every_flipped_bit_of_a_sealed_frame_is_found() {
        let (mut bytes, end) = segment(100, 90);
        let seal = sealed(&bytes, end);
        let verify = |bytes: &[u8]| seal.verify(&bytes[..end], 0, &recording());
        assert_eq!(verify(&bytes), Ok(()));
        for at in [0, 160 * 7, 160 * 89] {
            for bit in 0..160 * 8 {
                bytes[at + bit / 8] ^= 1 << (bit % 8);
                assert!(verify(&bytes).is_err(), "bit {bit} of the frame at {at}");
                bytes[at + bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn groups_end_with_their_chunk_and_padding_counts_by_its_header() {
        let (bytes, end) = segment(1_000, 110);
        let seal = sealed(&bytes, end);
        let (first, middle) = seal.group_around(0).unwrap();
        assert_eq!((first, middle), (0, 64 << 10));
        assert_eq!(seal.group_around(middle + 64), Some((middle, end)));
        assert_eq!(seal.group_around(end), None);
        assert_eq!(seal.verify(&bytes[middle..end], middle, &recording()), Ok(()));
        assert_eq!(seal.verify(&bytes[..end], 0, &recording()), Ok(()));
        let cut = seal.verify(&bytes[..end - 32], 0, &recording()).unwrap_err();
        assert_eq!(cut.offset, middle);
    }

    #[test]
    fn a_cut_seal_goes_on_as_if_the_rest_had_never_been() {
        let (bytes, end) = segment(1_000, 110);
        let whole = sealed(&bytes, end);
        for frames in [0, 1, 30, 63, 64, 80] {
            // 62 frames of 1,056 bytes and one of padding fill a term.
            let position = match frames {
                0..63 => frames * 1_056,
                _ => (64 << 10) + (frames - 63) * 1_056,
            };
            let mut seal = whole.clone();
            if let Some(from) = seal.cut(position as i64) {
                seal.add(&bytes[from..position], from);
            }
            assert_eq!(seal, sealed(&bytes, position), "{frames} frames");
            seal.add(&bytes[position..end], position);
            assert_eq!(seal, whole, "{frames} frames");
        }
        assert_eq!(whole.clone().cut(end as i64), None);
    }
}
