//! The consensus module as an agent (spec 04 §4.1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use harrier_archive::client::{ArchiveAnswer, ArchiveClient};
use harrier_client::{Aeron, Counter, Subscription};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::memory::{Overlap, check_apart};
use harrier_ringbuf::storage::{Operation, Storage};
use harrier_ringbuf::{Agent, AgentError, Memory, Now};

use super::acks::Acks;
use super::backup::BackupSession;
use super::clock::ClusterClock;
use super::context::ConsensusModuleContext;
use super::counters::ModuleCounters;
use super::error::ModuleError;
use super::link::ServiceLink;
use super::log::{LogPublisher, LogShape};
use super::origin::Origins;
use super::pending_messages::PendingMessages;
use super::security::Authenticator;
use super::services::{MembersQuery, ServiceClient};
use super::session::{LeaderFacts, Session};
use super::snapshot::ModuleSnapshot;
use super::standby::{StandbyFetch, StandbyNotice};
use super::start::Phase;
use super::timers::Timers;
use super::validation::Validation;
use crate::mark::{MarkFile, MarkOptions};
use crate::members::{self, Member};
use crate::node_state::NodeState;
use crate::recording_log::{RecordingLog, RecoveryPlan, SEAL_FILE, has_recording_log, sealed_copy};

/// Time between two slow ticks, ns.
const SLOW_TICK_NS: i64 = 10_000_000;
/// Error code of an archive whose disk is full (spec 03 §1.2).
const STORAGE_SPACE: i64 = 11;

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

/// One of the streams on which clients send.
pub(super) struct IngressStream {
    pub(super) subscription: Subscription,
    pub(super) assembler: FragmentAssembler,
    /// Sessions of the clients' streams that were there at the last look.
    pub(super) known_sessions: Vec<i32>,
}

