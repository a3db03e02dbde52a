//! The consensus module's side of a snapshot (spec 04 §4.9).

use harrier_archive::client::ArchiveAnswer;
use harrier_ringbuf::Memory;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::agent::{ConsensusModule, ModuleState};
use super::counters::toggle;
use super::error::ModuleError;
use super::pending_messages::Tracker;
use super::session::SessionState;
use super::timers::TimerKey;
use crate::codec::{SessionHeader, SnapshotMark, SnapshotMarker, SnapshotMessage, snapshot_type};
use crate::recording_log::SnapshotPosition;
use crate::snapshot::{SnapshotError, SnapshotTaker};

/// Messages of a snapshot that are written in one duty cycle.
const WRITE_LIMIT: usize = 64;
/// Longest that a step of the recording may take, ns.
const RECORDING_TIMEOUT_NS: i64 = 10_000_000_000;
/// Timestamp of service messages that are not in the log (spec 04 §4.6).
const NOT_APPENDED: i64 = i64::MAX;

/// A snapshot on its way.
pub(super) struct ModuleSnapshot {
    position: SnapshotPosition,
    started_ns: i64,
    stage: Stage,
    recordings: Vec<i64>,
    taker: Option<SnapshotTaker>,
}

enum Stage {
    /// The services take theirs.
    AwaitServices { deadline_ns: i64 },
    /// The module writes its own.
    Write { next: Part },
    /// recording.log is written.
    AwaitFiles,
}

/// What of the state is written next.
#[derive(Debug, Clone, Copy)]
enum Part {
    Begin,
    Module,
    /// The session behind this id.
    Session(i64),
    Timer(Option<TimerKey>),
    Tracker(usize),
    Message(usize, usize),
    End,
    Written,
}

impl ModuleSnapshot {
    /// Hands over an answer of the archive; true when it was for this.
    pub(super) fn on_answer(&mut self, answer: &ArchiveAnswer) -> bool {
        self.taker.as_mut().is_some_and(|taker| taker.on_answer(answer))
    }
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// The log says that a snapshot is taken at a position: nothing is read or appended behind it until it is done.
    pub(super) fn begin_snapshot(&mut self, log_position: i64) {
        let (leadership_term_id, term_base_log_position) = self.log_term;
        let position =
            SnapshotPosition { leadership_term_id, term_base_log_position, log_position, timestamp: -1 };
        let deadline_ns = self.now.ns.saturating_add(self.context.service_ack_timeout_ns);
        self.snapshot = Some(Box::new(ModuleSnapshot {
            position,
            started_ns: self.now.ns,
            stage: Stage::AwaitServices { deadline_ns },
            recordings: Vec::new(),
            taker: None,
        }));
        self.enter(ModuleState::Snapshot);
    }

    /// One step of the snapshot.
    pub(super) fn go_on_with_snapshot(&mut self) -> Result<usize, ModuleError> {
        let Some(mut own) = self.snapshot.take() else {
            // It is done, and the member ends behind it once the services can be told.
            let position = self.termination_position;
            return Ok(position.map_or(0, |position| usize::from(self.terminate(position))));
        };
        match own.stage {
            Stage::AwaitServices { deadline_ns } => {
                let Some(acks) = self.take_acks(own.position.log_position, Purpose::Snapshot)? else {
                    if self.now.ns > deadline_ns {
                        let text = format!(
                            "snapshot at {} is given up: services {:?} have not taken theirs in time",
                            own.position.log_position,
                            self.acks.missing()
                        );
                        self.end_snapshot(own.started_ns, Some(text));
                        return Ok(1);
                    }
                    self.snapshot = Some(own);
                    return Ok(0);
                };
                if let Some(service_id) = acks.iter().position(|ack| ack.relevant_id == -1) {
                    let position = own.position.log_position;
                    let text =
                        format!("snapshot at {position} failed in service {service_id}; see its errors");
                    self.end_snapshot(own.started_ns, Some(text));
                    return Ok(1);
                }
                self.correct_pending_messages();
                own.position.timestamp = acks.last().map_or_else(|| self.time(), |ack| ack.timestamp);
                own.recordings = acks.iter().map(|ack| ack.relevant_id).collect();
                let (channel, stream_id) = (&self.context.snapshot_channel, self.context.snapshot_stream_id);
                own.taker = Some(SnapshotTaker::new(channel, stream_id, RECORDING_TIMEOUT_NS));
                own.stage = Stage::Write { next: Part::Begin };
            }
            Stage::Write { .. } => return self.go_on_writing(own),
            Stage::AwaitFiles => {
                if !self.files_are_written()? {
                    self.snapshot = Some(own);
                    return Ok(0);
                }
                if let Some(counters) = &self.counters {
                    counters.snapshots.increment();
                }
                self.end_snapshot(own.started_ns, None);
                return Ok(1);
            }
        }
        self.snapshot = Some(own);
        Ok(1)
    }

    /// Writes on; a snapshot that cannot be written is given up, not the node, unless there is no space for anything.
    fn go_on_writing(&mut self, mut own: Box<ModuleSnapshot>) -> Result<usize, ModuleError> {
        match self.write_snapshot(&mut own) {
            Ok(work_count) => {
                self.snapshot = Some(own);
                Ok(work_count)
            }
            Err(error) if error.is_storage_full() => Err(ModuleError::StorageFull(error.to_string())),
            Err(error) => {
                let text = format!("snapshot at {} is given up: {error}", own.position.log_position);
                self.end_snapshot(own.started_ns, Some(text));
                Ok(1)
            }
        }
    }

