//! Requests of clients (spec 03 §2.2).

mod body;

use harrier_protocol::sbe::{Block, Decoder, Encoder, NULL_I32, NULL_I64, SbeError};

use super::{SCHEMA_ID, SourceLocation, header, or_null};

pub use body::{ReplayRequest, ReplicateRequest, RequestBody};

/// A request with the common prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Control session id; -1 for a connect request.
    pub control_session_id: i64,
    /// Id that the answers repeat.
    pub correlation_id: i64,
    /// Body of the request.
    pub body: RequestBody<'a>,
}

fn boolean(value: i32, field: &'static str) -> Result<bool, SbeError> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(SbeError::Enumeration { field, value }),
    }
}

impl<'a> Request<'a> {
    /// Decodes a request; `None` for templates that are not requests.
    ///
    /// # Errors
    /// A message of another schema, a truncated one, or a value outside its enumeration.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let template_id = m.header().template_id;
        let b = m.block();
        let (mut control_session_id, mut correlation_id) = (b.i64(0, 0), b.i64(8, 0));
        let body = match template_id {
            2 | 58 => {
                (control_session_id, correlation_id) = (-1, b.i64(0, 0));
                decode_connect(&mut m, &b, template_id)?
            }
            3 => {
                correlation_id = -1;
                RequestBody::CloseSession
            }
            4 | 63 => RequestBody::StartRecording {
                stream_id: b.i32(16, 0),
                location: SourceLocation::from_wire(b.i32(20, 0))?,
                auto_stop: template_id == 63 && boolean(b.i32(24, 0), "autoStop")?,
                channel: m.text("channel", 0)?,
            },
            11 | 64 => RequestBody::ExtendRecording {
                recording_id: b.i64(16, 0),
                stream_id: b.i32(24, 0),
                location: SourceLocation::from_wire(b.i32(28, 0))?,
                auto_stop: template_id == 64 && boolean(b.i32(32, 0), "autoStop")?,
                channel: m.text("channel", 0)?,
            },
            5 => RequestBody::StopRecording { stream_id: b.i32(16, 0), channel: m.text("channel", 0)? },
            6 | 18 => RequestBody::Replay(decode_replay(&mut m, &b, template_id)?),
            8 => RequestBody::ListRecordings { from_recording_id: b.i64(16, 0), count: b.i32(24, 0) },
            9 => RequestBody::ListRecordingsForUri {
                from_recording_id: b.i64(16, 0),
                count: b.i32(24, 0),
                stream_id: b.i32(28, 0),
                channel: m.text("channel", 0)?,
            },
            16 => RequestBody::FindLastMatchingRecording {
                min_recording_id: b.i64(16, 0),
                session_id: b.i32(24, 0),
                stream_id: b.i32(28, 0),
                channel: m.text("channel", 0)?,
            },
            17 => RequestBody::ListRecordingSubscriptions {
                pseudo_index: b.i32(16, 0),
                count: b.i32(20, 0),
                applies_stream_id: boolean(b.i32(24, 0), "applyStreamId")?,
                stream_id: b.i32(28, 0),
                channel: m.text("channel", 0)?,
            },
            60 => RequestBody::ChallengeResponse { credentials: m.bytes("credentials", 0)? },
            50 | 62 | 66 => RequestBody::Replicate(decode_replicate(&mut m, &b, template_id)?),
            107 => RequestBody::UpdateChannel { recording_id: b.i64(16, 0), channel: m.text("channel", 0)? },
            _ => match decode_fixed(template_id, &b) {
                Some(body) => body,
                None => return Ok(None),
            },
        };
        Ok(Some(Self { control_session_id, correlation_id, body }))
    }

    /// Template id of the newest form of the message.
    pub fn template_id(&self) -> u16 {
        self.shape().0
    }

    /// Template id and block length.
    fn shape(&self) -> (u16, u16) {
        match self.body {
            RequestBody::Connect { .. } => (58, 16),
            RequestBody::CloseSession => (3, 8),
            RequestBody::ChallengeResponse { .. } => (60, 16),
            RequestBody::KeepAlive => (61, 16),
            RequestBody::ArchiveId => (68, 16),
            RequestBody::StartRecording { .. } => (63, 28),
            RequestBody::ExtendRecording { .. } => (64, 36),
            RequestBody::StopRecording { .. } => (5, 20),
            RequestBody::StopRecordingSubscription { .. } => (14, 24),
            RequestBody::StopRecordingByIdentity { .. } => (65, 24),
            RequestBody::Replay(replay) if replay.limit_counter_id.is_some() => (18, 60),
            RequestBody::Replay(_) => (6, 56),
            RequestBody::StopReplay { .. } => (7, 24),
            RequestBody::StopAllReplays { .. } => (19, 24),
            RequestBody::ListRecordings { .. } => (8, 28),
            RequestBody::ListRecordingsForUri { .. } => (9, 32),
            RequestBody::ListRecording { .. } => (10, 24),
            RequestBody::ListRecordingSubscriptions { .. } => (17, 32),
            RequestBody::FindLastMatchingRecording { .. } => (16, 32),
            RequestBody::RecordingPosition { .. } => (12, 24),
            RequestBody::StartPosition { .. } => (52, 24),
            RequestBody::StopPosition { .. } => (15, 24),
            RequestBody::MaxRecordedPosition { .. } => (67, 24),
            RequestBody::TruncateRecording { .. } => (13, 32),
            RequestBody::PurgeRecording { .. } => (104, 24),
            RequestBody::DetachSegments { .. } => (53, 32),
            RequestBody::DeleteDetachedSegments { .. } => (54, 24),
            RequestBody::PurgeSegments { .. } => (55, 32),
            RequestBody::AttachSegments { .. } => (56, 24),
            RequestBody::MigrateSegments { .. } => (57, 32),
            RequestBody::UpdateChannel { .. } => (107, 24),
            RequestBody::ReplayToken { .. } => (105, 24),
            RequestBody::StopReplication { .. } => (51, 24),
            RequestBody::Replicate(_) => (66, 68),
        }
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        let (template_id, block_length) = self.shape();
        let e = Encoder::new(buffer, header(template_id, block_length));
        if let RequestBody::Connect {
            response_stream_id,
            version,
            response_channel,
            credentials,
            client_info,
        } = self.body
        {
            return e
                .i64(0, self.correlation_id)
                .i32(8, response_stream_id)
                .i32(12, version)
                .text(response_channel)
                .bytes(credentials)
                .text(client_info)
                .finish();
        }
        let e = e.i64(0, self.control_session_id);
        if let RequestBody::CloseSession = self.body {
            return e.finish();
        }
        self.encode_body(e.i64(8, self.correlation_id)).finish()
    }

    fn encode_body<'b>(&self, e: Encoder<'b>) -> Encoder<'b> {
        match self.body {
            RequestBody::Connect { .. }
            | RequestBody::CloseSession
            | RequestBody::KeepAlive
            | RequestBody::ArchiveId => e,
            RequestBody::ChallengeResponse { credentials } => e.bytes(credentials),
            RequestBody::StartRecording { stream_id, location, auto_stop, channel } => {
                e.i32(16, stream_id).i32(20, location.to_wire()).i32(24, i32::from(auto_stop)).text(channel)
            }
            RequestBody::ExtendRecording { recording_id, stream_id, location, auto_stop, channel } => e
                .i64(16, recording_id)
                .i32(24, stream_id)
                .i32(28, location.to_wire())
                .i32(32, i32::from(auto_stop))
                .text(channel),
            RequestBody::StopRecording { stream_id, channel } => e.i32(16, stream_id).text(channel),
            RequestBody::Replay(replay) => encode_replay(e, &replay),
            RequestBody::ListRecordings { from_recording_id, count } => {
                e.i64(16, from_recording_id).i32(24, count)
            }
            RequestBody::ListRecordingsForUri { from_recording_id, count, stream_id, channel } => {
                e.i64(16, from_recording_id).i32(24, count).i32(28, stream_id).text(channel)
            }
            RequestBody::ListRecordingSubscriptions {
                pseudo_index,
                count,
                applies_stream_id,
                stream_id,
                channel,
            } => e
                .i32(16, pseudo_index)
                .i32(20, count)
                .i32(24, i32::from(applies_stream_id))
                .i32(28, stream_id)
                .text(channel),
            RequestBody::FindLastMatchingRecording { min_recording_id, session_id, stream_id, channel } => {
                e.i64(16, min_recording_id).i32(24, session_id).i32(28, stream_id).text(channel)
            }
            RequestBody::TruncateRecording { recording_id, position }
            | RequestBody::DetachSegments { recording_id, new_start_position: position }
            | RequestBody::PurgeSegments { recording_id, new_start_position: position } => {
                e.i64(16, recording_id).i64(24, position)
            }
            RequestBody::MigrateSegments { source_recording_id, target_recording_id } => {
                e.i64(16, source_recording_id).i64(24, target_recording_id)
            }
            RequestBody::Replicate(replicate) => encode_replicate(e, &replicate),
            RequestBody::UpdateChannel { recording_id, channel } => e.i64(16, recording_id).text(channel),
            RequestBody::StopRecordingSubscription { subscription_id: id }
            | RequestBody::StopReplay { replay_session_id: id }
            | RequestBody::StopReplication { replication_id: id }
            | RequestBody::StopRecordingByIdentity { recording_id: id }
            | RequestBody::StopAllReplays { recording_id: id }
            | RequestBody::ListRecording { recording_id: id }
            | RequestBody::RecordingPosition { recording_id: id }
            | RequestBody::StartPosition { recording_id: id }
            | RequestBody::StopPosition { recording_id: id }
            | RequestBody::MaxRecordedPosition { recording_id: id }
            | RequestBody::PurgeRecording { recording_id: id }
            | RequestBody::DeleteDetachedSegments { recording_id: id }
            | RequestBody::AttachSegments { recording_id: id }
            | RequestBody::ReplayToken { recording_id: id } => e.i64(16, id),
        }
    }
}

