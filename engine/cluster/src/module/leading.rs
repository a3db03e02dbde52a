//! The leader: timers, messages of services, sessions, commits (spec 04 §3.3–§3.5, §4.4–§4.11).

use std::collections::BTreeMap;

use harrier_archive::codec::Signal;
use harrier_protocol::counter_types::type_id::RECORDING_POSITION;
use harrier_ringbuf::Memory;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::Storage;

use super::core::{Core, ModuleState};
use super::counters::toggle;
use super::error::ModuleError;
use super::ingress::IngressStream;
use super::log::LogPublisher;
use super::origin::Origins;
use super::pending::PendingSession;
use super::sessions::SessionLink;
use super::state::Origin;
use crate::codec::{CloseReason, LogMessage, SessionHeader};

/// Limit of the timers that fire, and of the messages of one service that are appended, in one duty cycle.
const APPEND_LIMIT: usize = 20;

/// The archive's recording of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogRecording {
    pub(super) counter_id: i32,
    pub(super) recording_id: i64,
}

/// A member that leads. It owns the log's publication and the streams of its clients; dropping it closes them.
pub(super) struct Leading {
    pub(super) log: LogPublisher,
    pub(super) recording: LogRecording,
    /// Position at which the archive has stopped the recording, bytes.
    pub(super) stopped_position: Option<i64>,
    pub(super) ingress: Vec<IngressStream>,
    /// Streams to and from the clients of all sessions of the log.
    pub(super) links: BTreeMap<i64, SessionLink>,
    pub(super) origins: Origins,
    /// Sessions that are not in the log: connecting, challenged, or refused.
    pub(super) pending: Vec<PendingSession>,
}

impl Leading {
    /// Takes the lead with a log whose first event of the term is appended, and connects to the clients of its sessions.
    pub(super) fn new<M: Memory, S: Storage>(
        core: &mut Core<M, S>,
        log: LogPublisher,
        recording: LogRecording,
    ) -> Self {
        Self {
            log,
            recording,
            stopped_position: None,
            ingress: Vec::new(),
            links: super::sessions::link_sessions(core),
            origins: Origins::default(),
            pending: Vec::new(),
        }
    }

    pub(super) fn add_ingress(&mut self, stream: IngressStream) {
        self.ingress.push(stream);
    }

    /// Runs the fast part of a duty cycle.
    #[inline]
    pub(super) fn work<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
    ) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        if core.takes_messages() {
            work_count += self.fire_timers(core)?;
            work_count += self.append_service_messages(core)?;
            work_count += self.poll_ingress(core)?;
        }
        work_count += self.update_commit_position(core);
        Ok(work_count)
    }

    /// Commits what is recorded, because a single member is its own quorum (spec 04 §4.4).
    #[inline]
    pub(super) fn update_commit_position<M: Memory, S: Storage>(&mut self, core: &mut Core<M, S>) -> usize {
        let Some(mut recorded) = self.recorded_position(core) else { return 0 };
        if is_planted(Bug::EarlyCommit) {
            recorded = self.log.position();
        }
        // The counter is the archive's; nothing behind the own log can be committed.
        let position = recorded.min(self.log.position());
        if position <= core.commit_position {
            return 0;
        }
        core.commit(position);
        1
    }

    /// Returns how far the log is recorded, bytes; `None` when it is no longer recorded.
    #[inline]
    pub(super) fn recorded_position<M: Memory, S: Storage>(&self, core: &Core<M, S>) -> Option<i64> {
        let counters = core.aeron.counters();
        let id = self.recording.counter_id;
        let is_recorded = counters.is_allocated(id) && counters.type_id(id) == RECORDING_POSITION;
        is_recorded.then(|| counters.value(id))
    }

    /// Takes note of a signal of the archive; returns true when it is about the recording of the log.
    pub(super) fn on_signal(&mut self, recording_id: i64, position: i64, signal: Signal) -> bool {
        let is_own = recording_id == self.recording.recording_id;
        if is_own && signal == Signal::Stop {
            self.stopped_position = Some(position);
        }
        is_own
    }

    fn fire_timers<M: Memory, S: Storage>(&mut self, core: &mut Core<M, S>) -> Result<usize, ModuleError> {
        let time = core.time();
        let mut count = 0;
        while count < APPEND_LIMIT
            && let Some(correlation_id) = core.state.timers().due(time)
        {
            let leadership_term_id = core.leadership_term_id;
            let event = LogMessage::Timer { leadership_term_id, correlation_id, timestamp: time };
            if self.append(core, &event)?.is_none() {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    fn append_service_messages<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
    ) -> Result<usize, ModuleError> {
        let timestamp = core.time();
        let leadership_term_id = core.leadership_term_id;
        let mut count = 0;
        for service_id in 0..core.context.service_count {
            for _ in 0..APPEND_LIMIT {
                let Some((session_id, payload)) = core.state.next_to_append(service_id) else { break };
                let header = SessionHeader { leadership_term_id, session_id, timestamp };
                let Some(position) = self.log.append_session(header, payload)? else { break };
                let entry = LogMessage::Session { header, payload: &[] };
                core.state.apply(&entry, position, Origin::Appended);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Appends an event and carries it out. Returns the position after it, or `None` when the log takes nothing now.
    pub(super) fn append<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        event: &LogMessage<'_>,
    ) -> Result<Option<i64>, ModuleError> {
        if !core.state.has_room() {
            return Ok(None);
        }
        let Some(position) = self.log.append(event)? else { return Ok(None) };
        core.state.apply(event, position, Origin::Appended);
        Ok(Some(position))
    }

    /// Runs the slow part of a duty cycle.
    pub(super) fn slow_tick<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
    ) -> Result<usize, ModuleError> {
        let mut work_count = self.check_toggle(core)?;
        work_count += core.check_node_toggle();
        work_count += core.advance_validation()?;
        work_count += core.serve_backups();
        work_count += core.take_standby_notices();
        work_count += usize::from(core.advance_standby_fetch()?);
        if core.module_state() == ModuleState::Active {
            self.check_ingress_streams();
            self.allocate_ingress_logs(core);
            work_count += self.check_pending_sessions(core)?;
            work_count += self.check_sessions(core)?;
        }
        Ok(work_count)
    }

    /// A service has asked to close a session.
    pub(super) fn on_session_closing(&mut self, session_id: i64) {
        if let Some(link) = self.links.get_mut(&session_id) {
            link.begin_closing(CloseReason::ServiceAction);
        }
    }

    /// A snapshot has ended: the time that it took does not count as inactivity of the clients.
    pub(super) fn on_snapshot_ended<M: Memory, S: Storage>(&mut self, core: &Core<M, S>) {
        for link in self.links.values_mut() {
            link.last_activity_ns = core.now.ns;
        }
        core.counters.control_toggle.set_ordered(toggle::NEUTRAL);
    }

    /// Closes the streams to all clients.
    pub(super) fn disconnect_clients(&mut self) {
        for link in self.links.values_mut() {
            link.response.disconnect();
        }
        for session in &mut self.pending {
            session.response.disconnect();
        }
    }
}
