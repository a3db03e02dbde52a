//! Connecting to an archive, step by step (spec 03 §2.6).

use harrier_client::{Aeron, ClientError};
use harrier_protocol::uri::{ChannelUri, ControlMode, key};

use super::{ArchiveClient, ArchiveClientError, FRAGMENT_LIMIT};
use crate::codec::{ControlCode, PROTOCOL_VERSION, Request, RequestBody, Response};

/// Session ids that drivers reserve.
const RESERVED_SESSION_IDS: std::ops::RangeInclusive<i32> = -1..=1_000;
/// First archive version that reports its id.
const VERSION_WITH_ARCHIVE_ID: i32 = harrier_protocol::semantic_version(1, 11, 0);

/// State of connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Begin,
    AwaitSubscription { subscription_id: i64, request_channel: String },
    AwaitPublication { publication_id: i64 },
    AwaitPublicationConnected,
    SendConnectRequest,
    AwaitConnectResponse { correlation_id: i64 },
    SendChallengeResponse,
    SendArchiveIdRequest,
    AwaitArchiveId { correlation_id: i64 },
    SendKeepAlive,
    Connected,
    Closed,
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Self::Begin | Self::AwaitSubscription { .. } => "adding the response subscription",
            Self::AwaitPublication { .. } => "adding the request publication",
            Self::AwaitPublicationConnected => "connecting the request publication",
            Self::SendConnectRequest => "sending the connect request",
            Self::AwaitConnectResponse { .. } => "waiting for the connect response",
            Self::SendChallengeResponse => "answering the challenge",
            Self::SendArchiveIdRequest | Self::AwaitArchiveId { .. } => "asking for the archive's id",
            Self::SendKeepAlive | Self::Connected | Self::Closed => "connected",
        }
    }
}

impl ArchiveClient {
    pub(super) fn go_on_connecting(
        &mut self,
        aeron: &mut Aeron,
        now_ns: i64,
    ) -> Result<usize, ArchiveClientError> {
        let timeout_ns = self.context.message_timeout_ns;
        let deadline_ns = *self.deadline_ns.get_or_insert(now_ns + timeout_ns);
        if now_ns > deadline_ns {
            return Err(ArchiveClientError::Timeout {
                channel: self.context.control_request_channel.clone(),
                timeout_ns,
                stage: self.stage.name(),
            });
        }
        let stage = self.stage.clone();
        match stage {
            Stage::Begin => self.add_subscription(aeron),
            Stage::AwaitSubscription { subscription_id, request_channel } => {
                self.await_subscription(aeron, subscription_id, &request_channel)
            }
            Stage::AwaitPublication { publication_id } => self.await_publication(aeron, publication_id),
            Stage::AwaitPublicationConnected => {
                let is_connected =
                    self.publication.as_ref().is_some_and(|publication| publication.is_connected());
                if is_connected {
                    self.stage = Stage::SendConnectRequest;
                }
                Ok(usize::from(is_connected))
            }
            Stage::SendConnectRequest => self.send_connect(aeron),
            Stage::AwaitConnectResponse { correlation_id } => self.await_connect(correlation_id),
            Stage::SendChallengeResponse => {
                let correlation_id = aeron.next_correlation_id();
                let answer = std::mem::take(&mut self.context.challenge_answer);
                let sent =
                    self.try_offer(correlation_id, RequestBody::ChallengeResponse { credentials: &answer });
                self.context.challenge_answer = answer;
                self.advance_if(sent, Stage::AwaitConnectResponse { correlation_id })
            }
            Stage::SendArchiveIdRequest => {
                let correlation_id = aeron.next_correlation_id();
                let sent = self.try_offer(correlation_id, RequestBody::ArchiveId);
                self.advance_if(sent, Stage::AwaitArchiveId { correlation_id })
            }
            Stage::AwaitArchiveId { correlation_id } => self.await_archive_id(correlation_id),
            Stage::SendKeepAlive => {
                let sent = self.try_offer(-1, RequestBody::KeepAlive);
                self.advance_if(sent, Stage::Connected)
            }
            Stage::Connected | Stage::Closed => Ok(0),
        }
    }

    fn advance_if(
        &mut self,
        sent: Result<bool, ArchiveClientError>,
        stage: Stage,
    ) -> Result<usize, ArchiveClientError> {
        let is_sent = sent?;
        if is_sent {
            self.stage = stage;
        }
        Ok(usize::from(is_sent))
    }

