//! The consensus module's own snapshot, read back (spec 04 §4.9, §4.12).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::agent::ConsensusModule;
use super::error::ModuleError;
use super::pending_messages::{PendingMessages, Tracker};
use super::session::{Session, SessionState};
use crate::codec::{SnapshotMarker, SnapshotMessage};
use crate::snapshot::SnapshotError;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Restores the state of the module from one message of its snapshot.
    pub(super) fn on_snapshot_message(&mut self, message: &SnapshotMessage<'_>) -> Result<(), SnapshotError> {
        match *message {
            SnapshotMessage::ConsensusModule {
                next_session_id,
                next_service_session_id,
                log_service_session_id,
                ..
            } => {
                self.next_session_id = next_session_id;
                self.next_logged_session_id = next_session_id;
                // Writers older than the trackers tell of service 0 here; newer ones repeat its tracker.
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
                let channel = response_channel.to_owned();
                let mut session =
                    Session::new(session_id, correlation_id, response_stream_id, channel, self.now.ns);
                session.state =
                    if close_reason.is_some() { SessionState::Closing } else { SessionState::Open };
                session.close_reason = close_reason;
                session.opened_log_position = opened_log_position;
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
                let own = usize::try_from(service_id).ok().and_then(|id| self.pending_messages.get_mut(id));
                own.ok_or_else(|| unknown_service(service_id))?.restore(tracker);
            }
            SnapshotMessage::Pending { header, payload } => {
                let service_id = PendingMessages::service_of(header.session_id);
                let own = self.pending_messages.get_mut(service_id);
                own.ok_or_else(|| unknown_service(service_id as i32))?
                    .restore_message(header.session_id, payload);
            }
            SnapshotMessage::Marker(_)
            | SnapshotMessage::ClientSession { .. }
            | SnapshotMessage::ClusterMembers { .. } => {}
        }
        Ok(())
    }

    /// Ends the loading: checks the restored state and publishes the position at which the log goes on.
    pub(super) fn on_snapshot_loaded(&mut self, marker: Option<SnapshotMarker>) -> Result<(), ModuleError> {
        let start = self.plan.start_position();
        for messages in &self.pending_messages {
            messages.check().map_err(SnapshotError::State)?;
        }
        if let Some(marker) = marker
            && !is_at(marker.log_position, start)
        {
            let text =
                format!("it was taken at {}, not at {start} as recording.log says", marker.log_position);
            return Err(SnapshotError::State(text).into());
        }
        if let Some(entry) = self.plan.snapshots.first() {
            self.clock.observe(entry.timestamp);
        }
        self.commit_position = start;
        if let Some(counters) = &self.counters {
            counters.commit_position.set_ordered(start);
            counters.leadership_term_id.set_ordered(self.log_term.0);
        }
        Ok(())
    }
}

/// Whether a snapshot with this marker may stand at a position of recording.log. Seeding a recording log moves its snapshot
/// to position 0, where the log begins anew; the marker keeps the position in the old log (spec 04 §6.6).
fn is_at(marker_position: i64, recording_log_position: i64) -> bool {
    marker_position == recording_log_position || recording_log_position == 0
}

fn unknown_service(service_id: i32) -> SnapshotError {
    SnapshotError::State(format!("it has messages of service {service_id}, which this node does not have"))
}
