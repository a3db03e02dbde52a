//! Bodies of requests (spec 03 §2.2).

use super::SourceLocation;

/// Parameters of a replay; bounded when it has a limit counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayRequest<'a> {
    /// Recording id.
    pub recording_id: i64,
    /// Position at which the replay starts, bytes; -1 for the start of the recording.
    pub position: i64,
    /// Bytes to replay; -1 follows the recording, -2 replays up to the current recorded position.
    pub length: i64,
    /// Counter that limits the replay; `None` for one without a limit.
    pub limit_counter_id: Option<i32>,
    /// Stream of the replay.
    pub stream_id: i32,
    /// Most bytes of a read; -1 for the archive's setting.
    pub file_io_max_length: i32,
    /// Token of a replay over a response channel; -1 for none.
    pub replay_token: i64,
    /// Channel of the replay.
    pub channel: &'a str,
}

/// Parameters of a replication (spec 03 §5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicateRequest<'a> {
    /// Recording id at the source.
    pub source_recording_id: i64,
    /// Recording to extend; -1 makes a new one.
    pub target_recording_id: i64,
    /// Position at which the replication stops, bytes; -1 for the end of the source.
    pub stop_position: i64,
    /// Channel tag of the subscription; -1 for none.
    pub channel_tag_id: i64,
    /// Entity tag of the subscription; -1 for none.
    pub subscription_tag_id: i64,
    /// Control stream of the source.
    pub source_control_stream_id: i32,
    /// Most bytes of a read at the source; -1 for its setting.
    pub file_io_max_length: i32,
    /// Session id of the replayed stream; -1 for the source recording's.
    pub replication_session_id: i32,
    /// Control channel of the source.
    pub source_control_channel: &'a str,
    /// Destination of the live stream to merge with; empty for none.
    pub live_destination: &'a str,
    /// Channel over which the source replays; empty for the archive's setting.
    pub replication_channel: &'a str,
    /// Encoded credentials for the source; empty for none.
    pub credentials: &'a [u8],
    /// Response channel towards the source; empty for the archive's setting.
    pub source_response_channel: &'a str,
}

