//! The parts of a consensus module that outlive its roles (spec 04 §4.1).

use std::collections::BTreeSet;

use harrier_archive::client::ArchiveClient;
use harrier_client::Aeron;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::{Operation, Storage, StorageError};
use harrier_ringbuf::{Memory, Now};

use super::acks::Acks;
use super::backup::BackupSession;
use super::clock::ClusterClock;
use super::consensus::ConsensusStream;
use super::context::ConsensusModuleContext;
use super::counters::ModuleCounters;
use super::error::ModuleError;
use super::files::TermFile;
use super::link::ServiceLink;
use super::requests::Requests;
use super::response::LeaderFacts;
use super::security::Authenticator;
use super::services::{MembersQuery, ServiceClient};
use super::snapshot::ModuleSnapshot;
use super::standby::{StandbyFetch, StandbyNotice};
use super::state::{ClusterState, LoggedState};
use super::validation::Validation;
use crate::mark::MarkFile;
use crate::members::Member;
use crate::recording_log::RecordingLog;

/// Time between two slow ticks, ns.
pub(super) const SLOW_TICK_NS: i64 = 10_000_000;

/// States of the module (spec 04 §2.4, counter 200).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModuleState {
    Init = 0,
    Active = 1,
    Suspended = 2,
    Snapshot = 3,
    Terminating = 5,
    Closed = 6,
}

/// Phase of the module's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// The member has not stood for election since its start.
    Starting,
    /// The log decides the state.
    Running,
    Terminating,
    Closed,
}

/// File operations that are submitted and not complete.
pub(super) struct Files<S: Storage> {
    storage: S,
    in_flight: usize,
}

impl<S: Storage> Files<S> {
    pub(super) fn new(storage: S) -> Self {
        Self { storage, in_flight: 0 }
    }

    /// Submits operations. [`poll`](Self::poll) reports when they are complete.
    pub(super) fn submit(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            self.storage.submit(0, operation);
            self.in_flight += 1;
        }
    }

    /// Returns true once all submitted operations are complete, and the first failure as an error.
    #[inline]
    pub(super) fn poll(&mut self) -> Result<bool, StorageError> {
        if self.in_flight == 0 {
            return Ok(true);
        }
        let mut failure = None;
        let done = self.storage.poll(&mut |_, outcome| {
            if let Err(error) = outcome {
                failure.get_or_insert(error);
            }
        });
        self.in_flight -= done;
        failure.map_or(Ok(self.in_flight == 0), Err)
    }
}

/// The parts that all roles share.
pub(super) struct Core<M: Memory, S: Storage> {
    pub(super) context: ConsensusModuleContext,
    pub(super) member: Member,
    pub(super) ingress_endpoints: String,
    pub(super) now: Now,
    pub(super) next_slow_tick_ns: i64,
    pub(super) clock: ClusterClock,
    pub(super) mark: MarkFile<M>,
    pub(super) node_state: TermFile<M>,
    pub(super) recording_log: RecordingLog,
    pub(super) files: Files<S>,
    pub(super) aeron: Aeron,
    pub(super) counters: ModuleCounters,
    pub(super) archive: ArchiveClient,
    /// Text of the last error of the archive that belongs to no request.
    pub(super) archive_error: Option<String>,
    pub(super) requests: Requests,
    pub(super) link: ServiceLink,
    pub(super) acks: Acks,
    pub(super) service_clients: Vec<ServiceClient>,
    pub(super) members_queries: Vec<MembersQuery>,
    pub(super) authenticator: Box<dyn Authenticator + Send>,
    pub(super) state: ClusterState,
    pub(super) life: Life,
    /// Term that the member leads or stands for; -1 before its first election.
    pub(super) leadership_term_id: i64,
    /// End of the member's own log at the last election, bytes.
    pub(super) append_position: i64,
    pub(super) commit_position: i64,
    /// Sessions whose clients this member has told that they are open, kept while it does not lead.
    pub(super) told_sessions: BTreeSet<i64>,
    /// Log position at which the member ends, once an operator has asked for it (spec 07 §16).
    pub(super) termination_position: Option<i64>,
    /// A snapshot that is being taken outlives an election (spec 07 §28).
    pub(super) snapshot: Option<Box<ModuleSnapshot>>,
    pub(super) validation: Option<Validation>,
    /// The stream of other members, backups and standbys, once it is there.
    pub(super) consensus: Option<Box<ConsensusStream>>,
    /// Sessions of backups outlive an election (spec 07 §8).
    pub(super) backup_sessions: Vec<BackupSession>,
    /// Snapshots of standbys at positions that the log has not reached.
    pub(super) standby_notices: Vec<StandbyNotice>,
    pub(super) standby_fetch: Option<Box<StandbyFetch>>,
}

