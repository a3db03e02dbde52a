//! The consensus module's part of a snapshot (spec 04 §4.9).

use harrier_archive::client::ArchiveAnswer;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::core::Core;
use super::error::ModuleError;
use super::state::{Part, Term};
use crate::codec::{SnapshotMark, SnapshotMarker, SnapshotMessage, snapshot_type};
use crate::recording_log::SnapshotPosition;
use crate::snapshot::{SnapshotError, SnapshotTaker};

/// Messages of a snapshot that are written in one duty cycle.
const WRITE_LIMIT: usize = 64;
/// Time limit of one step of the recording, ns.
const RECORDING_TIMEOUT_NS: i64 = 10_000_000_000;

/// A snapshot that is being taken.
pub(super) struct ModuleSnapshot {
    position: SnapshotPosition,
    started_ns: i64,
    stage: Stage,
}

enum Stage {
    /// The services take theirs.
    AwaitServices { deadline_ns: i64 },
    /// The module writes its own. `recordings` are those of the services.
    Write { taker: Box<SnapshotTaker>, next: Next, recordings: Vec<i64> },
    /// recording.log is being written.
    AwaitFiles,
}

/// Part of the snapshot that is written next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Begin,
    State(Part),
    End,
    Nothing,
}

/// Outcome of a step.
enum Outcome {
    Waits(Stage),
    Goes(Stage, usize),
    Taken,
    Failed(String),
}

impl ModuleSnapshot {
    /// Hands over an answer of the archive; returns true when this snapshot waits for it.
    pub(super) fn on_answer(&mut self, answer: &ArchiveAnswer) -> bool {
        match &mut self.stage {
            Stage::Write { taker, .. } => taker.on_answer(answer),
            Stage::AwaitServices { .. } | Stage::AwaitFiles => false,
        }
    }
}

impl<M: Memory, S: Storage> Core<M, S> {
    /// Begins the snapshot that the log asks for at a position, bytes. Nothing is read or appended until it has ended.
    pub(super) fn begin_snapshot(&mut self, log_position: i64) {
        let Term { id, base } = self.state.term();
        let position = SnapshotPosition {
            leadership_term_id: id,
            term_base_log_position: base,
            log_position,
            timestamp: -1,
        };
        let deadline_ns = self.now.ns.saturating_add(self.context.service_ack_timeout_ns);
        let stage = Stage::AwaitServices { deadline_ns };
        self.snapshot = Some(Box::new(ModuleSnapshot { position, started_ns: self.now.ns, stage }));
        self.show_state();
    }

    /// Takes one step of the running snapshot. Returns the work done, and true when the snapshot has ended.
    pub(super) fn advance_snapshot(&mut self) -> Result<(usize, bool), ModuleError> {
        let Some(mut own) = self.snapshot.take() else { return Ok((0, false)) };
        let (mut position, started_ns) = (own.position, own.started_ns);
        let outcome = match std::mem::replace(&mut own.stage, Stage::AwaitFiles) {
            Stage::AwaitServices { deadline_ns } => self.await_snapshots(&mut position, deadline_ns)?,
            Stage::Write { taker, next, recordings } => self.write_on(&position, taker, next, recordings)?,
            Stage::AwaitFiles if self.files.poll()? => Outcome::Taken,
            Stage::AwaitFiles => Outcome::Waits(Stage::AwaitFiles),
        };
        let (stage, work_count) = match outcome {
            Outcome::Waits(stage) => (stage, 0),
            Outcome::Goes(stage, work_count) => (stage, work_count),
            Outcome::Taken => {
                self.counters.snapshots.increment();
                self.counters.snapshot_duration.observe(self.now.ns - started_ns);
                return Ok((1, true));
            }
            Outcome::Failed(text) => {
                self.record_error(&text);
                return Ok((1, true));
            }
        };
        (own.position, own.stage) = (position, stage);
        self.snapshot = Some(own);
        Ok((work_count, false))
    }

