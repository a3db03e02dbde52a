//! Start of a member: archive, recovery plan, snapshot, services (spec 04 §4.12, §6.2).

use harrier_archive::client::ArchiveAnswer;
use harrier_client::Counter;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::core::Core;
use super::counters::{recovery_key, recovery_label, type_id};
use super::electing::Electing;
use super::error::ModuleError;
use super::requests::Kind;
use super::role::{Role, Step};
use super::state::Term;
use crate::codec::{SnapshotMarker, snapshot_type};
use crate::recording_log::{LogExtent, RecoveryPlan};
use crate::snapshot::{SnapshotError, SnapshotExpectation, SnapshotLoader};

/// Fragments of a snapshot that are read in one duty cycle.
const SNAPSHOT_FRAGMENT_LIMIT: usize = 50;

/// A plan that the services have been told of. Its counter tells them where to begin, until all of them have started.
pub(super) struct Recovery {
    plan: RecoveryPlan,
    _counter: Counter,
}

/// Progress of the start.
pub(super) enum Starting {
    ConnectArchive,
    AwaitDescriptor { correlation_id: i64, recording_id: i64 },
    AwaitStop { correlation_id: i64 },
    FetchStandby { extent: Option<LogExtent> },
    AwaitRecoveryCounter { id: i64, plan: RecoveryPlan },
    LoadSnapshot { loader: Box<SnapshotLoader>, recovery: Recovery },
    AwaitServices { recovery: Recovery, deadline_ns: i64 },
}

impl Starting {
    /// Takes one step.
    pub(super) fn step<M: Memory, S: Storage>(self, core: &mut Core<M, S>) -> Step {
        let (next, is_step) = match self {
            Self::ConnectArchive => connect_archive(core)?,
            Self::AwaitDescriptor { correlation_id, recording_id } => {
                await_descriptor(core, correlation_id, recording_id)?
            }
            Self::AwaitStop { correlation_id } => await_stop(core, correlation_id),
            Self::FetchStandby { extent } => fetch_standby_snapshots(core, extent)?,
            Self::AwaitRecoveryCounter { id, plan } => await_recovery_counter(core, id, plan)?,
            Self::LoadSnapshot { loader, recovery } => load_snapshot(core, loader, recovery)?,
            Self::AwaitServices { recovery, deadline_ns } => {
                return await_services(core, recovery, deadline_ns);
            }
        };
        Ok((Role::Starting(next), is_step))
    }

    /// Hands over an answer of the archive; returns true when the snapshot that is loaded waits for it.
    pub(super) fn on_answer(&mut self, answer: &ArchiveAnswer) -> bool {
        match self {
            Self::LoadSnapshot { loader, .. } => loader.on_answer(answer),
            _ => false,
        }
    }
}

/// Progress after a step, and whether the step has changed anything.
type Progress = Result<(Starting, bool), ModuleError>;

fn connect_archive<M: Memory, S: Storage>(core: &mut Core<M, S>) -> Progress {
    if !core.archive.is_connected() {
        return Ok((Starting::ConnectArchive, false));
    }
    let Some(recording_id) = core.recording_log.last_term().map(|term| term.recording_id) else {
        return Ok((Starting::FetchStandby { extent: None }, true));
    };
    let outcome = core.archive.list_recording(&core.aeron, recording_id);
    Ok(match core.begin_archive_request(Kind::Answer, outcome)? {
        Some(correlation_id) => (Starting::AwaitDescriptor { correlation_id, recording_id }, true),
        None => (Starting::ConnectArchive, false),
    })
}

fn await_descriptor<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    correlation_id: i64,
    recording_id: i64,
) -> Progress {
    let Some(answer) = core.requests.take_answer(correlation_id) else {
        return Ok((Starting::AwaitDescriptor { correlation_id, recording_id }, false));
    };
    let extent = extent_in(answer, recording_id)?;
    if extent.stop_position == -1 {
        return stop_recording(core, recording_id);
    }
    core.begin_standby_fetch(extent.stop_position);
    Ok((Starting::FetchStandby { extent: Some(extent) }, true))
}

/// An archive that outlived the last run of its member may still record the log.
fn stop_recording<M: Memory, S: Storage>(core: &mut Core<M, S>, recording_id: i64) -> Progress {
    let outcome = core.archive.stop_recording_by_identity(&core.aeron, recording_id);
    Ok(match core.begin_archive_request(Kind::Answer, outcome)? {
        Some(correlation_id) => (Starting::AwaitStop { correlation_id }, true),
        None => (Starting::ConnectArchive, false),
    })
}

/// Ignores what the archive answers: the next look at the recording shows whether it has stopped.
fn await_stop<M: Memory, S: Storage>(core: &mut Core<M, S>, correlation_id: i64) -> (Starting, bool) {
    match core.requests.take_answer(correlation_id) {
        Some(_) => (Starting::ConnectArchive, true),
        None => (Starting::AwaitStop { correlation_id }, false),
    }
}

/// Fetches snapshots of standbys that are newer than the member's own. The start goes on even if that fails (spec 04
/// §4.12, 2).
fn fetch_standby_snapshots<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    extent: Option<LogExtent>,
) -> Progress {
    if core.advance_standby_fetch()? || !core.files.poll()? {
        return Ok((Starting::FetchStandby { extent }, false));
    }
    begin_recovery(core, extent)
}

