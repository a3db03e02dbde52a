//! The consensus module as an agent (spec 04 §4.1).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use harrier_archive::client::ArchiveAnswer;
use harrier_ringbuf::storage::Storage;
use harrier_ringbuf::{Agent, AgentError, Memory, Now};

use super::connecting::Connecting;
use super::context::ConsensusModuleContext;
use super::core::{Core, Life, ModuleState};
use super::error::ModuleError;
use super::files;
use super::requests::Notice;
use super::role::Role;
use crate::mark::{MarkFile, MarkOptions};
use crate::members;
use crate::service::EXPECTED_TERMINATION;

/// Error code of an archive whose disk is full (spec 03 §1.2).
const STORAGE_SPACE: i64 = 11;

/// The consensus module of one member.
///
/// Created by [`ConsensusModule::launch`]. In its duty cycles it connects to driver, archive and services, loads the
/// latest snapshot, replays the log, takes the lead and serves clients.
pub struct ConsensusModule<M: Memory, S: Storage> {
    stage: Stage<M, S>,
    role_name: String,
    ready: Arc<AtomicBool>,
    last_cycle_ns: Option<i64>,
}

enum Stage<M: Memory, S: Storage> {
    /// The driver has not given all that the module needs.
    Connecting(Box<Connecting<M, S>>),
    Running(Box<Module<M, S>>),
    /// The module is between two stages, which it leaves only by an error.
    Ended,
}

/// A module that is connected to its driver.
struct Module<M: Memory, S: Storage> {
    core: Core<M, S>,
    role: Role,
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Locks the directory and reads its files. Blocks on files, but not on driver, archive or services.
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
        files::check_directories(&context, &memory)?;
        let options = MarkOptions {
            directory: context.mark_file_directory.clone(),
            error_buffer_length: context.error_buffer_length,
            authenticator: context.authenticator.name().to_owned(),
            services_directory: context.services_directory.clone(),
        };
        let facts = super::connecting::mark_facts(&context, &member);
        let mark = MarkFile::take_with(&facts, &options, &memory, now)?;
        let opened = files::open_files(&context, &memory, &mut storage, &mark, now);
        let (node_state, recording_log) = opened.inspect_err(|_| mark.signal_failed_start())?;
        let ready = Arc::<AtomicBool>::default();
        let role_name = context.role_name();
        let ingress_endpoints = members::ingress_endpoints(&all);
        let connecting = Connecting::new(
            context,
            member,
            ingress_endpoints,
            (memory, storage, mark, node_state, recording_log),
            now,
        );
        Ok(Self { stage: Stage::Connecting(Box::new(connecting)), role_name, ready, last_cycle_ns: None })
    }

    /// True while the member leads and serves clients.
    pub fn is_leading(&self) -> bool {
        matches!(&self.stage, Stage::Running(module) if module.role.is_leading())
    }

    /// Flag that is set once the member leads and serves clients, for owners on other threads.
    pub fn ready_flag(&self) -> Arc<AtomicBool> {
        self.ready.clone()
    }

    /// True once a termination has been carried out.
    pub fn is_closed(&self) -> bool {
        match &self.stage {
            Stage::Connecting(connecting) => connecting.is_closed(),
            Stage::Running(module) => module.core.life == Life::Closed,
            Stage::Ended => true,
        }
    }

    /// Position up to which the log is committed, bytes.
    pub fn commit_position(&self) -> i64 {
        match &self.stage {
            Stage::Running(module) => module.core.commit_position,
            _ => 0,
        }
    }

    /// Commits what was recorded since the last duty cycle. An owner that runs the archive right after this module on the
    /// same thread calls it, so that the service receives a message in the pass in which it came.
    #[inline]
    pub fn commit_recorded(&mut self) -> usize {
        match &mut self.stage {
            Stage::Running(module) => match &mut module.role {
                Role::Leading(leading) => leading.update_commit_position(&mut module.core),
                _ => 0,
            },
            _ => 0,
        }
    }

    fn work(&mut self, now: &Now) -> Result<usize, ModuleError> {
        let module = match &mut self.stage {
            Stage::Running(module) => module,
            Stage::Connecting(connecting) => {
                let work_count = connecting.work(now)?;
                if connecting.is_connected()
                    && let Stage::Connecting(connecting) = std::mem::replace(&mut self.stage, Stage::Ended)
                {
                    let core = connecting.into_core()?;
                    self.stage = Stage::Running(Box::new(Module { core, role: Role::starting() }));
                }
                return Ok(work_count);
            }
            Stage::Ended => return Ok(0),
        };
        if let Some(last_ns) = self.last_cycle_ns {
            module.core.counters.cycle_time.observe(now.ns - last_ns);
        }
        module.core.now = *now;
        let was_leading = module.role.is_leading();
        let work_count = module.work()?;
        if !was_leading && module.role.is_leading() {
            self.ready.store(true, std::sync::atomic::Ordering::Release);
        }
        Ok(work_count)
    }

    /// Records the error that ends the module, and tells the services to end.
    fn fail(&mut self, error: &ModuleError) {
        match &mut self.stage {
            Stage::Connecting(connecting) => connecting.fail(&error.to_string()),
            Stage::Running(module) => {
                module.core.record_error(&error.to_string());
                module.core.tell_termination(0);
                module.core.enter(Life::Closed);
            }
            Stage::Ended => {}
        }
    }
}

