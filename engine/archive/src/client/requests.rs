//! The requests of a connected client (spec 03 §2.2, §2.8).

use harrier_client::Aeron;

use super::{ArchiveClient, ArchiveClientError, ReplicationParams};
use crate::codec::{ReplayRequest, ReplicateRequest, RequestBody, SourceLocation};

/// Optional parameters of a replay.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplayOptions {
    /// Counter that limits the replay.
    pub limit_counter_id: Option<i32>,
    /// Maximum bytes of one read.
    pub file_io_max_length: Option<i32>,
}

type Sent = Result<i64, ArchiveClientError>;

impl ArchiveClient {
    /// Records every image of a stream. The answer's relevant id is the subscription id; signals follow.
    ///
    /// # Errors
    /// Like all requests: [`ArchiveClientError::BackPressured`] asks for a retry.
    pub fn start_recording(
        &mut self,
        aeron: &Aeron,
        channel: &str,
        stream_id: i32,
        location: SourceLocation,
        auto_stop: bool,
    ) -> Sent {
        self.request(aeron, RequestBody::StartRecording { stream_id, location, auto_stop, channel })
    }

    /// Extends a stopped recording.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn extend_recording(
        &mut self,
        aeron: &Aeron,
        recording_id: i64,
        channel: &str,
        stream_id: i32,
        location: SourceLocation,
        auto_stop: bool,
    ) -> Sent {
        self.request(
            aeron,
            RequestBody::ExtendRecording { recording_id, stream_id, location, auto_stop, channel },
        )
    }

    /// Stops recording a channel.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn stop_recording(&mut self, aeron: &Aeron, channel: &str, stream_id: i32) -> Sent {
        self.request(aeron, RequestBody::StopRecording { stream_id, channel })
    }

    /// Stops the recording subscription of a start or extend request.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn stop_recording_by_subscription(&mut self, aeron: &Aeron, subscription_id: i64) -> Sent {
        self.request(aeron, RequestBody::StopRecordingSubscription { subscription_id })
    }

    /// Stops one recording. The answer's relevant id is 1 when it was active.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn stop_recording_by_identity(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::StopRecordingByIdentity { recording_id })
    }

    /// Replays `length` bytes from `position` on (-1: from the start; length -1: all, following a live recording; -2:
    /// up to the current recorded position). The answer's relevant id is the replay session id, whose low 32 bits are
    /// the stream's session id.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    #[expect(clippy::too_many_arguments, reason = "the parameters of the request")]
    pub fn replay(
        &mut self,
        aeron: &Aeron,
        recording_id: i64,
        position: i64,
        length: i64,
        channel: &str,
        stream_id: i32,
        options: ReplayOptions,
    ) -> Sent {
        self.request(
            aeron,
            RequestBody::Replay(ReplayRequest {
                recording_id,
                position,
                length,
                limit_counter_id: options.limit_counter_id,
                stream_id,
                file_io_max_length: options.file_io_max_length.unwrap_or(-1),
                replay_token: -1,
                channel,
            }),
        )
    }

    /// Stops a replay.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn stop_replay(&mut self, aeron: &Aeron, replay_session_id: i64) -> Sent {
        self.request(aeron, RequestBody::StopReplay { replay_session_id })
    }

    /// Stops all replays of a recording; -1 stops all replays.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn stop_all_replays(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::StopAllReplays { recording_id })
    }

    /// Copies a recording of the archive that listens on `source_control_channel` into this client's archive. The
    /// answer's relevant id is the replication id; signals and errors that carry it as correlation id follow,
    /// REPLICATE_END last.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording), and parameters that contradict each other.
    pub fn replicate(
        &mut self,
        aeron: &Aeron,
        source_recording_id: i64,
        source_control_stream_id: i32,
        source_control_channel: &str,
        params: &ReplicationParams,
    ) -> Sent {
        params.check()?;
        self.request(
            aeron,
            RequestBody::Replicate(ReplicateRequest {
                source_recording_id,
                target_recording_id: params.target_recording_id,
                stop_position: params.stop_position,
                channel_tag_id: params.channel_tag_id,
                subscription_tag_id: params.subscription_tag_id,
                source_control_stream_id,
                file_io_max_length: params.file_io_max_length,
                replication_session_id: params.replication_session_id,
                source_control_channel,
                live_destination: &params.live_destination,
                replication_channel: &params.replication_channel,
                credentials: &params.credentials,
                source_response_channel: &params.source_response_channel,
            }),
        )
    }

    /// Stops a replication. An unknown one, which may have ended, is an error that
    /// [`ArchiveAnswer::as_stopped`](super::ArchiveAnswer::as_stopped) reads as "was not running".
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn stop_replication(&mut self, aeron: &Aeron, replication_id: i64) -> Sent {
        self.request(aeron, RequestBody::StopReplication { replication_id })
    }

    /// Asks for one descriptor.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn list_recording(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::ListRecording { recording_id })
    }

    /// Asks for up to `count` descriptors from an id on.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn list_recordings(&mut self, aeron: &Aeron, from_recording_id: i64, count: i32) -> Sent {
        self.request(aeron, RequestBody::ListRecordings { from_recording_id, count })
    }

    /// Asks for up to `count` descriptors of a stream whose channel contains `channel`.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn list_recordings_for_uri(
        &mut self,
        aeron: &Aeron,
        from_recording_id: i64,
        count: i32,
        channel: &str,
        stream_id: i32,
    ) -> Sent {
        self.request(
            aeron,
            RequestBody::ListRecordingsForUri { from_recording_id, count, stream_id, channel },
        )
    }

    /// Asks for the id of the last recording of a session whose channel contains `channel`.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn find_last_matching_recording(
        &mut self,
        aeron: &Aeron,
        min_recording_id: i64,
        channel: &str,
        stream_id: i32,
        session_id: i32,
    ) -> Sent {
        self.request(
            aeron,
            RequestBody::FindLastMatchingRecording { min_recording_id, session_id, stream_id, channel },
        )
    }

    /// Asks for the start position of a recording.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn start_position(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::StartPosition { recording_id })
    }

    /// Asks for the position of an active recording; -1 when it is not active.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn recording_position(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::RecordingPosition { recording_id })
    }

    /// Asks for the stop position of a recording; -1 while it is active.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn stop_position(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::StopPosition { recording_id })
    }

    /// Asks for the last recorded position of a recording, active or not.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn max_recorded_position(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::MaxRecordedPosition { recording_id })
    }

    /// Truncates a recording at a position. A DELETE signal follows once the files are deleted.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn truncate_recording(&mut self, aeron: &Aeron, recording_id: i64, position: i64) -> Sent {
        self.request(aeron, RequestBody::TruncateRecording { recording_id, position })
    }

    /// Deletes a recording. A DELETE signal follows once the files are deleted.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn purge_recording(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::PurgeRecording { recording_id })
    }

    /// Moves the start of a recording to a later segment; the earlier files stay. The position must be the start of a
    /// segment.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn detach_segments(&mut self, aeron: &Aeron, recording_id: i64, new_start_position: i64) -> Sent {
        self.request(aeron, RequestBody::DetachSegments { recording_id, new_start_position })
    }

    /// Deletes the files before a recording's start. The answer's relevant id is their number; a DELETE signal follows.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn delete_detached_segments(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::DeleteDetachedSegments { recording_id })
    }

    /// Detaches segments and deletes them. The answer's relevant id is their number; a DELETE signal follows.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn purge_segments(&mut self, aeron: &Aeron, recording_id: i64, new_start_position: i64) -> Sent {
        self.request(aeron, RequestBody::PurgeSegments { recording_id, new_start_position })
    }

    /// Attaches the existing segments before a recording's start. The answer's relevant id is their number.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn attach_segments(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::AttachSegments { recording_id })
    }

    /// Moves all segments of a recording to another that begins where it ends, or ends where it begins. The answer's
    /// relevant id is their number; a DELETE signal of the source follows.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn migrate_segments(
        &mut self,
        aeron: &Aeron,
        source_recording_id: i64,
        target_recording_id: i64,
    ) -> Sent {
        self.request(aeron, RequestBody::MigrateSegments { source_recording_id, target_recording_id })
    }

    /// Asks for a token with which another stream may request a replay over a response channel. The answer's relevant
    /// id is the token; it is valid for the archive's connect timeout.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn replay_token(&mut self, aeron: &Aeron, recording_id: i64) -> Sent {
        self.request(aeron, RequestBody::ReplayToken { recording_id })
    }

    /// Changes the channel of a recording in the catalog.
    ///
    /// # Errors
    /// Like [`start_recording`](Self::start_recording).
    pub fn update_channel(&mut self, aeron: &Aeron, recording_id: i64, channel: &str) -> Sent {
        self.request(aeron, RequestBody::UpdateChannel { recording_id, channel })
    }
}
