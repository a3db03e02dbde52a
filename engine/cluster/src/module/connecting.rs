//! A member before its driver has given it all that it needs (spec 04 §2.4, §4.12).

use std::collections::BTreeSet;

use harrier_archive::client::ArchiveClient;
use harrier_client::{Aeron, ClientError, Context};
use harrier_ringbuf::storage::Storage;
use harrier_ringbuf::{Memory, Now};

use super::acks::Acks;
use super::clock::ClusterClock;
use super::context::ConsensusModuleContext;
use super::core::{Core, Files, Life, ModuleState, SLOW_TICK_NS};
use super::counters::{ModuleCounters, PendingCounters, has_other_module, node_toggle, toggle};
use super::error::ModuleError;
use super::files::TermFile;
use super::link::{PendingLink, ServiceLink};
use super::requests::Requests;
use super::services::ServiceClient;
use super::state::ClusterState;
use crate::mark::{Component, MarkFacts, MarkFile};
use crate::members::Member;
use crate::recording_log::RecordingLog;

/// The files of a member: memory, storage, mark file, node-state.dat, recording.log.
pub(super) type OpenFiles<M, S> = (M, S, MarkFile<M>, TermFile<M>, RecordingLog);

/// A member that connects to its driver.
pub(super) struct Connecting<M: Memory, S: Storage> {
    context: ConsensusModuleContext,
    member: Member,
    ingress_endpoints: String,
    files: OpenFiles<M, S>,
    now: Now,
    next_slow_tick_ns: i64,
    deadline_ns: i64,
    clock: ClusterClock,
    archive: ArchiveClient,
    aeron: Option<Aeron>,
    pending: Option<(PendingCounters, PendingLink)>,
    counters: Option<ModuleCounters>,
    link: Option<ServiceLink>,
    is_closed: bool,
}