    fn await_snapshots(
        &mut self,
        position: &mut SnapshotPosition,
        deadline_ns: i64,
    ) -> Result<Outcome, ModuleError> {
        let log_position = position.log_position;
        let Some(acks) = self.take_acks(log_position, Purpose::Snapshot)? else {
            if self.now.ns <= deadline_ns {
                return Ok(Outcome::Waits(Stage::AwaitServices { deadline_ns }));
            }
            let missing = self.acks.missing();
            return Ok(Outcome::Failed(format!(
                "snapshot at {log_position} is given up: services {missing:?} have not taken theirs in time"
            )));
        };
        if let Some(service_id) = acks.iter().position(|ack| ack.relevant_id == -1) {
            return Ok(Outcome::Failed(format!(
                "snapshot at {log_position} failed in service {service_id}; see its errors"
            )));
        }
        self.skip_logged_messages();
        position.timestamp = acks.last().map_or_else(|| self.time(), |ack| ack.timestamp);
        let recordings = acks.iter().map(|ack| ack.relevant_id).collect();
        let (channel, stream_id) = (&self.context.snapshot_channel, self.context.snapshot_stream_id);
        let taker = Box::new(SnapshotTaker::new(channel, stream_id, RECORDING_TIMEOUT_NS));
        Ok(Outcome::Goes(Stage::Write { taker, next: Next::Begin, recordings }, 1))
    }

    /// Writes on. A snapshot that cannot be written is given up; only a full disk ends the node.
    fn write_on(
        &mut self,
        position: &SnapshotPosition,
        mut taker: Box<SnapshotTaker>,
        mut next: Next,
        recordings: Vec<i64>,
    ) -> Result<Outcome, ModuleError> {
        let written = self.write_parts(position, &mut taker, &mut next);
        match written {
            Ok(_) if taker.recording_id().is_some() => {}
            Ok(work_count) => return Ok(Outcome::Goes(Stage::Write { taker, next, recordings }, work_count)),
            Err(error) if error.is_storage_full() => {
                return Err(ModuleError::StorageFull(error.to_string()));
            }
            Err(error) => {
                let text = format!("snapshot at {} is given up: {error}", position.log_position);
                return Ok(Outcome::Failed(text));
            }
        }
        if let Some(recording_id) = taker.recording_id() {
            let operations = self.recording_log.append_snapshot(position, &recordings, recording_id);
            self.files.submit(operations);
        }
        Ok(Outcome::Goes(Stage::AwaitFiles, 1))
    }

    fn write_parts(
        &mut self,
        position: &SnapshotPosition,
        taker: &mut SnapshotTaker,
        next: &mut Next,
    ) -> Result<usize, SnapshotError> {
        let mut work_count = taker.poll(&mut self.aeron, &mut self.archive, &self.now)?;
        if !taker.is_writable() {
            return Ok(work_count);
        }
        for _ in 0..WRITE_LIMIT {
            let Some(following) = self.write_part(taker, position, *next)? else { break };
            *next = following;
            work_count += 1;
            if matches!(following, Next::Nothing) {
                taker.finish();
                break;
            }
        }
        Ok(work_count)
    }

    /// Writes one part. Returns the next one, or `None` when the stream takes nothing now.
    fn write_part(
        &self,
        taker: &mut SnapshotTaker,
        position: &SnapshotPosition,
        part: Next,
    ) -> Result<Option<Next>, SnapshotError> {
        let (message, next) = match part {
            Next::Begin => (Some(self.marker(position, SnapshotMark::Begin)), Next::State(Part::Module)),
            Next::State(part) => {
                let (message, next) = self.state.part(part, position.leadership_term_id);
                (message, if matches!(next, Part::End) { Next::End } else { Next::State(next) })
            }
            Next::End => (Some(self.marker(position, SnapshotMark::End)), Next::Nothing),
            Next::Nothing => return Ok(None),
        };
        let is_written = message.map_or(Ok(true), |message| taker.offer(&message))?;
        Ok(is_written.then_some(next))
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
}
