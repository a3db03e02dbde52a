//! Where a member begins: archive, recovery plan, snapshot, services (spec 04 §4.12, §6.2).

use harrier_archive::RecordingDescriptor;
use harrier_archive::client::ArchiveAnswer;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::agent::ConsensusModule;
use super::counters::{recovery_key, recovery_label, type_id};
use super::error::ModuleError;
use super::log::LogShape;
use super::start::{Phase, Step, sent};
use crate::codec::snapshot_type;
use crate::recording_log::{LogExtent, RecoveryPlan};
use crate::snapshot::{SnapshotExpectation, SnapshotLoader};

/// Fragments of a snapshot that are read in one duty cycle.
const SNAPSHOT_FRAGMENT_LIMIT: usize = 50;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    pub(super) fn connect_archive(&mut self) -> Step {
        if !self.archive.is_connected() {
            return Ok((Phase::ConnectArchive, false));
        }
        let Some(recording_id) = self.recording_log.last_term().map(|term| term.recording_id) else {
            return Ok((Phase::FetchStandby { extent: None }, true));
        };
        let Some(aeron) = &self.aeron else { return Ok((Phase::ConnectArchive, false)) };
        Ok(match sent(self.archive.list_recording(aeron, recording_id))? {
            Some(correlation_id) => (Phase::AwaitDescriptor { correlation_id, recording_id }, true),
            None => (Phase::ConnectArchive, false),
        })
    }

    pub(super) fn await_descriptor(&mut self, correlation_id: i64, recording_id: i64) -> Step {
        match self.answer.take() {
            Some(ArchiveAnswer::Descriptor { correlation_id: own, descriptor }) if own == correlation_id => {
                if descriptor.stop_position == -1 {
                    return self.stop_recording(recording_id);
                }
                let extent = extent_of(&descriptor);
                self.begin_standby_fetch(extent.stop_position);
                Ok((Phase::FetchStandby { extent: Some(extent) }, true))
            }
            Some(ArchiveAnswer::RecordingUnknown { .. }) => {
                Err(ModuleError::LogRecordingUnknown(recording_id))
            }
            Some(ArchiveAnswer::Error { code, message, .. }) => {
                Err(ModuleError::ArchiveRefused { request: "list the log's recording", code, message })
            }
            _ => Ok((Phase::AwaitDescriptor { correlation_id, recording_id }, false)),
        }
    }

    /// An archive that outlived the last run of its member may not have noticed its end yet.
    fn stop_recording(&mut self, recording_id: i64) -> Step {
        let Some(aeron) = &self.aeron else { return Ok((Phase::ConnectArchive, false)) };
        Ok(match sent(self.archive.stop_recording_by_identity(aeron, recording_id))? {
            Some(correlation_id) => (Phase::AwaitStop { correlation_id }, true),
            None => (Phase::ConnectArchive, false),
        })
    }

    /// Whatever the archive says: the next look at the recording tells whether it has stopped.
    pub(super) fn await_stop(&mut self, correlation_id: i64) -> Step {
        match self.answer.take() {
            Some(answer) if answer.correlation_id() == correlation_id => Ok((Phase::ConnectArchive, true)),
            _ => Ok((Phase::AwaitStop { correlation_id }, false)),
        }
    }

    /// Snapshots of standbys that are newer than the member's own are fetched first; without them it goes on, too (spec 04
    /// §4.12, 2).
    pub(super) fn fetch_standby_snapshots(&mut self, extent: Option<LogExtent>) -> Step {
        if self.go_on_with_standby_fetch()? || !self.files_are_written()? {
            return Ok((Phase::FetchStandby { extent }, false));
        }
        self.begin_recovery(extent)
    }

    /// Tells the services where to begin (spec 04 §2.4, counter 204).
    fn begin_recovery(&mut self, extent: Option<LogExtent>) -> Step {
        let plan = RecoveryPlan::of(self.recording_log.entries(), self.context.service_count, extent)?;
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
            self.log_shape = Some(LogShape {
                position: extent.stop_position,
                initial_term_id: extent.initial_term_id,
                term_length: extent.term_buffer_length,
                mtu_length: extent.mtu_length,
            });
        }
        if plan.log.is_none() && start > 0 {
            return Err(ModuleError::LogTooShort { start: 0, stop: 0, snapshot: start });
        }
        self.append_position = plan.appended_log_position;
        if let Some(entry) = plan.snapshots.first() {
            self.log_term = (entry.leadership_term_id, entry.term_base_log_position);
        }
        self.plan = plan;
        let cluster_id = self.context.cluster_id;
        let (key, label) = (
            recovery_key(&self.plan.snapshots, cluster_id),
            recovery_label(&self.plan.snapshots, cluster_id),
        );
        let id = self.client().add_counter(type_id::RECOVERY_STATE, &key, &label)?;
        Ok((Phase::AwaitRecoveryCounter { id }, true))
    }

    /// The services load their snapshots; the module loads its own meanwhile.
    pub(super) fn await_recovery_counter(&mut self, id: i64) -> Step {
        self.recovery_counter = self.client().counter(id)?;
        if self.recovery_counter.is_none() {
            return Ok((Phase::AwaitRecoveryCounter { id }, false));
        }
        let Some(entry) = self.plan.snapshots.first() else { return Ok(self.services_to_come()) };
        let expectation = SnapshotExpectation {
            type_id: snapshot_type::MODULE,
            app_version: self.context.app_version,
            time_unit: Some(self.clock.unit()),
        };
        let (channel, stream_id) = (&self.context.replay_channel, self.context.replay_stream_id);
        let timeout_ns = self.context.startup_timeout_ns;
        let loader = SnapshotLoader::new(entry.recording_id, channel, stream_id, expectation, timeout_ns);
        Ok((Phase::LoadSnapshot { loader: Box::new(loader) }, true))
    }

    pub(super) fn load_snapshot(&mut self, mut loader: Box<SnapshotLoader>) -> Step {
        let Some(aeron) = &mut self.aeron else { return Err(ModuleError::Timeout("waiting for the driver")) };
        let mut work_count = loader.poll(aeron, &mut self.archive, &self.now)?;
        if loader.is_readable() {
            work_count +=
                loader.read(SNAPSHOT_FRAGMENT_LIMIT, &mut |message| self.on_snapshot_message(message))?;
        }
        if !loader.is_complete() {
            return Ok((Phase::LoadSnapshot { loader }, work_count > 0));
        }
        let marker = loader.marker().copied();
        if let Some(aeron) = &self.aeron {
            loader.close(aeron, &mut self.archive);
        }
        self.on_snapshot_loaded(marker)?;
        Ok(self.services_to_come())
    }

    fn services_to_come(&self) -> (Phase, bool) {
        (Phase::AwaitServices { deadline_ns: self.now.ns + self.context.startup_timeout_ns }, true)
    }

    /// A service's first ack names its client: the service is gone when that client is (spec 04 §4.11).
    pub(super) fn await_services(&mut self, deadline_ns: i64) -> Step {
        let Some(acks) = self.take_acks(self.plan.start_position(), Purpose::Start)? else {
            if self.now.ns > deadline_ns {
                return Err(self.missing_service("has not started; is it running?"));
            }
            return Ok((Phase::AwaitServices { deadline_ns }, false));
        };
        if let Some(service_id) = acks.iter().position(|ack| ack.relevant_id == -1) {
            return Err(ModuleError::Service {
                service_id,
                reason: "failed to start; see its error log".into(),
            });
        }
        let counters = self.aeron.as_ref().map(|aeron| aeron.counters());
        for (client, ack) in self.service_clients.iter_mut().zip(&acks) {
            client.on_started(ack.relevant_id, counters);
        }
        self.recovery_counter = None;
        Ok((Phase::Elect, true))
    }
}

fn extent_of(descriptor: &RecordingDescriptor) -> LogExtent {
    LogExtent {
        recording_id: descriptor.recording_id,
        start_position: descriptor.start_position,
        stop_position: descriptor.stop_position,
        initial_term_id: descriptor.initial_term_id,
        term_buffer_length: descriptor.term_buffer_length,
        mtu_length: descriptor.mtu_length,
        session_id: descriptor.session_id,
    }
}