impl<M: Memory, S: Storage> Connecting<M, S> {
    pub(super) fn new(
        context: ConsensusModuleContext,
        member: Member,
        ingress_endpoints: String,
        files: OpenFiles<M, S>,
        now: &Now,
    ) -> Self {
        Self {
            clock: ClusterClock::new(now, context.time_unit),
            archive: ArchiveClient::new(context.archive.clone()),
            deadline_ns: now.ns + context.startup_timeout_ns,
            context,
            member,
            ingress_endpoints,
            files,
            now: *now,
            next_slow_tick_ns: now.ns,
            aeron: None,
            pending: None,
            counters: None,
            link: None,
            is_closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// True once [`into_core`](Self::into_core) may be called.
    pub(super) fn is_connected(&self) -> bool {
        self.counters.is_some() && self.link.is_some()
    }

    pub(super) fn next_deadline_ns(&self) -> i64 {
        self.next_slow_tick_ns
    }

    /// Takes one step; returns the work done.
    pub(super) fn work(&mut self, now: &Now) -> Result<usize, ModuleError> {
        self.now = *now;
        let mut work_count = 0;
        if let Some(aeron) = &mut self.aeron {
            work_count += aeron.do_work(now)?;
            while aeron.poll_event().is_some() {}
        }
        if now.ns >= self.next_slow_tick_ns {
            self.next_slow_tick_ns = now.ns + SLOW_TICK_NS;
            self.files.2.update_activity(now);
        }
        let is_step = if self.aeron.is_none() {
            self.connect()?
        } else if self.pending.is_none() {
            self.request_resources()?
        } else {
            self.await_resources()?
        };
        Ok(work_count + usize::from(is_step))
    }

    fn connect(&mut self) -> Result<bool, ModuleError> {
        let name = self.context.role_name();
        let context = Context::new(&self.context.aeron_directory).client_name(&name);
        let mut aeron = match Aeron::connect(context, self.files.0.clone(), &self.now) {
            Ok(aeron) => aeron,
            Err(ClientError::NotReady { .. }) if self.now.ns <= self.deadline_ns => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        aeron.do_work(&self.now)?;
        self.aeron = Some(aeron);
        Ok(true)
    }

    /// Requests the counters and the control streams. The counters of a module that has crashed exist until the driver
    /// gives up its client.
    fn request_resources(&mut self) -> Result<bool, ModuleError> {
        let Some(aeron) = &mut self.aeron else { return Ok(false) };
        let context = &self.context;
        if has_other_module(aeron.counters(), context.cluster_id) {
            if self.now.ns > self.deadline_ns {
                return Err(ModuleError::ActiveModule(context.cluster_id));
            }
            return Ok(false);
        }
        let counters = PendingCounters::add(aeron, context)?;
        let (to_services, from_services) = (context.service_stream_id, context.module_stream_id);
        let link = PendingLink::add(aeron, &context.control_channel, to_services, from_services)?;
        self.pending = Some((counters, link));
        Ok(true)
    }

    fn await_resources(&mut self) -> Result<bool, ModuleError> {
        let (Some(aeron), Some((counters, link))) = (&mut self.aeron, &mut self.pending) else {
            return Ok(false);
        };
        if self.counters.is_none() {
            self.counters = counters.poll(aeron)?;
        }
        if self.link.is_none() {
            self.link = link.poll(aeron)?;
        }
        if self.is_connected() {
            return Ok(true);
        }
        if self.now.ns > self.deadline_ns {
            return Err(ModuleError::Timeout("waiting for the driver's counters and control streams"));
        }
        Ok(false)
    }

    /// Returns the parts of a member that is connected to its driver.
    pub(super) fn into_core(self) -> Result<Core<M, S>, ModuleError> {
        let (Some(aeron), Some(counters), Some(link)) = (self.aeron, self.counters, self.link) else {
            return Err(ModuleError::Timeout("waiting for the driver"));
        };
        counters.control_toggle.set_ordered(toggle::INACTIVE);
        counters.node_toggle.set_ordered(node_toggle::INACTIVE);
        counters.leadership_term_id.set_ordered(-1);
        let services = self.context.service_count;
        let (_, storage, mark, node_state, recording_log) = self.files;
        let core = Core {
            authenticator: self.context.authenticator.make(),
            context: self.context,
            member: self.member,
            ingress_endpoints: self.ingress_endpoints,
            now: self.now,
            next_slow_tick_ns: self.next_slow_tick_ns,
            clock: self.clock,
            mark,
            node_state,
            recording_log,
            files: Files::new(storage),
            aeron,
            counters,
            archive: self.archive,
            archive_error: None,
            requests: Requests::new(),
            link,
            acks: Acks::new(services),
            service_clients: vec![ServiceClient::default(); services],
            members_queries: Vec::new(),
            state: ClusterState::new(services),
            life: Life::Starting,
            leadership_term_id: -1,
            append_position: 0,
            commit_position: 0,
            told_sessions: BTreeSet::new(),
            termination_position: None,
            snapshot: None,
            validation: None,
            consensus: None,
            backup_sessions: Vec::new(),
            standby_notices: Vec::new(),
            standby_fetch: None,
        };
        core.show_state();
        Ok(core)
    }

    /// Records the error that ends the member.
    pub(super) fn fail(&mut self, text: &str) {
        self.files.2.errors.record(self.now.epoch_ms, text);
        if let Some(counters) = &self.counters {
            counters.errors.increment();
        }
        self.end();
    }

    fn end(&mut self) {
        self.is_closed = true;
        if let Some(counters) = &self.counters {
            counters.state.set_ordered(ModuleState::Closed as i64);
        }
    }

    pub(super) fn close(&mut self) {
        self.end();
        self.archive.close();
        if let Some(aeron) = &mut self.aeron {
            aeron.close();
        }
        self.files.2.signal_terminated();
    }
}

pub(super) fn mark_facts(context: &ConsensusModuleContext, member: &Member) -> MarkFacts {
    MarkFacts {
        component: Component::ConsensusModule,
        cluster_directory: context.cluster_directory.clone(),
        aeron_directory: context.aeron_directory.clone(),
        archive_stream_id: context.archive.control_request_stream_id,
        service_stream_id: context.service_stream_id,
        module_stream_id: context.module_stream_id,
        ingress_stream_id: context.ingress_stream_id,
        member_id: member.id,
        service_id: -1,
        cluster_id: context.cluster_id,
        control_channel: context.control_channel.clone(),
        ingress_channel: context.ingress_channel.clone(),
        service_name: String::new(),
    }
}
