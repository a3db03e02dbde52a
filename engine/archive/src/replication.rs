//! State of one replication (spec 03 §5.4).

use harrier_client::ExclusivePublication;
use harrier_protocol::uri::{ChannelUri, ControlMode, UriError, key};

use crate::archive::CatalogTicket;
use crate::client::{ArchiveAnswer, ArchiveClient};
use crate::codec::ReplicateRequest;
use crate::descriptor::RecordingDescriptor;

/// First pause between two position requests to the source, ns; doubled each time.
const FIRST_PAUSE_NS: i64 = 16_000_000;
/// Longest such pause, ns.
const MAX_PAUSE_NS: i64 = 500_000_000;
/// Consecutive "not active" answers of the source after which the replication fails.
pub(crate) const MAX_RETRIES: u32 = 3;
/// Maximum distance to the live stream at which its destination is added, bytes.
const MAX_LIVE_WINDOW: i64 = 32 << 20;

/// State of a replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplicationState {
    Connect,
    ReplicateDescriptor { correlation_id: Option<i64> },
    AwaitTarget { is_new: bool },
    SourceRecordingPosition { correlation_id: Option<i64> },
    Extend,
    AwaitExtension,
    AddReplayDestination { command_id: i64 },
    ReplayToken { correlation_id: Option<i64> },
    AwaitProxy { publication_id: i64 },
    Replay { correlation_id: Option<i64> },
    AwaitImage,
    Replicate,
    CatchUp,
    AttemptLiveJoin { correlation_id: Option<i64> },
    AddLiveDestination { command_id: i64 },
    RemoveReplayDestination { command_id: i64, position: i64 },
}

impl ReplicationState {
    /// Name of the state in error texts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ReplicateDescriptor { .. } | Self::AwaitTarget { .. } => "REPLICATE_DESCRIPTOR",
            Self::SourceRecordingPosition { .. } => "SRC_RECORDING_POSITION",
            Self::Extend | Self::AwaitExtension | Self::AddReplayDestination { .. } => "EXTEND",
            Self::ReplayToken { .. } => "REPLAY_TOKEN",
            Self::AwaitProxy { .. } => "GET_ARCHIVE_PROXY",
            Self::Replay { .. } => "REPLAY",
            Self::AwaitImage => "AWAIT_IMAGE",
            Self::Replicate => "REPLICATE",
            Self::CatchUp => "CATCHUP",
            Self::AttemptLiveJoin { .. }
            | Self::AddLiveDestination { .. }
            | Self::RemoveReplayDestination { .. } => "ATTEMPT_LIVE_JOIN",
        }
    }

    /// True when the state has a deadline. Copying has none because its duration depends on the recording.
    pub(crate) fn has_deadline(self) -> bool {
        self != Self::Replicate
    }
}

/// Parameters of a replication request.
#[derive(Debug, Clone)]
pub(crate) struct ReplicationSetup {
    pub(crate) source_recording_id: i64,
    pub(crate) target_recording_id: i64,
    pub(crate) stop_position: i64,
    tags: Option<(i64, i64)>,
    pub(crate) file_io_max_length: i32,
    pub(crate) replication_session_id: i32,
    pub(crate) live_destination: Option<String>,
    pub(crate) channel: ChannelUri,
    /// True when the replay arrives over a response channel.
    pub(crate) is_response: bool,
}

impl ReplicationSetup {
    /// Validates a request. A missing channel becomes the archive's default, missing tags the replication's own.
    ///
    /// # Errors
    /// An invalid request, with its error code and text.
    pub(crate) fn new(
        request: &ReplicateRequest<'_>,
        default: Option<&str>,
        id: i64,
    ) -> Result<Self, String> {
        let channel = match (request.replication_channel, default) {
            ("", None) => {
                return Err(
                    "no replication channel: set aeron.archive.replication.channel or name one".into()
                );
            }
            ("", Some(channel)) => channel,
            (channel, _) => channel,
        };
        let channel = ChannelUri::parse(channel).map_err(|error: UriError| error.to_string())?;
        let is_live = !request.live_destination.is_empty();
        let is_tagged = request.channel_tag_id != -1 || request.subscription_tag_id != -1;
        let is_response = channel.control_mode() == Some(ControlMode::Response);
        if is_response && is_live {
            return Err("response channels can't be used with live destinations".into());
        }
        if is_response && is_tagged {
            return Err("response channels can't be used with tagged replication".into());
        }
        if is_live && !channel.is_udp() {
            return Err(format!("replication channel {channel} must be UDP to merge with a live stream"));
        }
        let tag = |tag: i64| if tag == -1 { id } else { tag };
        Ok(Self {
            source_recording_id: request.source_recording_id,
            target_recording_id: request.target_recording_id,
            stop_position: request.stop_position,
            tags: (is_live || is_tagged)
                .then(|| (tag(request.channel_tag_id), tag(request.subscription_tag_id))),
            file_io_max_length: request.file_io_max_length,
            replication_session_id: request.replication_session_id,
            live_destination: is_live.then(|| request.live_destination.to_owned()),
            channel,
            is_response,
        })
    }

    /// True when replay and live stream use separate destinations.
    pub(crate) fn is_multi_destination(&self) -> bool {
        self.tags.is_some()
    }