fn decode_connect<'a>(
    m: &mut Decoder<'a>,
    b: &Block<'a>,
    template_id: u16,
) -> Result<RequestBody<'a>, SbeError> {
    let response_channel = m.text("response channel", 0)?;
    let (credentials, client_info) = if template_id == 58 {
        (m.bytes("credentials", 0)?, m.text("client info", 12)?)
    } else {
        (&[][..], "")
    };
    Ok(RequestBody::Connect {
        response_stream_id: b.i32(8, 0),
        version: b.version(12, 2),
        response_channel,
        credentials,
        client_info,
    })
}

fn decode_replay<'a>(
    m: &mut Decoder<'a>,
    b: &Block<'a>,
    template_id: u16,
) -> Result<ReplayRequest<'a>, SbeError> {
    let is_bounded = template_id == 18;
    let shift = if is_bounded { 4 } else { 0 };
    Ok(ReplayRequest {
        recording_id: b.i64(16, 0),
        position: b.i64(24, 0),
        length: b.i64(32, 0),
        limit_counter_id: is_bounded.then(|| b.i32(40, 0)),
        stream_id: b.i32(40 + shift, 0),
        file_io_max_length: or_null(i64::from(b.i32(44 + shift, 7)), i64::from(NULL_I32)) as i32,
        replay_token: or_null(b.i64(48 + shift, 10), NULL_I64),
        channel: m.text("replay channel", 0)?,
    })
}