/// The consensus module of one member.
///
/// Made by [`ConsensusModule::launch`]; it finds driver, archive and services in its duty cycles, loads the latest
/// snapshot, replays the log, takes the lead and serves clients.
pub struct ConsensusModule<M: Memory, S: Storage> {
    pub(super) context: ConsensusModuleContext,
    pub(super) role_name: String,
    pub(super) member: Member,
    pub(super) ingress_endpoints: String,
    pub(super) memory: M,
    pub(super) storage: S,
    pub(super) writes_in_flight: usize,
    pub(super) mark: MarkFile<M>,
    pub(super) node_state: NodeState<M>,
    pub(super) recording_log: RecordingLog,
    pub(super) plan: RecoveryPlan,
    pub(super) phase: Phase,
    pub(super) state: ModuleState,
    pub(super) now: Now,
    last_cycle_ns: Option<i64>,
    pub(super) clock: ClusterClock,
    pub(super) next_slow_tick_ns: i64,
    pub(super) aeron: Option<Aeron>,
    pub(super) archive: ArchiveClient,
    pub(super) answer: Option<ArchiveAnswer>,
    pub(super) counters: Option<ModuleCounters>,
    /// Tells services where to begin, until all of them have started.
    pub(super) recovery_counter: Option<Counter>,
    pub(super) link: Option<ServiceLink>,
    pub(super) log: Option<LogPublisher>,
    pub(super) log_channel_tag: i64,
    pub(super) ingress: Vec<IngressStream>,
    /// Where backups and standbys ask.
    pub(super) consensus: Option<IngressStream>,
    pub(super) backup_sessions: Vec<BackupSession>,
    /// Snapshots of standbys that the log has not come to.
    pub(super) standby_notices: Vec<StandbyNotice>,
    pub(super) standby_fetch: Option<Box<StandbyFetch>>,
    pub(super) acks: Acks,
    pub(super) service_clients: Vec<ServiceClient>,
    pub(super) members_queries: Vec<MembersQuery>,
    pub(super) timers: Timers,
    pub(super) pending_messages: Vec<PendingMessages>,
    pub(super) authenticator: Box<dyn Authenticator + Send>,
    pub(super) sessions: BTreeMap<i64, Session>,
    pub(super) origins: Origins,
    /// Sessions that are not in the log: connecting, challenged, to be rejected.
    pub(super) pending_sessions: Vec<Session>,
    pub(super) next_session_id: i64,
    /// Id after the last session that is in the log.
    pub(super) next_logged_session_id: i64,
    pub(super) leadership_term_id: i64,
    /// The term whose messages are read or written now, and where it begins.
    pub(super) log_term: (i64, i64),
    pub(super) log_session_id: i32,
    pub(super) recording_counter_id: i32,
    pub(super) append_position: i64,
    pub(super) commit_position: i64,
    pub(super) snapshot: Option<Box<ModuleSnapshot>>,
    pub(super) validation: Option<Validation>,
    pub(super) termination_position: Option<i64>,
    pub(super) is_term_committed: bool,
    pub(super) ready: Arc<AtomicBool>,
    pub(super) log_recording_id: i64,
    pub(super) log_shape: Option<LogShape>,
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Takes the directory and reads its files. Blocks on files, not on driver, archive or services.
    ///
    /// # Errors
    /// See [`ModuleError`].
    pub fn launch(
        context: ConsensusModuleContext,
        memory: M,
        mut storage: S,
        now: &Now,
    ) -> Result<Self, ModuleError> {
        let (all, member) = context.validate()?;
        check_directories(&context, &memory)?;
        let options = MarkOptions {
            directory: context.mark_file_directory.clone(),
            error_buffer_length: context.error_buffer_length,
            authenticator: context.authenticator.name().to_owned(),
            services_directory: context.services_directory.clone(),
        };
        let facts = super::start::mark_facts(&context, &member);
        let mark = MarkFile::take_with(&facts, &options, &memory, now)?;
        let files = open_files(&context, &memory, &mut storage, &mark, now);
        let (node_state, recording_log) = files.inspect_err(|_| mark.signal_failed_start())?;
        let services = context.service_count;
        Ok(Self {
            role_name: context.role_name(),
            ingress_endpoints: members::ingress_endpoints(&all),
            archive: ArchiveClient::new(context.archive.clone()),
            authenticator: context.authenticator.make(),
            phase: Phase::Connect { deadline_ns: now.ns + context.startup_timeout_ns },
            member,
            memory,
            storage,
            writes_in_flight: 0,
            mark,
            node_state,
            recording_log,
            plan: RecoveryPlan::empty(),
            state: ModuleState::Init,
            now: *now,
            last_cycle_ns: None,
            clock: ClusterClock::new(now, context.time_unit),
            next_slow_tick_ns: now.ns,
            aeron: None,
            answer: None,
            counters: None,
            recovery_counter: None,
            link: None,
            log: None,
            log_channel_tag: -1,
            ingress: Vec::new(),
            consensus: None,
            backup_sessions: Vec::new(),
            standby_notices: Vec::new(),
            standby_fetch: None,
            acks: Acks::new(services),
            service_clients: vec![ServiceClient::default(); services],
            members_queries: Vec::new(),
            timers: Timers::default(),
            pending_messages: (0..services).map(PendingMessages::new).collect(),
            sessions: BTreeMap::new(),
            origins: Origins::default(),
            pending_sessions: Vec::new(),
            next_session_id: 1,
            next_logged_session_id: 1,
            leadership_term_id: -1,
            log_term: (-1, 0),
            log_session_id: -1,
            recording_counter_id: -1,
            append_position: 0,
            commit_position: 0,
            snapshot: None,
            validation: None,
            termination_position: None,
            is_term_committed: false,
            ready: Arc::default(),
            log_recording_id: -1,
            log_shape: None,
            context,
        })
    }

    /// True while the member leads and serves clients.
    pub fn is_leading(&self) -> bool {
        matches!(self.phase, Phase::Leading)
    }

    /// Set once the member leads and serves clients; for owners on other threads.
    pub fn ready_flag(&self) -> Arc<AtomicBool> {
        self.ready.clone()
    }

    /// True once a termination has been carried out.
    pub fn is_closed(&self) -> bool {
        self.state == ModuleState::Closed
    }

    /// Position up to which the log is safe.
    pub fn commit_position(&self) -> i64 {
        self.commit_position
    }

    /// Commits what was recorded since the last duty cycle. For an owner that runs the archive right after this module on
    /// the same thread: the service then sees a message in the pass in which it came.
    #[inline]
    pub fn commit_recorded(&mut self) -> usize {
        if self.is_leading() { self.update_commit_position() } else { 0 }
    }

