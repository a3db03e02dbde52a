//! Replications that merge with the live stream (spec 03 §5.4).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::{Turn, sent_request, take_answer};
use crate::archive::Archive;
use crate::archive::replays::{Refusal, refusal};
use crate::client::ArchiveAnswer;
use crate::codec::ArchiveErrorCode;
use crate::recorder::RecordingSession;
use crate::replication::{MAX_RETRIES, Replication, ReplicationState as State};

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Asks the source for its position; the source recording must be active.
    pub(super) fn ask_position(
        &mut self,
        own: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        let Some(position) = self.source_position(own, correlation_id)? else {
            return Ok(match correlation_id {
                Some(_) => Turn::Waiting,
                None => match self.send_position_question(own)? {
                    None => Turn::Waiting,
                    sent => Turn::Next(State::SourceRecordingPosition { correlation_id: sent }),
                },
            });
        };
        if position == -1 {
            let message = format!("source recording {} is not active", own.setup.source_recording_id);
            return refusal(ArchiveErrorCode::Generic, message);
        }
        own.source_position = position;
        Ok(Turn::Next(State::Extend))
    }

    fn send_position_question(&mut self, own: &mut Replication) -> Result<Option<i64>, Refusal> {
        let source_id = own.setup.source_recording_id;
        sent_request(own.client.recording_position(self.aeron(), source_id))
    }

    fn source_position(
        &mut self,
        own: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Option<i64>, Refusal> {
        Ok(match take_answer(own, correlation_id)? {
            Some(ArchiveAnswer::Ok { relevant_id, .. }) => Some(relevant_id),
            _ => None,
        })
    }

    /// Waits until the replay has reached the source's last known position.
    pub(super) fn catch_up(&mut self, own: &mut Replication) -> Result<Turn, Refusal> {
        take_answer(own, None)?;
        if !self.is_recording(own) {
            let message = "the replay ended before it met the live stream".to_owned();
            return refusal(ArchiveErrorCode::Generic, message);
        }
        let position = self.target_position(own);
        if position > own.last_position {
            own.last_position = position;
            own.deadline_ns = self.now.ns + self.context.replication_message_timeout_ns;
        }
        if position < own.source_position || !own.may_ask(self.now.ns) {
            return Ok(Turn::Waiting);
        }
        Ok(Turn::Next(State::AttemptLiveJoin { correlation_id: None }))
    }

    /// Adds the live destination near the source's position and removes the replay destination once the live stream has
    /// caught up.
    pub(super) fn attempt_live_join(
        &mut self,
        own: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        let Some(target) = self.source_position(own, correlation_id)? else {
            return Ok(match correlation_id {
                Some(_) => Turn::Waiting,
                None => match self.send_position_question(own)? {
                    None => Turn::Waiting,
                    sent => Turn::Next(State::AttemptLiveJoin { correlation_id: sent }),
                },
            });
        };
        if target == -1 {
            own.retries += 1;
            if own.retries >= MAX_RETRIES {
                let message = format!("source recording {} is not active", own.setup.source_recording_id);
                return refusal(ArchiveErrorCode::Generic, message);
            }
            return Ok(Turn::Next(State::CatchUp));
        }
        own.retries = 0;
        own.source_position = target;
        let position = self.target_position(own);
        let Some(registration_id) = own.subscription_id else { return Ok(Turn::Ended) };
        let refused = |error: harrier_client::ClientError| (ArchiveErrorCode::Generic, error.to_string());
        if !own.is_live_added && target - position <= own.live_window() {
            let live = own.setup.live_destination.clone().unwrap_or_default();
            let command_id = self.aeron().add_rcv_destination(registration_id, &live).map_err(refused)?;
            own.ask_soon();
            return Ok(Turn::Next(State::AddLiveDestination { command_id }));
        }
        if own.is_live_added && target <= position && self.transports(own) >= 2 {
            let replay = own.setup.replay_destination();
            let command_id =
                self.aeron().remove_rcv_destination(registration_id, &replay).map_err(refused)?;
            return Ok(Turn::Next(State::RemoveReplayDestination { command_id, position }));
        }
        Ok(Turn::Next(State::CatchUp))
    }

    /// Number of active transports of the recorded image.
    fn transports(&self, own: &Replication) -> i32 {
        self.recordings
            .iter()
            .find(|recording| recording.setup.recording_id == own.target_recording_id)
            .map_or(0, RecordingSession::active_transport_count)
    }
}
