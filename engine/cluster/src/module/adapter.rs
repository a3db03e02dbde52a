//! Reading the log that another run has written (spec 04 §4.7, §4.14).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, ModuleError, ModuleState};
use super::pending_messages::PendingMessages;
use super::session::{Session, SessionState};
use crate::codec::{ClusterAction, LogMessage};

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// One message of the log; `position` is the position after it.
    pub(super) fn on_replayed(&mut self, message: &[u8], position: i64) -> Result<(), ModuleError> {
        let decoded = LogMessage::decode(message)
            .map_err(|error| ModuleError::Replay(format!("before position {position}: {error}")))?;
        match decoded {
            Some(LogMessage::Session { header, .. }) => {
                self.clock.observe(header.timestamp);
                if header.session_id < 0 {
                    let service = PendingMessages::service_of(header.session_id);
                    if let Some(messages) = self.pending_messages.get_mut(service) {
                        messages.on_replayed(header.session_id);
                    }
                }
            }
            Some(LogMessage::SessionOpen {
                correlation_id,
                session_id,
                timestamp,
                response_stream_id,
                response_channel,
                principal,
                ..
            }) => {
                self.clock.observe(timestamp);
                let channel = response_channel.to_owned();
                let mut session =
                    Session::new(session_id, correlation_id, response_stream_id, channel, self.now.epoch_ms);
                session.state = SessionState::Open;
                session.principal = principal.to_vec();
                session.opened_log_position = position;
                self.sessions.insert(session_id, session);
                self.next_session_id = self.next_session_id.max(session_id + 1);
            }
            Some(LogMessage::SessionClose { session_id, timestamp, .. }) => {
                self.clock.observe(timestamp);
                self.sessions.remove(&session_id);
            }
            Some(LogMessage::Timer { correlation_id, timestamp, .. }) => {
                self.clock.observe(timestamp);
                self.timers.on_event(correlation_id);
            }
            Some(LogMessage::Action { action, timestamp, .. }) => {
                self.clock.observe(timestamp);
                match action {
                    ClusterAction::Suspend => self.enter(ModuleState::Suspended),
                    ClusterAction::Resume => self.enter(ModuleState::Active),
                    ClusterAction::Snapshot => {}
                }
            }
            Some(LogMessage::NewLeadershipTerm { leadership_term_id, timestamp, app_version, .. }) => {
                self.clock.observe(timestamp);
                let own = self.context.app_version;
                if app_version >> 16 != own >> 16 {
                    return Err(ModuleError::Replay(format!(
                        "incompatible version: {own:#x} log={app_version:#x} in term {leadership_term_id}"
                    )));
                }
                // A new term is led by an active module.
                self.enter(ModuleState::Active);
            }
            None => {}
        }
        Ok(())
    }
}