/// Body of a request (spec 03 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody<'a> {
    /// Connect, messages 2 and 58.
    Connect {
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Protocol version of the sender, as a packed semantic version.
        version: i32,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
        /// Name and version of the client as text; empty from older clients.
        client_info: &'a str,
    },
    /// Close the control session, message 3.
    CloseSession,
    /// Answer a challenge, message 60.
    ChallengeResponse {
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
    },
    /// Keep the control session alive, message 61.
    KeepAlive,
    /// Ask for the archive's id, message 68.
    ArchiveId,
    /// Record a channel and stream, messages 4 and 63.
    StartRecording {
        /// Stream id.
        stream_id: i32,
        /// Location of the recorded publication.
        location: SourceLocation,
        /// Stop the recording when its image ends.
        auto_stop: bool,
        /// Channel URI.
        channel: &'a str,
    },
    /// Extend a recording with a stream, messages 11 and 64.
    ExtendRecording {
        /// Recording id.
        recording_id: i64,
        /// Stream id.
        stream_id: i32,
        /// Location of the recorded publication.
        location: SourceLocation,
        /// Stop the recording when its image ends.
        auto_stop: bool,
        /// Channel URI.
        channel: &'a str,
    },
    /// Stop recording a channel and stream, message 5.
    StopRecording {
        /// Stream id.
        stream_id: i32,
        /// Channel URI.
        channel: &'a str,
    },
    /// Stop the recordings of a subscription, message 14.
    StopRecordingSubscription {
        /// Registration id of the recording's subscription.
        subscription_id: i64,
    },
    /// Stop one recording, message 65.
    StopRecordingByIdentity {
        /// Recording id.
        recording_id: i64,
    },
    /// Replay a recording, messages 6 and 18.
    Replay(ReplayRequest<'a>),
    /// Stop one replay, message 7.
    StopReplay {
        /// Replay session, as the answer to the replay request named it.
        replay_session_id: i64,
    },
    /// Stop the replays of a recording, message 19.
    StopAllReplays {
        /// Recording id; -1 for the replays of all recordings.
        recording_id: i64,
    },
    /// List recordings, message 8.
    ListRecordings {
        /// First recording id of the page.
        from_recording_id: i64,
        /// Most descriptors to return.
        count: i32,
    },
    /// List the recordings of a channel and stream, message 9.
    ListRecordingsForUri {
        /// First recording id of the page.
        from_recording_id: i64,
        /// Most descriptors to return.
        count: i32,
        /// Stream id that must be equal.
        stream_id: i32,
        /// Text that the channel must contain.
        channel: &'a str,
    },
    /// Describe one recording, message 10.
    ListRecording {
        /// Recording id.
        recording_id: i64,
    },
    /// List recording subscriptions, message 17.
    ListRecordingSubscriptions {
        /// Index of the first subscription.
        pseudo_index: i32,
        /// Most descriptors to return.
        count: i32,
        /// True when the stream id must match.
        applies_stream_id: bool,
        /// Stream id.
        stream_id: i32,
        /// Text that the channel must contain.
        channel: &'a str,
    },
    /// Find the last recording of a session, message 16.
    FindLastMatchingRecording {
        /// Lowest recording id to consider.
        min_recording_id: i64,
        /// Session id.
        session_id: i32,
        /// Stream id.
        stream_id: i32,
        /// Text that the channel must contain.
        channel: &'a str,
    },
    /// Ask for the position of an active recording, message 12.
    RecordingPosition {
        /// Recording id.
        recording_id: i64,
    },
    /// Ask for the start position of a recording, message 52.
    StartPosition {
        /// Recording id.
        recording_id: i64,
    },
    /// Ask for the stop position of a recording, message 15.
    StopPosition {
        /// Recording id.
        recording_id: i64,
    },
    /// Ask for the last recorded position of a recording, active or not, message 67.
    MaxRecordedPosition {
        /// Recording id.
        recording_id: i64,
    },
    /// Truncate a stopped recording, message 13.
    TruncateRecording {
        /// Recording id.
        recording_id: i64,
        /// New stop position, bytes; the start of a frame.
        position: i64,
    },
    /// Delete a recording with its segments, message 104.
    PurgeRecording {
        /// Recording id.
        recording_id: i64,
    },
    /// Move the start of a recording; the segments before it stay, message 53.
    DetachSegments {
        /// Recording id.
        recording_id: i64,
        /// New start position, bytes; the start of a segment.
        new_start_position: i64,
    },
    /// Delete the segments before the start of a recording, message 54.
    DeleteDetachedSegments {
        /// Recording id.
        recording_id: i64,
    },
    /// Move the start of a recording and delete the segments before it, message 55.
    PurgeSegments {
        /// Recording id.
        recording_id: i64,
        /// New start position, bytes; the start of a segment.
        new_start_position: i64,
    },
    /// Attach segments before the start of a recording, message 56.
    AttachSegments {
        /// Recording id.
        recording_id: i64,
    },
    /// Move segments to the start or end of another recording, message 57.
    MigrateSegments {
        /// Recording whose segments move.
        source_recording_id: i64,
        /// Recording that receives the segments.
        target_recording_id: i64,
    },
    /// Change the channel of a recording, message 107.
    UpdateChannel {
        /// Recording id.
        recording_id: i64,
        /// New channel.
        channel: &'a str,
    },
    /// Ask for a token of a replay over a response channel, message 105.
    ReplayToken {
        /// Recording id.
        recording_id: i64,
    },
    /// Stop a replication, message 51.
    StopReplication {
        /// Id of the replication.
        replication_id: i64,
    },
    /// Replication in any form; encoded in the newest.
    Replicate(ReplicateRequest<'a>),
}
