//! What a leader does: timers, messages of services, sessions, commits (spec 04 §3.3–§3.5, §4.4–§4.11).

use harrier_ringbuf::Memory;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, ModuleState};
use super::error::ModuleError;
use crate::codec::{LogMessage, SessionHeader};

/// Timers that fire, and messages of a service that are appended, per duty cycle.
const APPEND_LIMIT: usize = 20;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// The fast part of a leader's duty cycle.
    #[inline]
    pub(super) fn lead(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        if self.takes_messages() {
            work_count += self.fire_timers()?;
            work_count += self.append_service_messages()?;
            work_count += self.poll_ingress()?;
        }
        work_count += self.update_commit_position();
        Ok(work_count)
    }

    #[inline]
    fn takes_messages(&self) -> bool {
        match self.state {
            ModuleState::Active => true,
            ModuleState::Snapshot => is_planted(Bug::SnapshotWhileOpen),
            ModuleState::Suspended => is_planted(Bug::SuspendedGoesOn),
            _ => false,
        }
    }

    /// What is recorded is safe: a single member is its own quorum (spec 04 §4.4).
    #[inline]
    pub(super) fn update_commit_position(&mut self) -> usize {
        let Some(mut recorded) = self.recorded_position() else { return 0 };
        if is_planted(Bug::EarlyCommit) {
            recorded = self.log.as_ref().map_or(recorded, |log| log.position());
        }
        if recorded <= self.commit_position {
            return 0;
        }
        self.commit_position = recorded;
        if let Some(counters) = &self.counters {
            counters.commit_position.set_ordered(recorded);
        }
        for messages in &mut self.pending_messages {
            messages.on_committed(recorded);
        }
        1
    }

    fn fire_timers(&mut self) -> Result<usize, ModuleError> {
        let time = self.time();
        let mut count = 0;
        while count < APPEND_LIMIT
            && let Some(correlation_id) = self.timers.due(time)
        {
            let event = LogMessage::Timer {
                leadership_term_id: self.leadership_term_id,
                correlation_id,
                timestamp: time,
            };
            if self.append(&event)?.is_none() {
                break;
            }
            if !is_planted(Bug::TimerFiresTwice) {
                self.timers.cancel(correlation_id);
            }
            count += 1;
        }
        Ok(count)
    }

    fn append_service_messages(&mut self) -> Result<usize, ModuleError> {
        let timestamp = self.time();
        let leadership_term_id = self.leadership_term_id;
        let Some(log) = &mut self.log else { return Ok(0) };
        let mut failure = None;
        let mut count = 0;
        for messages in &mut self.pending_messages {
            count += messages.append(APPEND_LIMIT, |session_id, payload| {
                let header = SessionHeader { leadership_term_id, session_id, timestamp };
                log.append_session(header, payload).unwrap_or_else(|error| {
                    failure.get_or_insert(error);
                    None
                })
            });
        }
        if count > 0 {
            self.clock.observe(timestamp);
        }
        failure.map_or(Ok(count), |error| Err(error.into()))
    }

    /// Appends an event; `None` when the log takes nothing now.
    pub(super) fn append(&mut self, event: &LogMessage<'_>) -> Result<Option<i64>, ModuleError> {
        let Some(log) = &mut self.log else { return Ok(None) };
        let appended = log.append(event)?;
        if appended.is_some() {
            let time = self.clock.time(&self.now);
            self.clock.observe(time);
        }
        Ok(appended)
    }

    /// The slow part of a leader's duty cycle.
    pub(super) fn slow_tick(&mut self) -> Result<usize, ModuleError> {
        if self.recorded_position().is_none() {
            return Err(ModuleError::RecordingStopped(self.commit_position));
        }
        let mut work_count = self.check_toggle()?;
        work_count += self.check_node_toggle();
        work_count += self.go_on_with_validation()?;
        work_count += self.serve_backups()?;
        work_count += self.take_standby_notices();
        work_count += usize::from(self.go_on_with_standby_fetch()?);
        if self.state == ModuleState::Active {
            self.check_ingress_streams();
            self.allocate_ingress_logs();
            work_count += self.check_pending_sessions()?;
            work_count += self.check_sessions()?;
        }
        Ok(work_count)
    }
}
