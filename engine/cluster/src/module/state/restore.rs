//! The state from the messages of a snapshot (spec 04 §4.9, §4.12).

use super::pending_messages::{PendingMessages, Tracker};
use super::{ClusterState, LoggedSession, Term};
use crate::codec::SnapshotMessage;
use crate::snapshot::SnapshotError;

impl ClusterState {
    /// Takes over one message of a snapshot.
    pub(in crate::module) fn restore(&mut self, message: &SnapshotMessage<'_>) -> Result<(), SnapshotError> {
        match *message {
            SnapshotMessage::ConsensusModule {
                next_session_id,
                next_service_session_id,
                log_service_session_id,
                ..
            } => {
                self.next_session_id = next_session_id;
                self.next_committed_session_id = next_session_id;
                // Old writers hold the ids of service 0 here only; later ones repeat the tracker of that service.
                if let (Some(next), Some(log)) = (next_service_session_id, log_service_session_id)
                    && let Some(messages) = self.pending_messages.first_mut()
                {
                    messages.restore(Tracker { next_session_id: next, log_session_id: log });
                }
            }
            SnapshotMessage::ClusterSession {
                session_id,
                correlation_id,
                opened_log_position,
                close_reason,
                response_stream_id,
                response_channel,
                ..
            } => {
                let session = LoggedSession {
                    id: session_id,
                    correlation_id,
                    opened_position: opened_log_position,
                    response_stream_id,
                    response_channel: response_channel.to_owned(),
                    principal: Vec::new(),
                    close_reason,
                };
                self.sessions.insert(session_id, session);
            }
            SnapshotMessage::Timer { correlation_id, deadline } => {
                self.timers.schedule(correlation_id, deadline);
            }
            SnapshotMessage::PendingMessageTracker {
                next_service_session_id,
                log_service_session_id,
                service_id,
                ..
            } => {
                let tracker = Tracker {
                    next_session_id: next_service_session_id,
                    log_session_id: log_service_session_id,
                };
                let index = usize::try_from(service_id).ok();
                let messages = index.and_then(|index| self.pending_messages.get_mut(index));
                messages.ok_or_else(|| unknown_service(service_id))?.restore(tracker);
            }
            SnapshotMessage::Pending { header, payload } => {
                let service_id = PendingMessages::service_of(header.session_id);
                let messages = self.pending_messages.get_mut(service_id);
                messages
                    .ok_or_else(|| unknown_service(service_id as i32))?
                    .restore_message(header.session_id, payload);
            }
            SnapshotMessage::Marker(_)
            | SnapshotMessage::ClientSession { .. }
            | SnapshotMessage::ClusterMembers { .. } => {}
        }
        Ok(())
    }

    /// Checks what a snapshot held, and continues at its position, bytes. `time` is the snapshot's timestamp.
    pub(in crate::module) fn end_restore(
        &mut self,
        position: i64,
        term: Term,
        time: i64,
    ) -> Result<(), SnapshotError> {
        for messages in &self.pending_messages {
            messages.check().map_err(SnapshotError::State)?;
        }
        (self.position, self.committed, self.term) = (position, position, term);
        self.observe(time);
        Ok(())
    }
}

fn unknown_service(service_id: i32) -> SnapshotError {
    SnapshotError::State(format!("it has messages of service {service_id}, which this node does not have"))
}