    fn try_offer(&mut self, correlation_id: i64, body: RequestBody<'_>) -> Result<bool, ArchiveClientError> {
        let request = Request { control_session_id: self.control_session_id, correlation_id, body };
        match self.offer(&request) {
            Ok(()) => Ok(true),
            Err(ArchiveClientError::BackPressured) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds the response subscription. Both streams share one random session id, whatever id the given channels have
    /// (spec 03 §2.6, DECISION). Over a response channel the request stream names the response subscription instead.
    fn add_subscription(&mut self, aeron: &mut Aeron) -> Result<usize, ArchiveClientError> {
        let session_id = loop {
            let id = self.rng.next_i32();
            if !RESERVED_SESSION_IDS.contains(&id) {
                break id;
            }
        };
        let complete = |channel: &str| -> Result<ChannelUri, ArchiveClientError> {
            let mut uri = ChannelUri::parse(channel).map_err(|error| ClientError::InvalidArgument {
                argument: "control channel",
                reason: error.to_string(),
            })?;
            uri.put_if_absent(key::TERM_LENGTH, self.context.control_term_buffer_length);
            uri.put_if_absent(key::MTU, self.context.control_mtu_length);
            uri.put_if_absent(key::SPARSE, true);
            Ok(uri)
        };
        let mut response = complete(&self.context.control_response_channel)?;
        let mut request = complete(&self.context.control_request_channel)?;
        let is_response = response.control_mode() == Some(ControlMode::Response);
        if is_response {
            request.remove(key::SESSION_ID);
        } else {
            response.put(key::SESSION_ID, session_id);
            request.put(key::SESSION_ID, session_id);
        }
        let subscription_id =
            aeron.add_subscription(&response.to_string(), self.context.control_response_stream_id)?;
        if is_response {
            request.put(key::RESPONSE_CORRELATION_ID, subscription_id);
        }
        let request_channel = request.to_string();
        self.stage = Stage::AwaitSubscription { subscription_id, request_channel };
        Ok(1)
    }

    fn await_subscription(
        &mut self,
        aeron: &mut Aeron,
        subscription_id: i64,
        request_channel: &str,
    ) -> Result<usize, ArchiveClientError> {
        let Some(subscription) = aeron.subscription(subscription_id)? else { return Ok(0) };
        self.subscription = Some(subscription);
        let publication_id =
            aeron.add_exclusive_publication(request_channel, self.context.control_request_stream_id)?;
        self.stage = Stage::AwaitPublication { publication_id };
        Ok(1)
    }

    fn await_publication(
        &mut self,
        aeron: &mut Aeron,
        publication_id: i64,
    ) -> Result<usize, ArchiveClientError> {
        match aeron.exclusive_publication(publication_id) {
            Ok(None) => Ok(0),
            Ok(Some(publication)) => {
                self.publication = Some(publication);
                self.stage = Stage::AwaitPublicationConnected;
                Ok(1)
            }
            // Another client has the same session id: draw another one within the deadline.
            Err(ClientError::Registration { message, .. }) if message.contains("clashing sessionId") => {
                self.subscription = None;
                self.stage = Stage::Begin;
                Ok(1)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn send_connect(&mut self, aeron: &mut Aeron) -> Result<usize, ArchiveClientError> {
        let Some(subscription) = &self.subscription else { return Ok(0) };
        let Some(response_channel) = subscription.resolved_channel(aeron.counters()) else { return Ok(0) };
        let correlation_id = aeron.next_correlation_id();
        let client_info = format!(
            "name={} version={} commit=harrier",
            self.context.client_name,
            harrier_protocol::AERON_VERSION
        );
        let credentials = std::mem::take(&mut self.context.credentials);
        let sent = self.try_offer(
            correlation_id,
            RequestBody::Connect {
                response_stream_id: self.context.control_response_stream_id,
                version: PROTOCOL_VERSION,
                response_channel: &response_channel,
                credentials: &credentials,
                client_info: &client_info,
            },
        );
        self.context.credentials = credentials;
        self.advance_if(sent, Stage::AwaitConnectResponse { correlation_id })
    }

    /// Reads answers until one matches `wanted`.
    fn answer_to(&mut self, wanted: i64) -> Result<Option<Opening>, ArchiveClientError> {
        let Some(subscription) = &mut self.subscription else { return Ok(None) };
        let assembler = &mut self.assembler;
        let mut found = None;
        let mut failure = None;
        subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| match Response::decode(message) {
                Ok(Some(Response::Control {
                    control_session_id,
                    correlation_id,
                    relevant_id,
                    code,
                    version,
                    message,
                })) if correlation_id == wanted => {
                    found = Some(match code {
                        ControlCode::Ok => Opening::Ok { control_session_id, relevant_id, version },
                        _ => Opening::Refused { code: relevant_id, message: message.to_owned() },
                    });
                }
                Ok(Some(Response::Challenge { control_session_id, correlation_id, .. }))
                    if correlation_id == wanted =>
                {
                    found = Some(Opening::Challenge { control_session_id });
                }
                Ok(_) => {}
                Err(error) => failure = Some(error),
            });
        });
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(found),
        }
    }

    fn await_connect(&mut self, correlation_id: i64) -> Result<usize, ArchiveClientError> {
        match self.answer_to(correlation_id)? {
            None => return Ok(0),
            Some(Opening::Ok { control_session_id, version, .. }) => {
                self.control_session_id = control_session_id;
                self.stage = if version < VERSION_WITH_ARCHIVE_ID {
                    Stage::SendKeepAlive
                } else {
                    Stage::SendArchiveIdRequest
                };
            }
            Some(Opening::Challenge { control_session_id }) => {
                self.control_session_id = control_session_id;
                self.stage = Stage::SendChallengeResponse;
            }
            Some(Opening::Refused { code, message }) => {
                return Err(ArchiveClientError::Refused { code, message });
            }
        }
        Ok(1)
    }

    fn await_archive_id(&mut self, correlation_id: i64) -> Result<usize, ArchiveClientError> {
        match self.answer_to(correlation_id)? {
            Some(Opening::Ok { relevant_id, .. }) => {
                self.archive_id = relevant_id;
                self.stage = Stage::SendKeepAlive;
                Ok(1)
            }
            Some(Opening::Refused { code, message }) => Err(ArchiveClientError::Refused { code, message }),
            Some(Opening::Challenge { .. }) | None => Ok(0),
        }
    }
}

/// Answers of an archive while a client connects.
enum Opening {
    Ok { control_session_id: i64, relevant_id: i64, version: i32 },
    Challenge { control_session_id: i64 },
    Refused { code: i64, message: String },
}
