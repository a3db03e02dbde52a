//! Requests for replays, and the replays in progress (spec 03 §5.1).

use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::{Archive, ERRORS, REPLAY_SESSIONS};
use crate::channel;
use crate::checksum::Checksum;
use crate::codec::{ArchiveErrorCode, ReplayRequest, Request, RequestBody};
use crate::descriptor::RecordingDescriptor;
use crate::replay::{LimitCounter, ReplayEvent, ReplaySession, ReplaySetup};

/// Requested length that replays everything and follows a live recording.
const REPLAY_ALL_AND_FOLLOW: i64 = -1;
/// Requested length that replays up to the current recorded position.
const REPLAY_ALL_AND_STOP: i64 = -2;
/// Bytes of a replay request without its channel, at most.
const REPLAY_REQUEST_LENGTH: usize = 128;
/// Maximum number of replay requests that wait for a recording.
const MAX_WAITING: usize = 1_024;

/// A replay request for a recording whose position counter does not exist yet.
pub(super) struct WaitingReplay {
    control_session_id: i64,
    correlation_id: i64,
    /// The request, as a message of its own because it outlives the received one.
    request: Vec<u8>,
    responds_to: Option<i64>,
    recording_id: i64,
}

pub(super) type Refusal = (ArchiveErrorCode, String);

pub(super) fn refusal<V>(code: ArchiveErrorCode, message: impl Into<String>) -> Result<V, Refusal> {
    Err((code, message.into()))
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Starts a replay. `responds_to` is the image that a response channel answers. A recording that is being started is
    /// replayed once it has its position counter, which the replay follows.
    pub(super) fn on_replay(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        request: &ReplayRequest<'_>,
        responds_to: Option<i64>,
    ) {
        if self.is_starting(request.recording_id) && self.waiting_replays.len() < MAX_WAITING {
            self.waiting_replays.push(WaitingReplay {
                control_session_id: session_id,
                correlation_id,
                request: encoded(session_id, correlation_id, *request),
                responds_to,
                recording_id: request.recording_id,
            });
            return;
        }
        if let Err((code, message)) = self.start_replay(session_id, correlation_id, request, responds_to) {
            self.refuse(session_id, correlation_id, code, &message);
        }
    }

    fn start_replay(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        request: &ReplayRequest<'_>,
        responds_to: Option<i64>,
    ) -> Result<(), Refusal> {
        let bound = match request.limit_counter_id {
            Some(id) => Some(self.limit_counter(id)?),
            None => None,
        };
        if self.replays.len() >= self.context.max_concurrent_replays {
            let max = self.context.max_concurrent_replays;
            return refusal(ArchiveErrorCode::MaxReplays, format!("max concurrent replays reached {max}"));
        }
        let Some(recording) = self.catalog.get(request.recording_id).cloned() else {
            return refusal(
                ArchiveErrorCode::UnknownRecording,
                format!("unknown recording id: {}", request.recording_id),
            );
        };
        let position = check_position(request, &recording)?;
        let io_max_length = match usize::try_from(request.file_io_max_length) {
            Ok(length) if length > 0 => length.min(self.context.file_io_max_length),
            _ => self.context.file_io_max_length,
        };
        if io_max_length < recording.mtu_length as usize {
            return refusal(
                ArchiveErrorCode::Generic,
                format!("fileIoMaxLength={io_max_length} < mtuLength={}", recording.mtu_length),
            );
        }
        let limit = match (bound, self.active_counter(request.recording_id)) {
            (Some(bound), _) => Some(bound),
            (None, Some(id)) => Some(self.limit_counter(id)?),
            (None, None) => None,
        };
        let stop_position = match limit {
            Some(limit) => self.aeron().counters().value(limit.id),
            None => recording.stop_position,
        };
        if limit.is_some() && position > stop_position {
            return refusal(
                ArchiveErrorCode::InvalidPosition,
                format!("replay position={position} beyond the limit counter={stop_position}"),
            );
        }
        let length = replay_length(request.length, position, stop_position, limit.is_some())?;
        let publication_id = self.add_replay_publication(request, &recording, position, responds_to)?;
        let sequence = self.next_replay;
        self.next_replay += 1;
        let replay_limit = position.saturating_add(length);
        let setup = ReplaySetup {
            control_session_id: session_id,
            correlation_id,
            sequence,
            position,
            stop_position: stop_position.min(replay_limit),
            replay_limit,
            limit_counter: limit,
            stream_id: request.stream_id,
            publication_id,
            directory: self.context.archive_directory.clone(),
            io_max_length,
            checksum: self.context.replay_checksum,
            connect_timeout_ns: self.context.connect_timeout_ns,
            is_stamped_live: self.is_active(request.recording_id)
                && self.context.record_checksum == Some(Checksum::Crc32c),
            deadline_ns: self.now.ns + self.context.connect_timeout_ns,
            is_live: self.is_active(request.recording_id),
            recording,
        };
        self.replays.push(ReplaySession::new(setup));
        self.add_to(REPLAY_SESSIONS, 1);
        Ok(())
    }

    /// Starts the replays that waited for the position counter of their recording.
    fn start_waiting_replays(&mut self) -> usize {
        if self.waiting_replays.is_empty() {
            return 0;
        }
        let before = self.waiting_replays.len();
        for waiting in std::mem::take(&mut self.waiting_replays) {
            if self.is_starting(waiting.recording_id) {
                self.waiting_replays.push(waiting);
            } else if let Ok(Some(Request { body: RequestBody::Replay(replay), .. })) =
                Request::decode(&waiting.request)
            {
                let (session_id, correlation_id) = (waiting.control_session_id, waiting.correlation_id);
                self.on_replay(session_id, correlation_id, &replay, waiting.responds_to);
            }
        }
        before - self.waiting_replays.len()
    }

    fn limit_counter(&mut self, id: i32) -> Result<LimitCounter, Refusal> {
        let counters = self.aeron().counters();
        if !counters.is_allocated(id) {
            return refusal(ArchiveErrorCode::Generic, format!("limit counter {id} is not allocated"));
        }
        Ok(LimitCounter { id, registration_id: counters.registration_id(id) })
    }

    fn add_replay_publication(
        &mut self,
        request: &ReplayRequest<'_>,
        recording: &RecordingDescriptor,
        position: i64,
        responds_to: Option<i64>,
    ) -> Result<i64, Refusal> {
        let uri = match channel::parse(request.channel) {
            Ok(uri) => uri,
            Err(error) => return refusal(ArchiveErrorCode::Generic, error.to_string()),
        };
        let mut replay: ChannelUri = channel::strip(&uri);
        replay.set_initial_position(position, recording.initial_term_id, recording.term_buffer_length);
        replay.put(key::MTU, recording.mtu_length);
        if let Some(id) = responds_to {
            replay.put(key::RESPONSE_CORRELATION_ID, id);
        }
        for key in [key::EOS, key::SPARSE] {
            if let Some(value) = uri.get(key) {
                replay.put(key, value);
            }
        }
        let linger_ns = match uri.linger_ns() {
            Ok(linger_ns) => linger_ns.unwrap_or(self.context.replay_linger_timeout_ns),
            Err(error) => return refusal(ArchiveErrorCode::Generic, error.to_string()),
        };
        replay.put(key::LINGER, linger_ns);
        self.aeron()
            .add_exclusive_publication(&replay.to_string(), request.stream_id)
            .map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))
    }

    pub(super) fn serve_replays(&mut self) -> usize {
        let mut work_count = self.start_waiting_replays();
        let Some(aeron) = &mut self.aeron else { return work_count };
        let mut faults = 0;
        for replay in &mut self.replays {
            let mut event = None;
            work_count += replay.do_work(&mut self.io, aeron, self.now.ns, &mut event);
            let (session_id, correlation_id) = (replay.setup.control_session_id, replay.setup.correlation_id);
            let session = self.sessions.iter_mut().find(|session| session.id == session_id);
            match (event, session) {
                (Some(ReplayEvent::Started(replay_id)), Some(session)) => {
                    session.send_ok(correlation_id, replay_id);
                }
                (Some(ReplayEvent::Failed { code, message, is_fault }), session) => {
                    if is_fault {
                        self.mark.errors.record(self.now.epoch_ms, &message);
                        faults += 1;
                    }
                    if let Some(session) = session {
                        session.send_error(correlation_id, code, &message);
                    }
                }
                _ => {}
            }
        }
        self.add_to(ERRORS, faults);
        let before = self.replays.len();
        self.replays.retain(|replay| !replay.has_ended());
        let ended = before - self.replays.len();
        if ended > 0 {
            self.add_to(REPLAY_SESSIONS, -(ended as i64));
        }
        work_count + ended
    }

    pub(super) fn stop_replays(&mut self, matches: impl Fn(&ReplaySession) -> bool) {
        for replay in &mut self.replays {
            if matches(replay) {
                replay.abort();
            }
        }
    }
}