impl<M: Memory, S: Storage> Module<M, S> {
    fn work(&mut self) -> Result<usize, ModuleError> {
        let core = &mut self.core;
        let mut work_count = core.aeron.do_work(&core.now)?;
        while core.aeron.poll_event().is_some() {}
        core.files.poll()?;
        let is_slow_tick = core.begin_slow_tick()?;
        if is_slow_tick
            || !self.role.is_leading()
            || core.snapshot.is_some()
            || core.validation.is_some()
            || !core.requests.is_idle()
        {
            work_count += self.poll_archive()?;
        }
        work_count += self.poll_services();
        work_count += self.core.poll_consensus();
        if self.core.module_state() == ModuleState::Snapshot {
            work_count += self.advance_snapshot()?;
        }
        let role = &mut self.role;
        work_count += role.work(&mut self.core, is_slow_tick)?;
        Ok(work_count)
    }

    /// Keeps the session with the archive alive, and hands each answer to its request.
    fn poll_archive(&mut self) -> Result<usize, ModuleError> {
        let core = &mut self.core;
        let work_count = core.archive.poll(&mut core.aeron, &core.now)?;
        while let Some(answer) = self.core.archive.poll_answer() {
            self.on_archive_answer(answer)?;
        }
        self.core.release_requests()?;
        Ok(work_count)
    }

    fn on_archive_answer(&mut self, answer: ArchiveAnswer) -> Result<(), ModuleError> {
        if let ArchiveAnswer::Error { code: STORAGE_SPACE, message, .. } = &answer {
            return Err(ModuleError::StorageFull(message.clone()));
        }
        let Self { core, role } = self;
        let Some(answer) = core.requests.on_answer(answer) else { return Ok(()) };
        if role.on_answer(&answer)
            || core.snapshot.as_mut().is_some_and(|snapshot| snapshot.on_answer(&answer))
            || core.validation.as_mut().is_some_and(|validation| validation.on_answer(&answer))
            || core.standby_fetch.as_mut().is_some_and(|fetch| fetch.on_answer(&answer))
        {
            return Ok(());
        }
        match answer {
            ArchiveAnswer::Signal { correlation_id, recording_id, position, signal, .. } => {
                let is_taken = role.on_signal(recording_id, position, signal);
                core.requests
                    .keep_unless(is_taken, Notice { correlation_id, recording_id, position, signal });
            }
            ArchiveAnswer::Error { code, message, .. } if role.is_leading() => {
                core.record_error(&format!("archive error {code}: {message}"));
            }
            ArchiveAnswer::Error { message, .. } => core.archive_error = Some(message),
            _ => {}
        }
        Ok(())
    }

    fn poll_services(&mut self) -> usize {
        let Self { core, role } = self;
        let work_count = core.poll_services(|session_id| role.on_session_closing(session_id));
        if !core.members_queries.is_empty() {
            core.answer_members_queries(role.is_leading(), role.recorded_position(core));
        }
        work_count
    }

    /// Takes one step of a running snapshot, or ends the member behind a snapshot that is taken.
    fn advance_snapshot(&mut self) -> Result<usize, ModuleError> {
        let Self { core, role } = self;
        if core.snapshot.is_none() {
            // A member that has lost the lead meanwhile ends once it leads again.
            let position = core.termination_position.filter(|_| role.is_leading());
            let Some(position) = position else { return Ok(0) };
            return Ok(usize::from(role.terminate(core, position)));
        }
        let (work_count, is_ended) = core.advance_snapshot()?;
        if is_ended && core.termination_position.is_none() {
            core.state.end_snapshot();
            core.show_state();
            role.on_snapshot_ended(core);
        }
        Ok(work_count)
    }
}

impl<M: Memory, S: Storage> Agent for ConsensusModule<M, S> {
    fn role_name(&self) -> &str {
        &self.role_name
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        if self.is_closed() {
            return Err(AgentError::Ended(EXPECTED_TERMINATION));
        }
        let outcome = self.work(now);
        self.last_cycle_ns = Some(now.ns);
        outcome.map_err(|error| {
            self.fail(&error);
            AgentError::terminated(error.to_string())
        })
    }

    fn next_deadline(&self) -> Option<i64> {
        match &self.stage {
            Stage::Connecting(connecting) => Some(connecting.next_deadline_ns()),
            Stage::Running(module) => Some(module.role.next_deadline_ns(&module.core)),
            Stage::Ended => None,
        }
    }

    fn on_close(&mut self, now: &Now) {
        match &mut self.stage {
            Stage::Connecting(connecting) => connecting.close(),
            Stage::Running(module) => {
                module.core.now = *now;
                module.role.disconnect_clients();
                module.core.close();
            }
            Stage::Ended => {}
        }
    }
}
