//! Events about recordings, which an archive publishes for everybody (spec 03 §2.10).

use harrier_protocol::sbe::{Decoder, Encoder, SbeError};

use super::{SCHEMA_ID, header};

/// An event about a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordingEvent<'a> {
    /// A recording or an extension has begun, message 101.
    Started {
        /// Recording id.
        recording_id: i64,
        /// Position at which the archive joined the image, bytes.
        start_position: i64,
        /// Session id of the recorded stream.
        session_id: i32,
        /// Stream id of the recorded stream.
        stream_id: i32,
        /// Channel of the request.
        channel: &'a str,
        /// Source identity of the image.
        source_identity: &'a str,
    },
    /// More of the stream is recorded, message 102.
    Progress {
        /// Recording id.
        recording_id: i64,
        /// Position at which the archive joined the image, bytes.
        start_position: i64,
        /// Recorded position, bytes.
        position: i64,
    },
    /// The recording has ended, message 103.
    Stopped {
        /// Recording id.
        recording_id: i64,
        /// Position at which the archive joined the image, bytes.
        start_position: i64,
        /// Recorded position, bytes.
        stop_position: i64,
    },
}

impl<'a> RecordingEvent<'a> {
    /// Decodes an event; `None` for other templates.
    ///
    /// # Errors
    /// A message of another schema, or a truncated one.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        let (recording_id, start_position) = (b.i64(0, 0), b.i64(8, 0));
        Ok(Some(match m.header().template_id {
            101 => Self::Started {
                recording_id,
                start_position,
                session_id: b.i32(16, 0),
                stream_id: b.i32(20, 0),
                channel: m.text("channel", 0)?,
                source_identity: m.text("source identity", 0)?,
            },
            102 => Self::Progress { recording_id, start_position, position: b.i64(16, 0) },
            103 => Self::Stopped { recording_id, start_position, stop_position: b.i64(16, 0) },
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::Started {
                recording_id,
                start_position,
                session_id,
                stream_id,
                channel,
                source_identity,
            } => Encoder::new(buffer, header(101, 24))
                .i64(0, recording_id)
                .i64(8, start_position)
                .i32(16, session_id)
                .i32(20, stream_id)
                .text(channel)
                .text(source_identity)
                .finish(),
            Self::Progress { recording_id, start_position, position } => {
                Encoder::new(buffer, header(102, 24))
                    .i64(0, recording_id)
                    .i64(8, start_position)
                    .i64(16, position)
                    .finish()
            }
            Self::Stopped { recording_id, start_position, stop_position } => {
                Encoder::new(buffer, header(103, 24))
                    .i64(0, recording_id)
                    .i64(8, start_position)
                    .i64(16, stop_position)
                    .finish()
            }
        }
    }
}