impl<M: Memory, S: Storage> Core<M, S> {
    pub(super) fn module_state(&self) -> ModuleState {
        match (self.life, self.state.state()) {
            (Life::Starting, _) => ModuleState::Init,
            (Life::Running, LoggedState::Active) => ModuleState::Active,
            (Life::Running, LoggedState::Suspended) => ModuleState::Suspended,
            (Life::Running, LoggedState::Snapshot) => ModuleState::Snapshot,
            (Life::Terminating, _) => ModuleState::Terminating,
            (Life::Closed, _) => ModuleState::Closed,
        }
    }

    /// Shows the state in its counter.
    pub(super) fn show_state(&self) {
        self.counters.state.set_ordered(self.module_state() as i64);
    }

    pub(super) fn enter(&mut self, life: Life) {
        self.life = life;
        self.show_state();
    }

    /// True while timers fire and messages of clients and services are appended.
    #[inline]
    pub(super) fn takes_messages(&self) -> bool {
        match self.module_state() {
            ModuleState::Active => true,
            ModuleState::Snapshot => is_planted(Bug::SnapshotWhileOpen),
            ModuleState::Suspended => is_planted(Bug::SuspendedGoesOn),
            _ => false,
        }
    }

    pub(super) fn record_error(&mut self, text: &str) {
        self.mark.errors.record(self.now.epoch_ms, text);
        self.counters.errors.increment();
    }

    /// Records an error that peers can cause. All errors of one kind are one entry of the error log.
    pub(super) fn record_peer_error(&mut self, kind: &str, text: &str) {
        self.mark.errors.record_kind(kind, self.now.epoch_ms, text);
        self.counters.errors.increment();
    }

    /// Counts a message of a client that was refused.
    pub(super) fn refuse_ingress(&self) {
        self.counters.refused_ingress.increment();
    }

    /// Counts a message on the consensus stream that was refused.
    pub(super) fn refuse_consensus(&self) {
        self.counters.refused_consensus.increment();
    }

    /// Returns the present cluster time.
    #[inline]
    pub(super) fn time(&self) -> i64 {
        self.clock.time(&self.now, self.state.time())
    }

    pub(super) fn leader_facts(&self) -> LeaderFacts {
        LeaderFacts {
            leadership_term_id: self.leadership_term_id,
            member_id: self.context.member_id,
            heartbeat_timeout_ns: self.context.leader_heartbeat_timeout_ns,
        }
    }

    /// Moves the commit position forward, bytes.
    ///
    /// # Panics
    /// When the position is lower than the last one.
    #[inline]
    pub(super) fn commit(&mut self, position: i64) {
        self.state.commit(position);
        self.commit_position = position;
        self.counters.commit_position.set_ordered(position);
    }

    /// Starts a slow tick if it is due, and returns whether it is.
    pub(super) fn begin_slow_tick(&mut self) -> Result<bool, ModuleError> {
        if self.now.ns < self.next_slow_tick_ns {
            return Ok(false);
        }
        self.next_slow_tick_ns = self.now.ns + SLOW_TICK_NS;
        self.mark.update_activity(&self.now);
        self.check_service_clients()?;
        Ok(true)
    }

    /// Makes the next duty cycle run the slow tick.
    pub(super) fn hasten_slow_tick(&mut self) {
        self.next_slow_tick_ns = self.now.ns;
    }

    /// Ends all that the role does not own.
    pub(super) fn close(&mut self) {
        self.enter(Life::Closed);
        self.archive.close();
        self.aeron.close();
        self.mark.signal_terminated();
    }
}