fn encode_replay<'b>(e: Encoder<'b>, replay: &ReplayRequest<'_>) -> Encoder<'b> {
    let e = e.i64(16, replay.recording_id).i64(24, replay.position).i64(32, replay.length);
    let (e, shift) = match replay.limit_counter_id {
        Some(id) => (e.i32(40, id), 4),
        None => (e, 0),
    };
    e.i32(40 + shift, replay.stream_id)
        .i32(44 + shift, replay.file_io_max_length)
        .i64(48 + shift, replay.replay_token)
        .text(replay.channel)
}

fn decode_replicate<'a>(
    m: &mut Decoder<'a>,
    b: &Block<'a>,
    template_id: u16,
) -> Result<ReplicateRequest<'a>, SbeError> {
    let mut request = ReplicateRequest {
        source_recording_id: b.i64(16, 0),
        target_recording_id: b.i64(24, 0),
        stop_position: -1,
        channel_tag_id: -1,
        subscription_tag_id: -1,
        source_control_stream_id: b.i32(32, 0),
        file_io_max_length: -1,
        replication_session_id: -1,
        source_control_channel: "",
        live_destination: "",
        replication_channel: "",
        credentials: &[],
        source_response_channel: "",
    };
    match template_id {
        62 => {
            (request.channel_tag_id, request.subscription_tag_id) = (b.i64(32, 0), b.i64(40, 0));
            request.source_control_stream_id = b.i32(48, 0);
        }
        66 => {
            request.stop_position = or_null(b.i64(32, 0), NULL_I64);
            (request.channel_tag_id, request.subscription_tag_id) =
                (or_null(b.i64(40, 0), NULL_I64), or_null(b.i64(48, 0), NULL_I64));
            request.source_control_stream_id = b.i32(56, 0);
            request.file_io_max_length = or_null(i64::from(b.i32(60, 7)), i64::from(NULL_I32)) as i32;
            request.replication_session_id = or_null(i64::from(b.i32(64, 8)), i64::from(NULL_I32)) as i32;
        }
        _ => {}
    }
    request.source_control_channel = m.text("source control channel", 0)?;
    request.live_destination = m.text("live destination", 0)?;
    if template_id == 66 {
        request.replication_channel = m.text("replication channel", 0)?;
        request.credentials = m.bytes("credentials", 8)?;
        request.source_response_channel = m.text("source response channel", 10)?;
    }
    Ok(request)
}

