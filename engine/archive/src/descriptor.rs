//! Recording descriptors of the catalog (spec 03 §2.4, §4.3).

use harrier_protocol::sbe::{Block, Decoder, Encoder, MessageHeader, SbeError};
use harrier_ringbuf::position::align;

use crate::codec::{SCHEMA_ID, SCHEMA_VERSION};

/// Length of the fixed fields, bytes.
pub const BLOCK_LENGTH: usize = 80;
/// Length of the header before the descriptor in a catalog entry, bytes.
pub const ENTRY_HEADER_LENGTH: usize = 32;
/// Alignment of entries, bytes.
pub const ALIGNMENT: usize = 64;
const TEMPLATE_ID: u16 = 22;

/// Descriptor of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingDescriptor {
    /// Control session of the client that started or last extended the recording.
    pub control_session_id: i64,
    /// Correlation id of that client's request.
    pub correlation_id: i64,
    /// Recording id.
    pub recording_id: i64,
    /// Start time, epoch ms.
    pub start_timestamp: i64,
    /// Stop time, epoch ms; -1 while the recording is active.
    pub stop_timestamp: i64,
    /// Position of the first recorded byte.
    pub start_position: i64,
    /// Stop position; -1 while the recording is active.
    pub stop_position: i64,
    /// Initial term id.
    pub initial_term_id: i32,
    /// Length of a segment file, bytes.
    pub segment_file_length: i32,
    /// Length of a term, bytes.
    pub term_buffer_length: i32,
    /// MTU, bytes.
    pub mtu_length: i32,
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Channel, without parameters that do not name it.
    pub stripped_channel: String,
    /// Channel, as the client gave it.
    pub original_channel: String,
    /// Address of the source, or `aeron:ipc`.
    pub source_identity: String,
}

impl RecordingDescriptor {
    /// Decodes the body of a descriptor message or of a catalog entry.
    pub(crate) fn from_message(m: &mut Decoder<'_>) -> Result<Self, SbeError> {
        let b = m.block();
        Ok(Self::from_block(
            &b,
            m.text("stripped channel", 0)?.to_owned(),
            m.text("original channel", 0)?.to_owned(),
            m.text("source identity", 0)?.to_owned(),
        ))
    }

    fn from_block(
        b: &Block<'_>,
        stripped_channel: String,
        original_channel: String,
        source_identity: String,
    ) -> Self {
        Self {
            control_session_id: b.i64(0, 0),
            correlation_id: b.i64(8, 0),
            recording_id: b.i64(16, 0),
            start_timestamp: b.i64(24, 0),
            stop_timestamp: b.i64(32, 0),
            start_position: b.i64(40, 0),
            stop_position: b.i64(48, 0),
            initial_term_id: b.i32(56, 0),
            segment_file_length: b.i32(60, 0),
            term_buffer_length: b.i32(64, 0),
            mtu_length: b.i32(68, 0),
            session_id: b.i32(72, 0),
            stream_id: b.i32(76, 0),
            stripped_channel,
            original_channel,
            source_identity,
        }
    }

    /// Decodes the bytes after an entry's header.
    ///
    /// # Errors
    /// Truncated bytes.
    pub fn from_entry(body: &[u8]) -> Result<Self, SbeError> {
        Self::from_message(&mut Decoder::body(message_header(), body)?)
    }

    /// Length of the whole catalog entry in bytes, header and padding included.
    pub fn frame_length(&self) -> usize {
        let text = self.stripped_channel.len() + self.original_channel.len() + self.source_identity.len();
        align(ENTRY_HEADER_LENGTH + BLOCK_LENGTH + 12 + text, ALIGNMENT)
    }

    fn fill<'b>(&self, e: Encoder<'b>, control_session_id: i64, correlation_id: i64) -> Encoder<'b> {
        e.i64(0, control_session_id)
            .i64(8, correlation_id)
            .i64(16, self.recording_id)
            .i64(24, self.start_timestamp)
            .i64(32, self.stop_timestamp)
            .i64(40, self.start_position)
            .i64(48, self.stop_position)
            .i32(56, self.initial_term_id)
            .i32(60, self.segment_file_length)
            .i32(64, self.term_buffer_length)
            .i32(68, self.mtu_length)
            .i32(72, self.session_id)
            .i32(76, self.stream_id)
            .text(&self.stripped_channel)
            .text(&self.original_channel)
            .text(&self.source_identity)
    }

    /// Encodes the bytes after an entry's header, padded to `length`.
    pub fn to_entry_body(&self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        let encoder = Encoder::body(&mut body, BLOCK_LENGTH);
        let written = self.fill(encoder, self.control_session_id, self.correlation_id).finish();
        assert!(written.is_ok(), "an entry holds its descriptor");
        body
    }

    /// True while the recording is active.
    pub fn is_active(&self) -> bool {
        self.stop_position == -1
    }

    /// Position of the first byte of the segment that holds `position` (spec 03 §3.5).
    pub fn segment_base(&self, position: i64) -> i64 {
        crate::segment::base_position(
            self.start_position,
            position,
            self.term_buffer_length,
            self.segment_file_length,
        )
    }
}

fn message_header() -> MessageHeader {
    MessageHeader {
        block_length: BLOCK_LENGTH as u16,
        template_id: TEMPLATE_ID,
        schema_id: SCHEMA_ID,
        version: SCHEMA_VERSION,
    }
}

/// Encodes a descriptor message with the padding of its catalog entry (spec 03 §2.4).
pub(crate) fn encode_message(
    buffer: &mut [u8],
    control_session_id: i64,
    correlation_id: i64,
    descriptor: &RecordingDescriptor,
) -> Result<usize, SbeError> {
    let required = 8 + descriptor.frame_length() - ENTRY_HEADER_LENGTH;
    let available = buffer.len();
    let target = buffer.get_mut(..required).ok_or(SbeError::BufferTooSmall { required, available })?;
    target.fill(0);
    descriptor.fill(Encoder::new(target, message_header()), control_session_id, correlation_id).finish()?;
    Ok(required)
}
