//! Replications over a response channel: the replay request is sent on a stream that names the recording subscription
//! (spec 03 §5.3, §5.4).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::{Turn, sent_request, take_answer};
use crate::archive::Archive;
use crate::archive::replays::Refusal;
use crate::client::ArchiveAnswer;
use crate::codec::ArchiveErrorCode;
use crate::replication::{Replication, ReplicationState as State};

impl<M: Memory, S: Storage> Archive<M, S> {
    pub(super) fn ask_replay_token(
        &mut self,
        replication: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        if correlation_id.is_none() {
            let source_id = replication.setup.source_recording_id;
            let sent = replication.client.replay_token(self.aeron(), source_id);
            return Ok(match sent_request(sent)? {
                None => Turn::Waiting,
                sent => Turn::Next(State::ReplayToken { correlation_id: sent }),
            });
        }
        let Some(ArchiveAnswer::Ok { relevant_id, .. }) = take_answer(replication, correlation_id)? else {
            return Ok(Turn::Waiting);
        };
        replication.replay_token = relevant_id;
        let Some(subscription_id) = replication.subscription_id else { return Ok(Turn::Ended) };
        let refused = |error: String| (ArchiveErrorCode::Generic, error);
        let (channel, stream_id) = replication
            .client
            .request_channel_for(subscription_id)
            .map_err(|error| refused(error.to_string()))?;
        let publication_id = self
            .aeron()
            .add_exclusive_publication(&channel, stream_id)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Turn::Next(State::AwaitProxy { publication_id }))
    }

    /// Waits until the request stream is connected: the source's driver can answer only a stream that it knows.
    pub(super) fn await_proxy(
        &mut self,
        replication: &mut Replication,
        publication_id: i64,
    ) -> Result<Turn, Refusal> {
        if replication.proxy.is_none() {
            replication.proxy = self
                .aeron()
                .exclusive_publication(publication_id)
                .map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))?;
        }
        let is_ready = replication
            .proxy
            .as_ref()
            .is_some_and(|proxy| proxy.is_connected() && proxy.position_limit() > 0);
        Ok(if is_ready { Turn::Next(State::Replay { correlation_id: None }) } else { Turn::Waiting })
    }
}