/// Tells the services where to begin (spec 04 §2.4, counter 204).
fn begin_recovery<M: Memory, S: Storage>(core: &mut Core<M, S>, extent: Option<LogExtent>) -> Progress {
    let plan = RecoveryPlan::of(core.recording_log.entries(), core.context.service_count, extent)?;
    let start = plan.start_position();
    if let Some(log) = &plan.log {
        let extent = &log.extent;
        if !(extent.start_position..=extent.stop_position).contains(&start) {
            return Err(ModuleError::LogTooShort {
                start: extent.start_position,
                stop: extent.stop_position,
                snapshot: start,
            });
        }
    }
    if plan.log.is_none() && start > 0 {
        return Err(ModuleError::LogTooShort { start: 0, stop: 0, snapshot: start });
    }
    core.append_position = plan.appended_log_position;
    let cluster_id = core.context.cluster_id;
    let key = recovery_key(&plan.snapshots, cluster_id);
    let label = recovery_label(&plan.snapshots, cluster_id);
    let id = core.aeron.add_counter(type_id::RECOVERY_STATE, &key, &label)?;
    core.begin_request(Kind::Counter, id);
    Ok((Starting::AwaitRecoveryCounter { id, plan }, true))
}

/// The services load their snapshots, and the module loads its own meanwhile.
fn await_recovery_counter<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    id: i64,
    plan: RecoveryPlan,
) -> Progress {
    let Some(counter) = core.aeron.counter(id)? else {
        return Ok((Starting::AwaitRecoveryCounter { id, plan }, false));
    };
    core.requests.end(id);
    let recovery = Recovery { plan, _counter: counter };
    let Some(entry) = recovery.plan.snapshots.first() else {
        return Ok((await_services_of(core, recovery), true));
    };
    let expectation = SnapshotExpectation {
        type_id: snapshot_type::MODULE,
        app_version: core.context.app_version,
        time_unit: Some(core.clock.unit()),
    };
    let (channel, stream_id) = (&core.context.replay_channel, core.context.replay_stream_id);
    let timeout_ns = core.context.startup_timeout_ns;
    let loader = SnapshotLoader::new(entry.recording_id, channel, stream_id, expectation, timeout_ns);
    Ok((Starting::LoadSnapshot { loader: Box::new(loader), recovery }, true))
}

fn load_snapshot<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    mut loader: Box<SnapshotLoader>,
    recovery: Recovery,
) -> Progress {
    let mut work_count = loader.poll(&mut core.aeron, &mut core.archive, &core.now)?;
    if loader.is_readable() {
        let state = &mut core.state;
        work_count += loader.read(SNAPSHOT_FRAGMENT_LIMIT, &mut |message| state.restore(message))?;
    }
    if !loader.is_complete() {
        return Ok((Starting::LoadSnapshot { loader, recovery }, work_count > 0));
    }
    let marker = loader.marker().copied();
    loader.close(&core.aeron, &mut core.archive);
    end_loading(core, &recovery.plan, marker)?;
    Ok((await_services_of(core, recovery), true))
}

/// Checks the restored state, and publishes the position at which the log continues.
fn end_loading<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    plan: &RecoveryPlan,
    marker: Option<SnapshotMarker>,
) -> Result<(), ModuleError> {
    let Some(entry) = plan.snapshots.first() else { return Ok(()) };
    let start = plan.start_position();
    let term = Term { id: entry.leadership_term_id, base: entry.term_base_log_position };
    core.state.end_restore(start, term, entry.timestamp)?;
    if let Some(marker) = marker
        && !is_at(marker.log_position, start)
    {
        let text = format!("it was taken at {}, not at {start} as recording.log says", marker.log_position);
        return Err(SnapshotError::State(text).into());
    }
    core.commit(start);
    core.counters.leadership_term_id.set_ordered(term.id);
    Ok(())
}

/// Returns true when a snapshot with this marker may be at a position of recording.log. Seeding a recording log moves its
/// snapshot to position 0, where the log begins anew; the marker keeps the position in the old log (spec 04 §6.6).
fn is_at(marker_position: i64, recording_log_position: i64) -> bool {
    marker_position == recording_log_position || recording_log_position == 0
}

fn await_services_of<M: Memory, S: Storage>(core: &Core<M, S>, recovery: Recovery) -> Starting {
    Starting::AwaitServices { recovery, deadline_ns: core.now.ns + core.context.startup_timeout_ns }
}

/// Awaits the first ack of each service. It names the service's client, whose end is the end of the service (spec 04
/// §4.11).
fn await_services<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    recovery: Recovery,
    deadline_ns: i64,
) -> Step {
    let Some(acks) = core.take_acks(recovery.plan.start_position(), Purpose::Start)? else {
        if core.now.ns > deadline_ns {
            return Err(core.missing_service("has not started; is it running?"));
        }
        return Ok((Role::Starting(Starting::AwaitServices { recovery, deadline_ns }), false));
    };
    if let Some(service_id) = acks.iter().position(|ack| ack.relevant_id == -1) {
        return Err(ModuleError::Service { service_id, reason: "failed to start; see its error log".into() });
    }
    let counters = core.aeron.counters();
    for (client, ack) in core.service_clients.iter_mut().zip(&acks) {
        client.on_started(ack.relevant_id, counters);
    }
    Ok((Role::Electing(Electing::new(&recovery.plan)), true))
}

/// Returns the extent of the log's recording from the archive's answer.
pub(super) fn extent_in(answer: ArchiveAnswer, recording_id: i64) -> Result<LogExtent, ModuleError> {
    match answer {
        ArchiveAnswer::Descriptor { descriptor, .. } => Ok(LogExtent::from(&*descriptor)),
        ArchiveAnswer::Error { code, message, .. } => {
            Err(ModuleError::ArchiveRefused { request: "list the log's recording", code, message })
        }
        _ => Err(ModuleError::LogRecordingUnknown(recording_id)),
    }
}
