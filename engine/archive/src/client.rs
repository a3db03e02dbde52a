//! Non-blocking client of an archive: answers are polled (spec 03 §2.6, §2.7).

mod connect;
mod params;
mod requests;

pub use params::ReplicationParams;
pub use requests::ReplayOptions;

use std::collections::VecDeque;

use harrier_client::{Aeron, ClientError, ExclusivePublication, Subscription};
use harrier_protocol::sbe::SbeError;
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::{Now, Rng};
use thiserror::Error;

use crate::codec::{ArchiveErrorCode, ControlCode, ReplayRequest, Request, RequestBody, Response, Signal};
use crate::descriptor::RecordingDescriptor;
use connect::Stage;

pub use crate::counters::{find_by_recording, find_by_session as find_recording_counter};

/// Settings of an archive client (spec 03 §6.3). Times are ns.
#[derive(Debug, Clone)]
pub struct ArchiveClientContext {
    /// Channel on which the archive listens.
    pub control_request_channel: String,
    /// Stream on which the archive listens.
    pub control_request_stream_id: i32,
    /// Channel on which the archive answers.
    pub control_response_channel: String,
    /// Stream on which the archive answers.
    pub control_response_stream_id: i32,
    /// Time after which connecting fails, ns.
    pub message_timeout_ns: i64,
    /// Credentials for the archive's authenticator.
    pub credentials: Vec<u8>,
    /// Answer to a challenge.
    pub challenge_answer: Vec<u8>,
    /// Client name in the archive's counters; at most 100 characters.
    pub client_name: String,
    /// Term length of the control streams, bytes.
    pub control_term_buffer_length: i32,
    /// MTU of the control streams, bytes.
    pub control_mtu_length: i32,
    /// Seed of the session id that both control streams share.
    pub seed: u64,
}

impl ArchiveClientContext {
    /// Settings for an archive on the same driver.
    pub fn ipc() -> Self {
        Self {
            control_request_channel: "aeron:ipc".into(),
            control_request_stream_id: 10,
            control_response_channel: "aeron:ipc".into(),
            control_response_stream_id: 20,
            message_timeout_ns: 10_000_000_000,
            credentials: Vec::new(),
            challenge_answer: Vec::new(),
            client_name: String::new(),
            control_term_buffer_length: 64 << 10,
            control_mtu_length: 1_408,
            seed: 0,
        }
    }

    /// Settings for an archive over UDP: `request` is the archive's channel, `response` the client's own.
    pub fn udp(request: impl Into<String>, response: impl Into<String>) -> Self {
        Self {
            control_request_channel: request.into(),
            control_response_channel: response.into(),
            ..Self::ipc()
        }
    }
}

/// Errors of an archive client.
#[derive(Debug, Error)]
pub enum ArchiveClientError {
    /// The driver refused a stream, or is gone.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The archive did not answer in time.
    #[error("no connection to the archive at {channel} within {timeout_ns} ns: {stage}; is it running?")]
    Timeout {
        /// The request channel.
        channel: String,
        /// The timeout.
        timeout_ns: i64,
        /// Step that timed out.
        stage: &'static str,
    },
    /// The archive refused the connection.
    #[error("archive refused the connection: error {code}: {message}")]
    Refused {
        /// Error code of spec 03 §1.2.
        code: i64,
        /// Error text of the archive.
        message: String,
    },
    /// The archive has gone, or has closed the session.
    #[error("archive at {channel} is disconnected")]
    Disconnected {
        /// The request channel.
        channel: String,
    },
    /// The request was not accepted; try again.
    #[error("the control stream is back-pressured; retry")]
    BackPressured,
    /// Parameters that contradict each other.
    #[error("{0}")]
    Parameters(&'static str),
    /// The client is not connected yet.
    #[error("the client is not connected to the archive yet; poll it")]
    NotConnected,
    /// An answer that cannot be read.
    #[error("undecodable answer of the archive: {0}")]
    Answer(#[from] SbeError),
}

/// An answer of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveAnswer {
    /// The request was carried out.
    Ok {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Id that the request asked for or made; its meaning depends on the request (spec 03 §2.8).
        relevant_id: i64,
    },
    /// The request was refused or has failed.
    Error {
        /// Correlation id of the command that has failed.
        correlation_id: i64,
        /// Error code, see [`ArchiveErrorCode`].
        code: i64,
        /// Text of the error.
        message: String,
    },
    /// There is no such recording, or no further one in a listing.
    RecordingUnknown {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Recording id that was asked for.
        recording_id: i64,
    },
    /// There is no further recording subscription in a listing.
    SubscriptionUnknown {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Subscription id that was asked for.
        relevant_id: i64,
    },
    /// A recording of a listing.
    Descriptor {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Descriptor of the recording.
        descriptor: Box<RecordingDescriptor>,
    },
    /// A recording subscription of a listing.
    SubscriptionDescriptor {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Registration id of the recording's subscription.
        subscription_id: i64,
        /// Stream id.
        stream_id: i32,
        /// Channel of the subscription, without parameters that do not name it.
        channel: String,
    },
    /// Something has happened to a recording.
    Signal {
        /// Correlation id of the request that the signal belongs to.
        correlation_id: i64,
        /// Recording id.
        recording_id: i64,
        /// Registration id of the recording's subscription; -1 for none.
        subscription_id: i64,
        /// Position of the recording at that moment, bytes.
        position: i64,
        /// Kind of signal.
        signal: Signal,
    },
}

impl ArchiveAnswer {
    /// Correlation id of the request that is answered.
    pub fn correlation_id(&self) -> i64 {
        match self {
            Self::Ok { correlation_id, .. }
            | Self::Error { correlation_id, .. }
            | Self::RecordingUnknown { correlation_id, .. }
            | Self::SubscriptionUnknown { correlation_id, .. }
            | Self::Descriptor { correlation_id, .. }
            | Self::SubscriptionDescriptor { correlation_id, .. }
            | Self::Signal { correlation_id, .. } => *correlation_id,
        }
    }

