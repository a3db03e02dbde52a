//! Replays and work on segment files (spec 03 §3.8, §5.1).

use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::{Archive, REPLAY_SESSIONS};
use crate::channel;
use crate::checksum::Checksum;
use crate::codec::{ArchiveErrorCode, ReplayRequest, Signal};
use crate::descriptor::RecordingDescriptor;
use crate::replay::{LimitCounter, ReplayEvent, ReplaySession, ReplaySetup};
use crate::segment;
use crate::task::{Change, FileTask, Progress, Step, removal};

/// Requested length that replays everything and follows a live recording.
const REPLAY_ALL_AND_FOLLOW: i64 = -1;
/// Requested length that replays up to the current recorded position.
const REPLAY_ALL_AND_STOP: i64 = -2;

pub(super) type Refusal = (ArchiveErrorCode, String);

pub(super) fn refusal<V>(code: ArchiveErrorCode, message: impl Into<String>) -> Result<V, Refusal> {
    Err((code, message.into()))
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Starts a replay. `responds_to` is the image that a response channel answers.
    pub(super) fn on_replay(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        request: &ReplayRequest<'_>,
        responds_to: Option<i64>,
    ) {
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
            is_stamped_live: self.is_active(request.recording_id)
                && self.context.record_checksum == Some(Checksum::Crc32c),
            deadline_ns: self.now.ns + self.context.connect_timeout_ns,
            recording,
        };
        self.replays.push(ReplaySession::new(setup));
        self.add_to(REPLAY_SESSIONS, 1);
        Ok(())
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
        let Some(aeron) = &mut self.aeron else { return 0 };
        let mut work_count = 0;
        for replay in &mut self.replays {
            let mut event = None;
            work_count += replay.do_work(&mut self.io, aeron, self.now.ns, &mut event);
            let (session_id, correlation_id) = (replay.setup.control_session_id, replay.setup.correlation_id);
            let session = self.sessions.iter_mut().find(|session| session.id == session_id);
            match (event, session) {
                (Some(ReplayEvent::Started(replay_id)), Some(session)) => {
                    session.send_ok(correlation_id, replay_id);
                }
                (Some(ReplayEvent::Failed(code, message)), session) => {
                    self.mark.errors.record(self.now.epoch_ms, &message);
                    if let Some(session) = session {
                        session.send_error(correlation_id, code, &message);
                    }
                }
                _ => {}
            }
        }
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

    /// Refuses changes to the files of a recording that is recorded, replayed or worked on.
    pub(super) fn check_idle(&self, recording_id: i64) -> Result<RecordingDescriptor, Refusal> {
        let Some(recording) = self.catalog.get(recording_id) else {
            return refusal(
                ArchiveErrorCode::UnknownRecording,
                format!("unknown recording id: {recording_id}"),
            );
        };
        if self.replays.iter().any(|replay| replay.setup.recording.recording_id == recording_id) {
            return refusal(
                ArchiveErrorCode::ActiveRecording,
                format!("recording {recording_id} has an active replay"),
            );
        }
        if self.is_active(recording_id) || recording.is_active() {
            return refusal(ArchiveErrorCode::ActiveRecording, format!("recording {recording_id} is active"));
        }
        if self.tasks.iter().any(|task| task.concerns(recording_id)) {
            return refusal(
                ArchiveErrorCode::Generic,
                format!("another delete operation in progress for recording {recording_id}"),
            );
        }
        Ok(recording.clone())
    }

    pub(super) fn truncate(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        recording_id: i64,
        position: i64,
    ) -> Result<(), Refusal> {
        let recording = self.check_idle(recording_id)?;
        let (start, stop) = (recording.start_position, recording.stop_position);
        if position < start || position > stop || position % 32 != 0 {
            return refusal(
                ArchiveErrorCode::InvalidPosition,
                format!("invalid position {position}: start={start} stop={stop} alignment=32"),
            );
        }
        let directory = self.context.archive_directory.clone();
        let segment_length = i64::from(recording.segment_file_length);
        let mut steps = Vec::new();
        let base = recording.segment_base(position);
        let mut next = base;
        if position > start && position != base {
            let path = segment::path(&directory, recording_id, base);
            let offset = (position - base) as u64;
            if position != stop {
                let recording = Box::new(recording.clone());
                steps.push(Step::CheckFrame { path: path.clone(), offset, recording, position });
                steps.push(Step::Cut { path, offset, length: segment_length as u64 });
            }
            next = base + segment_length;
        }
        while next <= recording.segment_base(stop) {
            steps.extend(removal(&directory, recording_id, next));
            next += segment_length;
        }
        let mut task = FileTask::new(recording_id, session_id, correlation_id, steps);
        task.changes.push(Change::Stop { recording_id, position });
        self.begin_task(task);
        Ok(())
    }

    pub(super) fn purge(
        &mut self,
        session_id: i64,
        correlation_id: i64,
        recording_id: i64,
    ) -> Result<(), Refusal> {
        let recording = self.check_idle(recording_id)?;
        let write = self.catalog.delete(recording_id);
        let ticket = self.write_catalog(write.into_iter().collect());
        self.background.push(ticket);
        let directory = self.context.archive_directory.clone();
        let mut steps = Vec::new();
        let mut base = recording.segment_base(recording.start_position);
        while base <= recording.segment_base(recording.stop_position) {
            steps.extend(removal(&directory, recording_id, base));
            base += i64::from(recording.segment_file_length);
        }
        self.begin_task(FileTask::new(recording_id, session_id, correlation_id, steps));
        Ok(())
    }

    /// Starts a task. A task without checks is accepted immediately.
    pub(super) fn begin_task(&mut self, mut task: FileTask) {
        if !task.has_check() {
            self.on_task_checked(&mut task);
        }
        self.tasks.push(task);
    }

    /// Applies the task's catalog changes and answers the client once all checks have passed.
    fn on_task_checked(&mut self, task: &mut FileTask) {
        for change in std::mem::take(&mut task.changes) {
            self.apply(change);
        }
        let (correlation_id, count) = (task.correlation_id, task.file_count);
        if let Some(session) = self.session(task.control_session_id) {
            session.send_ok(correlation_id, count);
        }
    }

    /// Changes the start or stop position of a recording in the catalog.
    pub(super) fn apply(&mut self, change: Change) {
        let write = match change {
            Change::Start { recording_id, position } => {
                self.catalog.update(recording_id, |entry| entry.start_position = position)
            }
            Change::Stop { recording_id, position } => {
                self.catalog.update(recording_id, |entry| entry.stop_position = position)
            }
        };
        let ticket = self.write_catalog(write.into_iter().collect());
        self.background.push(ticket);
    }

    pub(super) fn serve_tasks(&mut self) -> usize {
        let mut work_count = 0;
        for mut ticket in std::mem::take(&mut self.background) {
            if !self.is_written(&mut ticket) {
                self.background.push(ticket);
            }
        }
        for mut task in std::mem::take(&mut self.tasks) {
            match task.do_work(&mut self.io) {
                Progress::Waiting => self.tasks.push(task),
                Progress::Checked => {
                    self.on_task_checked(&mut task);
                    self.tasks.push(task);
                    work_count += 1;
                }
                Progress::Refused(message) => {
                    let code = ArchiveErrorCode::Generic;
                    self.refuse(task.control_session_id, task.correlation_id, code, &message);
                    work_count += 1;
                }
                Progress::Done(failures) => {
                    for failure in failures {
                        let code = ArchiveErrorCode::Generic;
                        self.refuse(task.control_session_id, task.correlation_id, code, &failure);
                    }
                    if task.has_signal
                        && let Some(session) = self.session(task.control_session_id)
                    {
                        session.send_signal(task.correlation_id, task.recording_id, -1, -1, Signal::Delete);
                    }
                    work_count += 1;
                }
            }
        }
        work_count
    }
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
            format!("requested replay start position={position} must be less than the limit position={stop}"),
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