    /// Session id requested for the replayed stream.
    pub(crate) fn session_id(&self, source: &RecordingDescriptor) -> i32 {
        match self.live_destination.is_none() && self.replication_session_id != -1 {
            true => self.replication_session_id,
            false => source.session_id,
        }
    }

    /// Channel of the recording subscription.
    pub(crate) fn recorded_channel(&self, source: &RecordingDescriptor) -> String {
        let mut uri = self.channel.clone();
        uri.put(key::REJOIN, false);
        if !self.is_response {
            uri.put(key::SESSION_ID, self.session_id(source));
        }
        if let Some((channel, subscription)) = self.tags {
            uri.remove(key::ENDPOINT);
            uri.put(key::TAGS, format_args!("{channel},{subscription}"));
            uri.put(key::CONTROL_MODE, "manual");
        }
        uri.to_string()
    }

    /// Destination that receives the replay when there are several.
    pub(crate) fn replay_destination(&self) -> String {
        let mut uri = ChannelUri::udp();
        for key in [key::ENDPOINT, key::INTERFACE] {
            if let Some(value) = self.channel.get(key) {
                uri.put(key, value);
            }
        }
        uri.to_string()
    }

    /// Channel on which the source is asked to replay; `endpoint` is the bound one.
    pub(crate) fn replay_channel(&self, source: &RecordingDescriptor, endpoint: Option<&str>) -> String {
        let mut uri = self.channel.clone();
        if let Some(endpoint) = endpoint {
            uri.put(key::ENDPOINT, endpoint);
        }
        if !self.is_response {
            uri.put(key::SESSION_ID, self.session_id(source));
        }
        if self.live_destination.is_some() {
            uri.put(key::LINGER, 0);
            uri.put(key::EOS, false);
        }
        uri.to_string()
    }
}

/// A replication in progress.
pub(crate) struct Replication {
    pub(crate) id: i64,
    pub(crate) control_session_id: i64,
    pub(crate) setup: ReplicationSetup,
    pub(crate) state: ReplicationState,
    pub(crate) deadline_ns: i64,
    pub(crate) client: ArchiveClient,
    pub(crate) source: Option<RecordingDescriptor>,
    /// Pending write of the target's catalog entry.
    pub(crate) ticket: Option<CatalogTicket>,
    /// Recording being written; -1 before it exists.
    pub(crate) target_recording_id: i64,
    /// Last known position of the source.
    pub(crate) source_position: i64,
    /// Last position of the copy, used to detect progress.
    pub(crate) last_position: i64,
    pub(crate) subscription_id: Option<i64>,
    pub(crate) replay_session_id: Option<i64>,
    /// Token for a replay request on another stream, and that stream.
    pub(crate) replay_token: i64,
    pub(crate) proxy: Option<ExclusivePublication>,
    pub(crate) is_live_added: bool,
    pub(crate) is_merged: bool,
    pub(crate) is_aborted: bool,
    pub(crate) retries: u32,
    pause_ns: i64,
    next_question_ns: i64,
}

impl Replication {
    pub(crate) fn new(
        id: i64,
        control_session_id: i64,
        setup: ReplicationSetup,
        client: ArchiveClient,
        deadline_ns: i64,
    ) -> Self {
        Self {
            id,
            control_session_id,
            target_recording_id: setup.target_recording_id,
            setup,
            state: ReplicationState::Connect,
            deadline_ns,
            client,
            source: None,
            ticket: None,
            source_position: -1,
            last_position: -1,
            subscription_id: None,
            replay_session_id: None,
            replay_token: -1,
            proxy: None,
            is_live_added: false,
            is_merged: false,
            is_aborted: false,
            retries: 0,
            pause_ns: FIRST_PAUSE_NS,
            next_question_ns: 0,
        }
    }

    /// Distance to the live stream at which its destination is added, bytes.
    pub(crate) fn live_window(&self) -> i64 {
        let term_length = self.source.as_ref().map_or(0, |source| i64::from(source.term_buffer_length));
        (term_length / 4).min(MAX_LIVE_WINDOW)
    }

    /// True when the source may be asked for its position again; doubles the pause.
    pub(crate) fn may_ask(&mut self, now_ns: i64) -> bool {
        if now_ns < self.next_question_ns {
            return false;
        }
        self.next_question_ns = now_ns + self.pause_ns;
        self.pause_ns = (self.pause_ns * 2).min(MAX_PAUSE_NS);
        true
    }

    /// Resets the pause between position requests.
    pub(crate) fn ask_soon(&mut self) {
        self.pause_ns = FIRST_PAUSE_NS;
        self.next_question_ns = 0;
    }

    /// Takes the answer to `wanted` and skips other answers. Any error of the source ends the replication.
    ///
    /// # Errors
    /// The source's words.
    pub(crate) fn take_answer(&mut self, wanted: Option<i64>) -> Result<Option<ArchiveAnswer>, String> {
        while let Some(answer) = self.client.poll_answer() {
            if let ArchiveAnswer::Error { code, message, .. } = &answer {
                return Err(format!("source archive: error {code}: {message}"));
            }
            let is_signal = matches!(answer, ArchiveAnswer::Signal { .. });
            if !is_signal && Some(answer.correlation_id()) == wanted {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}