    /// Interprets the answer to a stop request: `Some(true)` when something was stopped, `Some(false)` when nothing was
    /// running, `None` for any other answer, including errors (spec 03 §2.7, "try").
    pub fn as_stopped(&self) -> Option<bool> {
        const NOTHING_TO_STOP: [ArchiveErrorCode; 2] =
            [ArchiveErrorCode::UnknownSubscription, ArchiveErrorCode::UnknownReplication];
        match self {
            Self::Ok { .. } => Some(true),
            Self::Error { code, .. } if NOTHING_TO_STOP.iter().any(|ignored| *ignored as i64 == *code) => {
                Some(false)
            }
            _ => None,
        }
    }
}

/// Fragments read per poll.
const FRAGMENT_LIMIT: usize = 10;

/// A client of one archive. [`poll`](Self::poll) connects it and keeps it alive; requests return their correlation id
/// at once, answers come from [`poll_answer`](Self::poll_answer).
pub struct ArchiveClient {
    context: ArchiveClientContext,
    rng: Rng,
    stage: Stage,
    deadline_ns: Option<i64>,
    subscription: Option<Subscription>,
    publication: Option<ExclusivePublication>,
    assembler: FragmentAssembler,
    control_session_id: i64,
    archive_id: i64,
    answers: VecDeque<ArchiveAnswer>,
    buffer: Vec<u8>,
    now_ns: i64,
}

impl ArchiveClient {
    /// Creates a client that is not connected yet.
    pub fn new(context: ArchiveClientContext) -> Self {
        Self {
            rng: Rng::new(context.seed),
            context,
            stage: Stage::Begin,
            deadline_ns: None,
            subscription: None,
            publication: None,
            assembler: FragmentAssembler::new(),
            control_session_id: -1,
            archive_id: -1,
            answers: VecDeque::new(),
            buffer: vec![0; 4_096],
            now_ns: 0,
        }
    }

