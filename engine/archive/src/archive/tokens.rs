//! Replay tokens, which let a client request a replay on a stream outside its session (spec 03 §2.8, §5.1).

use harrier_protocol::uri::ControlMode;
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::Archive;
use super::replays::{Refusal, refusal};
use crate::channel;
use crate::codec::{ArchiveErrorCode, ReplayRequest};

/// Maximum number of valid tokens.
const MAX_TOKENS: usize = 1_024;

/// Permission to replay one recording on behalf of a session.
pub(super) struct ReplayToken {
    token: i64,
    pub(super) control_session_id: i64,
    recording_id: i64,
    pub(super) deadline_ns: i64,
}

impl<M: Memory, S: Storage> Archive<M, S> {
    /// Creates a token that is valid for the connect timeout while its session lives. Does not check the recording.
    pub(super) fn make_replay_token(&mut self, session_id: i64, recording_id: i64) -> Result<i64, Refusal> {
        if self.replay_tokens.len() >= MAX_TOKENS {
            return refusal(
                ArchiveErrorCode::Generic,
                format!("too many replay tokens: at most {MAX_TOKENS}"),
            );
        }
        let token = loop {
            let token = self.rng.next_u64() as i64;
            if token != -1 && !self.replay_tokens.iter().any(|entry| entry.token == token) {
                break token;
            }
        };
        let deadline_ns = self.now.ns + self.context.connect_timeout_ns;
        self.replay_tokens.push(ReplayToken {
            token,
            control_session_id: session_id,
            recording_id,
            deadline_ns,
        });
        Ok(token)
    }

    /// Starts a replay by its token. Returns true for a token request; an unknown token gets no answer.
    pub(super) fn on_token_replay(
        &mut self,
        correlation_id: i64,
        request: &ReplayRequest<'_>,
        image_correlation_id: i64,
    ) -> bool {
        let is_response = channel::parse(request.channel)
            .is_ok_and(|uri| uri.control_mode() == Some(ControlMode::Response));
        if request.replay_token == -1 || !is_response {
            return false;
        }
        let now_ns = self.now.ns;
        let found = self.replay_tokens.iter().find(|token| {
            token.token == request.replay_token
                && token.recording_id == request.recording_id
                && now_ns <= token.deadline_ns
        });
        match found.map(|token| token.control_session_id) {
            Some(session_id) => {
                self.on_replay(session_id, correlation_id, request, Some(image_correlation_id))
            }
            None => {
                let message = format!(
                    "WARN: replay of recording {} with an unknown or expired token",
                    request.recording_id
                );
                self.record_error(&message);
            }
        }
        true
    }
}