    pub(super) fn record_error(&mut self, text: &str) {
        self.mark.errors.record(self.now.epoch_ms, text);
        if let Some(counters) = &self.counters {
            counters.errors.increment();
        }
    }

    /// Records an error that peers can cause. Errors of one kind are one entry of the error log, whatever they say.
    pub(super) fn record_peer_error(&mut self, kind: &str, text: &str) {
        self.mark.errors.record_kind(kind, self.now.epoch_ms, text);
        if let Some(counters) = &self.counters {
            counters.errors.increment();
        }
    }

    /// Counts a message of a client that was refused.
    pub(super) fn refuse_ingress(&self) {
        if let Some(counters) = &self.counters {
            counters.refused_ingress.increment();
        }
    }

    pub(super) fn time(&self) -> i64 {
        self.clock.time(&self.now)
    }

    pub(super) fn leader_facts(&self) -> LeaderFacts {
        LeaderFacts {
            leadership_term_id: self.leadership_term_id,
            member_id: self.context.member_id,
            heartbeat_timeout_ns: self.context.leader_heartbeat_timeout_ns,
        }
    }

    pub(super) fn enter(&mut self, state: ModuleState) {
        self.state = state;
        if let Some(counters) = &self.counters {
            counters.state.set_ordered(state as i64);
        }
    }

    /// Submits file operations; [`files_are_written`](Self::files_are_written) tells when they are done.
    pub(super) fn write_files(&mut self, operations: Vec<Operation>) {
        for operation in operations {
            self.storage.submit(0, operation);
            self.writes_in_flight += 1;
        }
    }

    /// True once all submitted file operations are done.
    pub(super) fn files_are_written(&mut self) -> Result<bool, ModuleError> {
        if self.writes_in_flight == 0 {
            return Ok(true);
        }
        let mut failure = None;
        let done = self.storage.poll(&mut |_, outcome| {
            if let Err(error) = outcome {
                failure.get_or_insert(error);
            }
        });
        self.writes_in_flight -= done;
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(self.writes_in_flight == 0),
        }
    }

    fn work(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        if let Some(aeron) = &mut self.aeron {
            work_count += aeron.do_work(&self.now)?;
            while aeron.poll_event().is_some() {}
        }
        self.files_are_written()?;
        let is_slow_tick = self.now.ns >= self.next_slow_tick_ns;
        if is_slow_tick {
            self.next_slow_tick_ns = self.now.ns + SLOW_TICK_NS;
            self.mark.update_activity(&self.now);
            self.check_service_clients()?;
        }
        if is_slow_tick || !self.is_leading() || self.snapshot.is_some() || self.validation.is_some() {
            work_count += self.poll_archive()?;
        }
        work_count += self.poll_services();
        if self.state == ModuleState::Snapshot {
            work_count += self.go_on_with_snapshot()?;
        }
        if !self.is_leading() {
            return Ok(work_count + self.go_on()?);
        }
        if is_slow_tick {
            work_count += self.slow_tick()?;
        }
        work_count += self.lead()?;
        Ok(work_count)
    }

    /// Keeps the archive's session alive; answers go to whoever asked.
    fn poll_archive(&mut self) -> Result<usize, ModuleError> {
        if !self.phase.uses_archive() {
            return Ok(0);
        }
        let Some(aeron) = &mut self.aeron else { return Ok(0) };
        let work_count = self.archive.poll(aeron, &self.now)?;
        while let Some(answer) = self.archive.poll_answer() {
            self.on_archive_answer(answer)?;
        }
        Ok(work_count)
    }

    fn on_archive_answer(&mut self, answer: ArchiveAnswer) -> Result<(), ModuleError> {
        if let ArchiveAnswer::Error { code: STORAGE_SPACE, message, .. } = &answer {
            return Err(ModuleError::StorageFull(message.clone()));
        }
        let is_taken = match &mut self.phase {
            Phase::LoadSnapshot { loader } => loader.on_answer(&answer),
            _ => false,
        };
        if is_taken
            || self.snapshot.as_mut().is_some_and(|snapshot| snapshot.on_answer(&answer))
            || self.validation.as_mut().is_some_and(|validation| validation.on_answer(&answer))
            || self.standby_fetch.as_mut().is_some_and(|fetch| fetch.on_answer(&answer))
        {
            return Ok(());
        }
        match &answer {
            ArchiveAnswer::Signal { .. } => {}
            ArchiveAnswer::Error { code, message, .. } if self.is_leading() => {
                let text = format!("archive error {code}: {message}");
                self.record_error(&text);
            }
            _ => self.answer = Some(answer),
        }
        Ok(())
    }

    /// The time since the last duty cycle began.
    #[inline]
    fn observe_cycle(&mut self) {
        let last = self.last_cycle_ns.replace(self.now.ns);
        if let (Some(last_ns), Some(counters)) = (last, &self.counters) {
            counters.cycle_time.observe(self.now.ns - last_ns);
        }
    }
}

