//! Taking a snapshot of the service (spec 04 §4.9).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use harrier_ringbuf::Memory;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::shared_thread::ProcessDeath;

use super::ClusteredService;
use super::container::ServiceContainer;
use super::core::Core;
use super::error::ContainerError;
use super::start::failed;
use crate::codec::{SnapshotMark, SnapshotMarker, SnapshotMessage, TimeUnit, snapshot_type};
use crate::snapshot::{SnapshotError, SnapshotTaker};

/// Next section of the container's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Begin,
    /// Sessions with this id or a higher one.
    Sessions {
        from: i64,
    },
    End,
    Service,
    Complete,
}

/// A snapshot in progress.
pub(super) struct Snapshot {
    taker: SnapshotTaker,
    section: Section,
    begun_ns: i64,
    /// Log position of the action; the ack repeats it.
    log_position: i64,
}

/// State of taking a snapshot.
pub(super) enum Snapshotting {
    Idle,
    Taking(Box<Snapshot>),
    Ack { log_position: i64, recording_id: i64, failure: Option<Box<ContainerError>> },
}

impl<T: ClusteredService, M: Memory> ServiceContainer<T, M> {
    pub(super) fn is_snapshotting(&self) -> bool {
        !matches!(self.snapshotting, Snapshotting::Idle)
    }

    /// Begins a snapshot at the current log position.
    pub(super) fn begin_snapshot(&mut self) {
        let Some(core) = &self.core else { return };
        let snapshot = Snapshot {
            taker: SnapshotTaker::new(
                &self.context.snapshot_channel,
                self.context.snapshot_stream_id,
                self.context.archive.message_timeout_ns,
            ),
            section: Section::Begin,
            begun_ns: self.now.ns,
            log_position: core.log_position,
        };
        self.snapshots_taken += 1;
        self.connect_archive();
        self.snapshotting = Snapshotting::Taking(Box::new(snapshot));
    }

    /// Advances the snapshot. The log is not read meanwhile.
    pub(super) fn go_on_snapshotting(&mut self) -> Result<usize, ContainerError> {
        let snapshotting = std::mem::replace(&mut self.snapshotting, Snapshotting::Idle);
        match snapshotting {
            Snapshotting::Idle => Ok(0),
            Snapshotting::Taking(mut snapshot) => {
                let log_position = snapshot.log_position;
                let outcome = self.take(&mut snapshot);
                let (recording_id, failure) = match outcome {
                    Ok((None, work_count)) => {
                        self.snapshotting = Snapshotting::Taking(snapshot);
                        return Ok(work_count + self.work_in_background());
                    }
                    Ok((Some(recording_id), _)) => (recording_id, None),
                    // Without the driver the ack cannot be sent.
                    Err(error @ ContainerError::Client(_)) => return Err(error),
                    Err(error) => (-1, Some(Box::new(error))),
                };
                self.end_snapshot(&snapshot);
                self.snapshotting = Snapshotting::Ack { log_position, recording_id, failure };
                Ok(1)
            }
            Snapshotting::Ack { log_position, recording_id, failure } => {
                self.keep_alive()?;
                let Some(core) = &mut self.core else { return Ok(0) };
                if !core.send_ack(log_position, recording_id) {
                    self.snapshotting = Snapshotting::Ack { log_position, recording_id, failure };
                    return Ok(0);
                }
                let Some(failure) = failure else { return Ok(1) };
                match *failure {
                    ContainerError::Snapshot(error) if error.is_storage_full() => Err(error.into()),
                    failure => {
                        self.failure = Some(failure);
                        Ok(1)
                    }
                }
            }
        }
    }

    fn end_snapshot(&mut self, snapshot: &Snapshot) {
        if let Some(counters) = &self.counters {
            counters.snapshot.measure(self.waiter.now().ns - snapshot.begun_ns);
        }
        if let Some(mut archive) = self.core.as_mut().and_then(|core| core.archive.take()) {
            archive.close();
        }
    }

    /// Advances the snapshot; returns the recording id once everything is recorded.
    fn take(&mut self, snapshot: &mut Snapshot) -> Result<(Option<i64>, usize), ContainerError> {
        let mut work_count = self.keep_alive()?;
        let Some(core) = &mut self.core else { return Ok((None, 0)) };
        let Some(archive) = core.archive.as_mut().filter(|archive| archive.is_connected()) else {
            return Ok((None, work_count));
        };
        while let Some(answer) = archive.poll_answer() {
            snapshot.taker.on_answer(&answer);
        }
        work_count += snapshot.taker.poll(&mut core.aeron, archive, &self.now)?;
        if !snapshot.taker.is_writable() {
            return Ok((snapshot.taker.recording_id(), work_count));
        }
        let app_version = self.context.app_version;
        if let Some(next) = write_section(core, snapshot, app_version)? {
            snapshot.section = next;
            work_count += 1;
        }
        if snapshot.section == Section::Service {
            self.write_service(snapshot)?;
            snapshot.section = Section::Complete;
            snapshot.taker.finish();
            work_count += 1;
        }
        Ok((None, work_count))
    }

    fn write_service(&mut self, snapshot: &mut Snapshot) -> Result<(), ContainerError> {
        let (Some(core), Some(publication)) = (&mut self.core, snapshot.taker.publication()) else {
            return Ok(());
        };
        let (service, waiter) = (&mut self.service, self.waiter.as_mut());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            core.call(waiter, None, |cluster| service.on_take_snapshot(cluster, publication))
        }));
        match outcome {
            Ok(outcome) => outcome.map_err(|failure| failed("on_take_snapshot", &failure)),
            Err(payload) => {
                if !payload.is::<ProcessDeath>() {
                    core.send_ack(snapshot.log_position, -1);
                }
                resume_unwind(payload)
            }
        }
    }
}

/// Writes as many messages of a section as the stream accepts. Returns the next section when this one is complete.
fn write_section(
    core: &Core,
    snapshot: &mut Snapshot,
    app_version: i32,
) -> Result<Option<Section>, SnapshotError> {
    let marker = |mark| {
        SnapshotMessage::Marker(SnapshotMarker {
            type_id: snapshot_type::SERVICE,
            log_position: snapshot.log_position,
            leadership_term_id: core.leadership_term_id,
            index: 0,
            mark,
            time_unit: core.time_unit.unwrap_or(TimeUnit::Millis),
            app_version,
        })
    };
    let (begin, end) = (marker(SnapshotMark::Begin), marker(SnapshotMark::End));
    let taker = &mut snapshot.taker;
    Ok(match snapshot.section {
        Section::Begin => taker.offer(&begin)?.then_some(Section::Sessions { from: i64::MIN }),
        Section::Sessions { from } => {
            for (id, egress) in core
                .sessions
                .range(from..)
                .filter(|(_, session)| session.is_open && !is_planted(Bug::SnapshotWithoutSessions))
            {
                let session = &egress.session;
                let is_written = taker.offer(&SnapshotMessage::ClientSession {
                    session_id: session.id,
                    response_stream_id: session.response_stream_id,
                    response_channel: &session.response_channel,
                    principal: &session.principal,
                })?;
                if !is_written {
                    return Ok((*id != from).then_some(Section::Sessions { from: *id }));
                }
            }
            Some(Section::End)
        }
        Section::End => taker.offer(&end)?.then_some(Section::Service),
        Section::Service | Section::Complete => None,
    })
}