    fn write_snapshot(&mut self, own: &mut ModuleSnapshot) -> Result<usize, SnapshotError> {
        let (Some(taker), Some(aeron)) = (&mut own.taker, &mut self.aeron) else { return Ok(0) };
        let mut work_count = taker.poll(aeron, &mut self.archive, &self.now)?;
        if let Some(recording_id) = taker.recording_id() {
            let operations = self.recording_log.append_snapshot(&own.position, &own.recordings, recording_id);
            self.write_files(operations);
            own.taker = None;
            own.stage = Stage::AwaitFiles;
            return Ok(1);
        }
        let Stage::Write { next } = &mut own.stage else { return Ok(work_count) };
        if !taker.is_writable() {
            return Ok(work_count);
        }
        for _ in 0..WRITE_LIMIT {
            let part = *next;
            let Some(following) = self.write_part(taker, &own.position, part)? else { break };
            *next = following;
            work_count += 1;
            if matches!(following, Part::Written) {
                taker.finish();
                break;
            }
        }
        Ok(work_count)
    }

    /// Writes one part; returns the next, or `None` when the stream takes nothing now.
    fn write_part(
        &self,
        taker: &mut SnapshotTaker,
        position: &SnapshotPosition,
        part: Part,
    ) -> Result<Option<Part>, SnapshotError> {
        let (message, next) = match part {
            Part::Begin => (self.marker(position, SnapshotMark::Begin), Part::Module),
            Part::Module => {
                let first = self.pending_messages.first().map(|messages| messages.tracker());
                let message = SnapshotMessage::ConsensusModule {
                    next_session_id: self.next_logged_session_id,
                    next_service_session_id: first.map(|tracker| tracker.next_session_id),
                    log_service_session_id: first.map(|tracker| tracker.log_session_id),
                    pending_message_capacity: 0,
                };
                (message, Part::Session(i64::MIN))
            }
            Part::Session(after) => {
                let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
                let Some((id, session)) = self.sessions.range(behind).next() else {
                    return Ok(Some(Part::Timer(None)));
                };
                let is_closing = session.state == SessionState::Closing;
                let message = SnapshotMessage::ClusterSession {
                    session_id: *id,
                    correlation_id: session.correlation_id,
                    opened_log_position: session.opened_log_position,
                    time_of_last_activity: -1,
                    close_reason: session.close_reason.filter(|_| is_closing),
                    response_stream_id: session.response_stream_id,
                    response_channel: &session.response_channel,
                };
                (message, Part::Session(*id))
            }
            Part::Timer(after) => {
                let next = self.timers.after(after).filter(|_| !is_planted(Bug::SnapshotWithoutTimers));
                let Some((key, correlation_id)) = next else {
                    return Ok(Some(Part::Tracker(0)));
                };
                (SnapshotMessage::Timer { correlation_id, deadline: key.0 }, Part::Timer(Some(key)))
            }
            Part::Tracker(service) => {
                let Some(messages) = self.pending_messages.get(service) else { return Ok(Some(Part::End)) };
                let Tracker { next_session_id, log_session_id } = messages.tracker();
                let message = SnapshotMessage::PendingMessageTracker {
                    next_service_session_id: next_session_id,
                    log_service_session_id: log_session_id,
                    pending_message_capacity: 0,
                    service_id: service as i32,
                };
                (message, Part::Message(service, 0))
            }
            Part::Message(service, index) => {
                let waiting = self.pending_messages.get(service).and_then(|messages| messages.waiting(index));
                let waiting = waiting.filter(|_| !is_planted(Bug::SnapshotWithoutQueue));
                let Some((session_id, payload)) = waiting else {
                    return Ok(Some(Part::Tracker(service + 1)));
                };
                let leadership_term_id = position.leadership_term_id;
                let header = SessionHeader { leadership_term_id, session_id, timestamp: NOT_APPENDED };
                (SnapshotMessage::Pending { header, payload }, Part::Message(service, index + 1))
            }
            Part::End => (self.marker(position, SnapshotMark::End), Part::Written),
            Part::Written => return Ok(None),
        };
        Ok(taker.offer(&message)?.then_some(next))
    }

    fn marker(&self, position: &SnapshotPosition, mark: SnapshotMark) -> SnapshotMessage<'static> {
        SnapshotMessage::Marker(SnapshotMarker {
            type_id: snapshot_type::MODULE,
            log_position: position.log_position,
            leadership_term_id: position.leadership_term_id,
            index: 0,
            mark,
            time_unit: self.clock.unit(),
            app_version: self.context.app_version,
        })
    }

    /// The snapshot is taken, or given up: the log goes on, or the member ends behind it.
    fn end_snapshot(&mut self, started_ns: i64, failure: Option<String>) {
        if let Some(text) = failure {
            self.record_error(&text);
        } else if let Some(counters) = &self.counters {
            counters.snapshot_duration.observe(self.now.ns - started_ns);
        }
        if self.termination_position.is_some() {
            return;
        }
        self.enter(ModuleState::Active);
        for session in self.sessions.values_mut() {
            session.last_activity_ns = self.now.ns;
        }
        if self.is_leading() {
            self.set_toggle(toggle::NEUTRAL);
        }
    }
}
