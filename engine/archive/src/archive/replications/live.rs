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
        replication: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        let Some(position) = self.source_position(replication, correlation_id)? else {
            return Ok(match correlation_id {
                Some(_) => Turn::Waiting,
                None => match self.send_position_question(replication)? {
                    None => Turn::Waiting,
                    sent => Turn::Next(State::SourceRecordingPosition { correlation_id: sent }),
                },
            });
        };
        if position == -1 {
            let message = format!("source recording {} is not active", replication.setup.source_recording_id);
            return refusal(ArchiveErrorCode::Generic, message);
        }
        replication.source_position = position;
        Ok(Turn::Next(State::Extend))
    }

    fn send_position_question(&mut self, replication: &mut Replication) -> Result<Option<i64>, Refusal> {
        let source_id = replication.setup.source_recording_id;
        sent_request(replication.client.recording_position(self.aeron(), source_id))
    }

    fn source_position(
        &mut self,
        replication: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Option<i64>, Refusal> {
        Ok(match take_answer(replication, correlation_id)? {
            Some(ArchiveAnswer::Ok { relevant_id, .. }) => Some(relevant_id),
            _ => None,
        })
    }

    /// Waits until the replay has reached the source's last known position.
    pub(super) fn catch_up(&mut self, replication: &mut Replication) -> Result<Turn, Refusal> {
        take_answer(replication, None)?;
        if !self.is_recording(replication) {
            let message = "the replay ended before it met the live stream".to_owned();
            return refusal(ArchiveErrorCode::Generic, message);
        }
        let position = self.target_position(replication);
        if position > replication.last_position {
            replication.last_position = position;
            replication.deadline_ns = self.now.ns + self.context.replication_message_timeout_ns;
        }
        if position < replication.source_position || !replication.may_ask(self.now.ns) {
            return Ok(Turn::Waiting);
        }
        Ok(Turn::Next(State::AttemptLiveJoin { correlation_id: None }))
    }

    /// Adds the live destination near the source's position and removes the replay destination once the live stream has
    /// caught up.
    pub(super) fn attempt_live_join(
        &mut self,
        replication: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        let Some(target) = self.source_position(replication, correlation_id)? else {
            return Ok(match correlation_id {
                Some(_) => Turn::Waiting,
                None => match self.send_position_question(replication)? {
                    None => Turn::Waiting,
                    sent => Turn::Next(State::AttemptLiveJoin { correlation_id: sent }),
                },
            });
        };
        if target == -1 {
            replication.retries += 1;
            if replication.retries >= MAX_RETRIES {
                let message =
                    format!("source recording {} is not active", replication.setup.source_recording_id);
                return refusal(ArchiveErrorCode::Generic, message);
            }
            return Ok(Turn::Next(State::CatchUp));
        }
        replication.retries = 0;
        replication.source_position = target;
        let position = self.target_position(replication);
        let Some(registration_id) = replication.subscription_id else { return Ok(Turn::Ended) };
        let refused = |error: harrier_client::ClientError| (ArchiveErrorCode::Generic, error.to_string());
        if !replication.is_live_added && target - position <= replication.live_window() {
            let live = replication.setup.live_destination.clone().unwrap_or_default();
            let command_id = self.aeron().add_rcv_destination(registration_id, &live).map_err(refused)?;
            replication.ask_soon();
            return Ok(Turn::Next(State::AddLiveDestination { command_id }));
        }
        if replication.is_live_added && target <= position && self.transports(replication) >= 2 {
            let replay = replication.setup.replay_destination();
            let command_id =
                self.aeron().remove_rcv_destination(registration_id, &replay).map_err(refused)?;
            return Ok(Turn::Next(State::RemoveReplayDestination { command_id, position }));
        }
        Ok(Turn::Next(State::CatchUp))
    }

    /// Number of active transports of the recorded image.
    fn transports(&self, replication: &Replication) -> i32 {
        self.recordings
            .iter()
            .find(|recording| recording.setup.recording_id == replication.target_recording_id)
            .map_or(0, RecordingSession::active_transport_count)
    }
}
