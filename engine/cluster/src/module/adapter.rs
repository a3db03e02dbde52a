//! What the messages of a log do to the module that reads them (spec 04 §4.5–§4.7, §4.13).

use harrier_ringbuf::Memory;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, ModuleState};
use super::error::ModuleError;
use super::pending_messages::PendingMessages;
use super::session::{Session, SessionState};
use crate::codec::{ClusterAction, LogMessage, TimeUnit};
use crate::snapshot::version_text;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// One message of the log; `position` is the position after it.
    pub(super) fn on_replayed(&mut self, message: &[u8], position: i64) -> Result<Action, ModuleError> {
        let decoded = LogMessage::decode(message)
            .map_err(|error| ModuleError::Replay(format!("before position {position}: {error}")))?;
        let Some(message) = decoded else { return Ok(Action::Continue) };
        match message {
            LogMessage::Session { header, .. } => {
                self.clock.observe(header.timestamp);
                if header.session_id < 0 {
                    let service = PendingMessages::service_of(header.session_id);
                    if let Some(messages) = self.pending_messages.get_mut(service) {
                        messages.on_replayed(header.session_id);
                    }
                }
            }
            LogMessage::SessionOpen {
                correlation_id,
                session_id,
                timestamp,
                response_stream_id,
                response_channel,
                principal,
                ..
            } => {
                self.clock.observe(timestamp);
                let channel = response_channel.to_owned();
                let mut session =
                    Session::new(session_id, correlation_id, response_stream_id, channel, self.now.ns);
                session.state = SessionState::Open;
                session.principal = principal.to_vec();
                session.opened_log_position = position;
                self.sessions.insert(session_id, session);
                self.next_session_id = self.next_session_id.max(session_id + 1);
                self.next_logged_session_id = self.next_logged_session_id.max(session_id + 1);
            }
            LogMessage::SessionClose { session_id, timestamp, .. } => {
                self.clock.observe(timestamp);
                self.sessions.remove(&session_id);
            }
            LogMessage::Timer { correlation_id, timestamp, .. } => {
                self.clock.observe(timestamp);
                self.timers.on_event(correlation_id);
            }
            LogMessage::Action { action, timestamp, flags, .. } => {
                self.clock.observe(timestamp);
                self.on_replayed_action(action, flags, position);
                return Ok(Action::Break);
            }
            LogMessage::NewLeadershipTerm {
                leadership_term_id,
                term_base_log_position,
                timestamp,
                time_unit,
                app_version,
                ..
            } => {
                self.clock.observe(timestamp);
                self.check_term(time_unit, app_version)?;
                self.log_term = (leadership_term_id, term_base_log_position);
            }
        }
        Ok(Action::Continue)
    }

    fn on_replayed_action(&mut self, action: ClusterAction, flags: i32, position: i64) {
        match action {
            ClusterAction::Suspend => self.enter(ModuleState::Suspended),
            ClusterAction::Resume => self.enter(ModuleState::Active),
            // The services take a snapshot at this position whenever they read it, and tell of it.
            ClusterAction::Snapshot if flags == 0 => self.begin_snapshot(position),
            ClusterAction::Snapshot => {}
        }
    }

    fn check_term(&self, time_unit: TimeUnit, app_version: i32) -> Result<(), ModuleError> {
        let own = self.context.app_version;
        if app_version >> 16 != own >> 16 {
            return Err(ModuleError::Version { own: version_text(own), log: version_text(app_version) });
        }
        if time_unit != self.clock.unit() {
            return Err(ModuleError::TimeUnit { own: self.clock.unit(), log: time_unit });
        }
        Ok(())
    }
}
