//! The state as the messages of a snapshot (spec 04 §4.9).

use std::ops::Bound;

use harrier_ringbuf::planted::{Bug, is_planted};

use super::ClusterState;
use super::pending_messages::Tracker;
use super::timers::TimerKey;
use crate::codec::{SessionHeader, SnapshotMessage};

/// Timestamp of service messages that are not in the log (spec 04 §4.6).
const NOT_APPENDED: i64 = i64::MAX;

/// A part of the state, in the order of a snapshot. Most parts are one message.
#[derive(Debug, Clone, Copy)]
pub(in crate::module) enum Part {
    Module,
    /// The session that follows this id.
    Session(i64),
    /// The timer that follows this key.
    Timer(Option<TimerKey>),
    /// The ids of a service's messages.
    Tracker(usize),
    /// A waiting message, by service and index.
    Message(usize, usize),
    /// Nothing is left.
    End,
}

impl ClusterState {
    /// Returns the message of a part, or `None` when the part has none, and the next part.
    pub(in crate::module) fn part(
        &self,
        part: Part,
        leadership_term_id: i64,
    ) -> (Option<SnapshotMessage<'_>>, Part) {
        match part {
            Part::Module => (Some(self.module_part()), Part::Session(i64::MIN)),
            Part::Session(after) => self.session_part(after),
            Part::Timer(after) => {
                let next = self.timers.after(after).filter(|_| !is_planted(Bug::SnapshotWithoutTimers));
                let Some((key, correlation_id)) = next else { return (None, Part::Tracker(0)) };
                (Some(SnapshotMessage::Timer { correlation_id, deadline: key.0 }), Part::Timer(Some(key)))
            }
            Part::Tracker(service) => {
                let Some(messages) = self.pending_messages.get(service) else { return (None, Part::End) };
                let Tracker { next_session_id, log_session_id } = messages.tracker();
                let message = SnapshotMessage::PendingMessageTracker {
                    next_service_session_id: next_session_id,
                    log_service_session_id: log_session_id,
                    pending_message_capacity: 0,
                    service_id: service as i32,
                };
                (Some(message), Part::Message(service, 0))
            }
            Part::Message(service, index) => {
                let waiting = self.pending_messages.get(service).and_then(|messages| messages.waiting(index));
                let waiting = waiting.filter(|_| !is_planted(Bug::SnapshotWithoutQueue));
                let Some((session_id, payload)) = waiting else { return (None, Part::Tracker(service + 1)) };
                let header = SessionHeader { leadership_term_id, session_id, timestamp: NOT_APPENDED };
                (Some(SnapshotMessage::Pending { header, payload }), Part::Message(service, index + 1))
            }
            Part::End => (None, Part::End),
        }
    }

    fn module_part(&self) -> SnapshotMessage<'_> {
        let first = self.pending_messages.first().map(|messages| messages.tracker());
        SnapshotMessage::ConsensusModule {
            next_session_id: self.next_committed_session_id,
            next_service_session_id: first.map(|tracker| tracker.next_session_id),
            log_service_session_id: first.map(|tracker| tracker.log_session_id),
            pending_message_capacity: 0,
        }
    }

    fn session_part(&self, after: i64) -> (Option<SnapshotMessage<'_>>, Part) {
        let mut behind = self.sessions.range((Bound::Excluded(after), Bound::Unbounded));
        let Some((id, session)) = behind.next() else { return (None, Part::Timer(None)) };
        let message = SnapshotMessage::ClusterSession {
            session_id: *id,
            correlation_id: session.correlation_id,
            opened_log_position: session.opened_position,
            time_of_last_activity: -1,
            close_reason: session.close_reason,
            response_stream_id: session.response_stream_id,
            response_channel: &session.response_channel,
        };
        (Some(message), Part::Session(*id))
    }
}