/// Encodes a replay request.
fn encoded(control_session_id: i64, correlation_id: i64, request: ReplayRequest<'_>) -> Vec<u8> {
    let mut bytes = vec![0; REPLAY_REQUEST_LENGTH + request.channel.len()];
    let request = Request { control_session_id, correlation_id, body: RequestBody::Replay(request) };
    let length =
        request.encode(&mut bytes).expect("the buffer has room for the fixed fields and the channel");
    bytes.truncate(length);
    bytes
}

fn check_position(request: &ReplayRequest<'_>, recording: &RecordingDescriptor) -> Result<i64, Refusal> {
    let position = if request.position == -1 { recording.start_position } else { request.position };
    if position % 32 != 0 {
        return refusal(ArchiveErrorCode::Generic, format!("position={position} is not a multiple of 32"));
    }
    let (start, stop) = (recording.start_position, recording.stop_position);
    if position < start {
        return refusal(
            ArchiveErrorCode::InvalidPosition,
            format!(
                "requested replay start position={position} is less than recording start position={start}"
            ),
        );
    }
    if stop != -1 && position >= stop && request.length != REPLAY_ALL_AND_STOP {
        return refusal(
            ArchiveErrorCode::InvalidPosition,
            format!(
                "requested replay start position={position} must be less than the limit position={stop} for \
                 recording {}",
                recording.recording_id
            ),
        );
    }
    Ok(position)
}

/// Number of bytes to replay.
fn replay_length(requested: i64, position: i64, stop: i64, is_followed: bool) -> Result<i64, Refusal> {
    let max = if is_followed { i64::MAX - position } else { stop - position };
    let length = match requested {
        REPLAY_ALL_AND_FOLLOW => max,
        REPLAY_ALL_AND_STOP if stop <= position => {
            return refusal(ArchiveErrorCode::EmptyRecording, "nothing is recorded beyond the position");
        }
        REPLAY_ALL_AND_STOP => stop - position,
        length => length.min(max),
    };
    if length < 0 {
        return refusal(ArchiveErrorCode::Generic, format!("replay length={requested} must be positive"));
    }
    Ok(length)
}