    /// True once requests are accepted.
    pub fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Connected)
    }

    /// Id of the control session; -1 before the client is connected.
    pub fn control_session_id(&self) -> i64 {
        self.control_session_id
    }

    /// Id of the archive; -1 when it is not known.
    pub fn archive_id(&self) -> i64 {
        self.archive_id
    }

    /// Connects, or reads answers.
    ///
    /// # Errors
    /// See [`ArchiveClientError`]; after an error the client is unusable.
    pub fn poll(&mut self, aeron: &mut Aeron, now: &Now) -> Result<usize, ArchiveClientError> {
        self.now_ns = now.ns;
        if !self.is_connected() {
            return self.go_on_connecting(aeron, now.ns);
        }
        let work_count = self.read_answers()?;
        if self.subscription.as_mut().is_some_and(|subscription| subscription.images().is_empty())
            && self.answers.is_empty()
        {
            return Err(ArchiveClientError::Disconnected {
                channel: self.context.control_request_channel.clone(),
            });
        }
        Ok(work_count)
    }

    /// Takes the next answer.
    pub fn poll_answer(&mut self) -> Option<ArchiveAnswer> {
        self.answers.pop_front()
    }

    /// Ends the session and its streams.
    pub fn close(&mut self) {
        if self.control_session_id != -1 {
            let request = Request {
                control_session_id: self.control_session_id,
                correlation_id: -1,
                body: RequestBody::CloseSession,
            };
            // The archive detects the end of the session even if this message is lost.
            let _unsent = self.offer(&request);
        }
        self.publication = None;
        self.subscription = None;
        self.control_session_id = -1;
        self.stage = Stage::Closed;
    }

    fn read_answers(&mut self) -> Result<usize, ArchiveClientError> {
        let Some(subscription) = &mut self.subscription else { return Ok(0) };
        let (assembler, answers, session_id) =
            (&mut self.assembler, &mut self.answers, self.control_session_id);
        let mut failure = None;
        let work_count = subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| match Response::decode(message) {
                Ok(Some(response)) => answers.extend(answer_of(response, session_id)),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            });
        });
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(work_count),
        }
    }

    /// Sends a request of the session; returns its correlation id.
    fn request(&mut self, aeron: &Aeron, body: RequestBody<'_>) -> Result<i64, ArchiveClientError> {
        if !self.is_connected() {
            return Err(ArchiveClientError::NotConnected);
        }
        let correlation_id = aeron.next_correlation_id();
        let request = Request { control_session_id: self.control_session_id, correlation_id, body };
        self.offer(&request)?;
        Ok(correlation_id)
    }

    /// Returns the channel and stream of a further request stream that requests a replay over a response channel.
    /// `subscription_id` is the registration id of the subscription that will receive it (spec 03 §5.3).
    ///
    /// # Errors
    /// A request channel that cannot be parsed.
    pub fn request_channel_for(&self, subscription_id: i64) -> Result<(String, i32), ArchiveClientError> {
        let channel = &self.context.control_request_channel;
        let mut uri = ChannelUri::parse(channel).map_err(|error| ClientError::InvalidArgument {
            argument: "control channel",
            reason: error.to_string(),
        })?;
        for name in [
            key::SESSION_ID,
            key::INITIAL_TERM_ID,
            key::TERM_ID,
            key::TERM_OFFSET,
            key::SPIES_SIMULATE_CONNECTION,
        ] {
            uri.remove(name);
        }
        uri.put(key::TERM_LENGTH, 64 << 10);
        uri.put(key::RESPONSE_CORRELATION_ID, subscription_id);
        Ok((uri.to_string(), self.context.control_request_stream_id))
    }

    /// Requests a replay by its token on a further request stream, see
    /// [`request_channel_for`](Self::request_channel_for) and [`replay_token`](Self::replay_token). The answer arrives
    /// like any other.
    ///
    /// # Errors
    /// Like all requests.
    pub fn replay_on(
        &mut self,
        publication: &mut ExclusivePublication,
        correlation_id: i64,
        request: ReplayRequest<'_>,
    ) -> Result<i64, ArchiveClientError> {
        let body = RequestBody::Replay(request);
        let request = Request { control_session_id: self.control_session_id, correlation_id, body };
        let length = self.encode(&request)?;
        match publication.offer(&self.buffer[..length]) {
            Ok(_) => Ok(correlation_id),
            Err(OfferError::AdminAction | OfferError::BackPressured) => {
                Err(ArchiveClientError::BackPressured)
            }
            Err(_) => Err(ArchiveClientError::Disconnected {
                channel: self.context.control_request_channel.clone(),
            }),
        }
    }

    fn encode(&mut self, request: &Request<'_>) -> Result<usize, ArchiveClientError> {
        match request.encode(&mut self.buffer) {
            Ok(length) => Ok(length),
            Err(SbeError::BufferTooSmall { required, .. }) => {
                self.buffer.resize(required, 0);
                Ok(request.encode(&mut self.buffer)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn offer(&mut self, request: &Request<'_>) -> Result<(), ArchiveClientError> {
        let length = self.encode(request)?;
        let Some(publication) = &mut self.publication else { return Err(ArchiveClientError::NotConnected) };
        for _ in 0..3 {
            match publication.offer(&self.buffer[..length]) {
                Ok(_) => return Ok(()),
                Err(OfferError::AdminAction) => {}
                Err(OfferError::BackPressured) => return Err(ArchiveClientError::BackPressured),
                Err(_) => {
                    return Err(ArchiveClientError::Disconnected {
                        channel: self.context.control_request_channel.clone(),
                    });
                }
            }
        }
        Err(ArchiveClientError::BackPressured)
    }
}

fn answer_of(response: Response<'_>, session_id: i64) -> Option<ArchiveAnswer> {
    let (control_session_id, answer) = match response {
        Response::Control { control_session_id, correlation_id, relevant_id, code, message, .. } => {
            let answer = match code {
                ControlCode::Ok => ArchiveAnswer::Ok { correlation_id, relevant_id },
                ControlCode::Error => {
                    ArchiveAnswer::Error { correlation_id, code: relevant_id, message: message.to_owned() }
                }
                ControlCode::RecordingUnknown => {
                    ArchiveAnswer::RecordingUnknown { correlation_id, recording_id: relevant_id }
                }
                ControlCode::SubscriptionUnknown => {
                    ArchiveAnswer::SubscriptionUnknown { correlation_id, relevant_id }
                }
            };
            (control_session_id, answer)
        }
        Response::Descriptor { control_session_id, correlation_id, descriptor } => {
            (control_session_id, ArchiveAnswer::Descriptor { correlation_id, descriptor })
        }
        Response::SubscriptionDescriptor {
            control_session_id,
            correlation_id,
            subscription_id,
            stream_id,
            channel,
        } => {
            let channel = channel.to_owned();
            let answer =
                ArchiveAnswer::SubscriptionDescriptor { correlation_id, subscription_id, stream_id, channel };
            (control_session_id, answer)
        }
        Response::Signal {
            control_session_id,
            correlation_id,
            recording_id,
            subscription_id,
            position,
            signal,
        } => {
            let answer =
                ArchiveAnswer::Signal { correlation_id, recording_id, subscription_id, position, signal };
            (control_session_id, answer)
        }
        Response::Challenge { .. } | Response::Ping { .. } => return None,
    };
    (control_session_id == session_id).then_some(answer)
}