fn check_directories<M: Memory>(context: &ConsensusModuleContext, memory: &M) -> Result<(), Overlap> {
    let driver = ("driver directory", context.aeron_directory.as_path());
    let mut others = vec![("cluster directory", context.cluster_directory.as_path())];
    others.extend(context.mark_file_directory.as_deref().map(|path| ("mark file directory", path)));
    others.extend(context.services_directory.as_deref().map(|path| ("services directory", path)));
    check_apart(memory, driver, &others)
}

fn open_files<M: Memory, S: Storage>(
    context: &ConsensusModuleContext,
    memory: &M,
    storage: &mut S,
    mark: &MarkFile<M>,
    now: &Now,
) -> Result<(NodeState<M>, RecordingLog), ModuleError> {
    let directory = &context.cluster_directory;
    storage.blocking(Operation::CreateDirectory { path: directory.clone() })?;
    let was_ours = mark.was_ours();
    let node_state = NodeState::open(memory, directory, context.file_sync_level.is_some(), was_ours)?;
    if node_state.candidate_term_id() == -1 {
        node_state.propose(mark.previous_candidate_term_id(), 0, now.epoch_ms)?;
    }
    check_recording_log(context, storage, node_state.candidate_term_id())?;
    let recording_log = RecordingLog::open_sealed(storage, directory, context.file_sync_level, was_ours)?;
    Ok((node_state, recording_log))
}

/// A member that has led before has a recording log: without it, it would begin an empty log beside the one that it has.
fn check_recording_log<S: Storage>(
    context: &ConsensusModuleContext,
    storage: &mut S,
    candidate_term_id: i64,
) -> Result<(), ModuleError> {
    let directory = &context.cluster_directory;
    if context.start_anew || has_recording_log(storage, directory)? {
        return Ok(());
    }
    let found = if sealed_copy(storage, directory)?.is_some_and(|copy| !copy.is_empty()) {
        format!("{SEAL_FILE} has a copy of it")
    } else if candidate_term_id != -1 {
        format!("node-state.dat says that the member has stood for term {candidate_term_id}")
    } else {
        return Ok(());
    };
    Err(ModuleError::RecordingLogMissing { directory: directory.clone(), found })
}

impl<M: Memory, S: Storage> Agent for ConsensusModule<M, S> {
    fn role_name(&self) -> &str {
        &self.role_name
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        if self.is_closed() {
            return Err(AgentError::terminated("expected termination"));
        }
        self.now = *now;
        self.observe_cycle();
        self.work().map_err(|error| {
            let text = error.to_string();
            self.record_error(&text);
            self.tell_termination(0);
            self.enter(ModuleState::Closed);
            AgentError::terminated(text)
        })
    }

    fn next_deadline(&self) -> Option<i64> {
        if !self.is_leading() || self.snapshot.is_some() {
            return Some(self.now.ns + 1_000_000);
        }
        let until_ns = |deadline| self.now.ns.saturating_add(self.clock.until_ns(deadline, &self.now));
        // Timers that are due wait while the member is suspended.
        let timer = self.timers.next_deadline().filter(|_| self.state == ModuleState::Active);
        let timer_ns = timer.map(until_ns);
        Some(timer_ns.map_or(self.next_slow_tick_ns, |timer_ns| timer_ns.min(self.next_slow_tick_ns)))
    }

    fn on_close(&mut self, now: &Now) {
        self.now = *now;
        for session in self.sessions.values_mut().chain(&mut self.pending_sessions) {
            session.disconnect();
        }
        self.enter(ModuleState::Closed);
        self.archive.close();
        if let Some(aeron) = &mut self.aeron {
            aeron.close();
        }
        self.mark.signal_terminated();
    }
}