fn encode_replicate<'b>(e: Encoder<'b>, replicate: &ReplicateRequest<'_>) -> Encoder<'b> {
    e.i64(16, replicate.source_recording_id)
        .i64(24, replicate.target_recording_id)
        .i64(32, replicate.stop_position)
        .i64(40, replicate.channel_tag_id)
        .i64(48, replicate.subscription_tag_id)
        .i32(56, replicate.source_control_stream_id)
        .i32(60, replicate.file_io_max_length)
        .i32(64, replicate.replication_session_id)
        .text(replicate.source_control_channel)
        .text(replicate.live_destination)
        .text(replicate.replication_channel)
        .bytes(replicate.credentials)
        .text(replicate.source_response_channel)
}

/// Decodes requests that have only fixed fields.
fn decode_fixed<'a>(template_id: u16, b: &Block<'_>) -> Option<RequestBody<'a>> {
    let id = b.i64(16, 0);
    Some(match template_id {
        61 => RequestBody::KeepAlive,
        68 => RequestBody::ArchiveId,
        7 => RequestBody::StopReplay { replay_session_id: id },
        10 => RequestBody::ListRecording { recording_id: id },
        12 => RequestBody::RecordingPosition { recording_id: id },
        13 => RequestBody::TruncateRecording { recording_id: id, position: b.i64(24, 0) },
        14 => RequestBody::StopRecordingSubscription { subscription_id: id },
        15 => RequestBody::StopPosition { recording_id: id },
        19 => RequestBody::StopAllReplays { recording_id: id },
        51 => RequestBody::StopReplication { replication_id: id },
        52 => RequestBody::StartPosition { recording_id: id },
        53 => RequestBody::DetachSegments { recording_id: id, new_start_position: b.i64(24, 0) },
        54 => RequestBody::DeleteDetachedSegments { recording_id: id },
        55 => RequestBody::PurgeSegments { recording_id: id, new_start_position: b.i64(24, 0) },
        56 => RequestBody::AttachSegments { recording_id: id },
        57 => RequestBody::MigrateSegments { source_recording_id: id, target_recording_id: b.i64(24, 0) },
        65 => RequestBody::StopRecordingByIdentity { recording_id: id },
        67 => RequestBody::MaxRecordedPosition { recording_id: id },
        104 => RequestBody::PurgeRecording { recording_id: id },
        105 => RequestBody::ReplayToken { recording_id: id },
        _ => return None,
    })
}
