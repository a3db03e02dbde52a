//! What a replication may be given beyond its source (spec 03 §5.4).

use super::ArchiveClientError;

/// Parameters of [`ArchiveClient::replicate`](super::ArchiveClient::replicate). By default all of the source is copied into
/// a new recording, over the channel that the archive is configured with.
///
/// ```
/// use harrier_archive::client::ReplicationParams;
/// let params = ReplicationParams::default().target_recording_id(3).stop_position(4_096);
/// assert_eq!((params.target_recording_id, params.stop_position), (3, 4_096));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicationParams {
    /// Recording that is extended; -1: a new one.
    pub target_recording_id: i64,
    /// Position at or behind which the copy ends; -1: that of the source, if it ever ends.
    pub stop_position: i64,
    /// Tag of the channel on which the copy is received; -1: none.
    pub channel_tag_id: i64,
    /// Tag of the subscription by which the copy is received; -1: none.
    pub subscription_tag_id: i64,
    /// Most bytes that the source reads at once; -1: as it is configured.
    pub file_io_max_length: i32,
    /// Session id of the replayed stream; -1: that of the source recording.
    pub replication_session_id: i32,
    /// Destination of the live stream to go over to; empty: none.
    pub live_destination: String,
    /// Channel of the replay; empty: the archive's own.
    pub replication_channel: String,
    /// Shown to the source archive.
    pub credentials: Vec<u8>,
    /// Channel on which the source archive answers; empty: the archive's own.
    pub source_response_channel: String,
}

impl Default for ReplicationParams {
    fn default() -> Self {
        Self {
            target_recording_id: -1,
            stop_position: -1,
            channel_tag_id: -1,
            subscription_tag_id: -1,
            file_io_max_length: -1,
            replication_session_id: -1,
            live_destination: String::new(),
            replication_channel: String::new(),
            credentials: Vec::new(),
            source_response_channel: String::new(),
        }
    }
}

impl ReplicationParams {
    /// Extends a recording instead of making a new one.
    pub fn target_recording_id(mut self, id: i64) -> Self {
        self.target_recording_id = id;
        self
    }

    /// Ends the copy at or behind a position.
    pub fn stop_position(mut self, position: i64) -> Self {
        self.stop_position = position;
        self
    }

    /// Receives the copy by a subscription with tags; -1 leaves one to the archive.
    pub fn tags(mut self, channel_tag_id: i64, subscription_tag_id: i64) -> Self {
        (self.channel_tag_id, self.subscription_tag_id) = (channel_tag_id, subscription_tag_id);
        self
    }

    /// Limits what the source reads at once, bytes.
    pub fn file_io_max_length(mut self, length: i32) -> Self {
        self.file_io_max_length = length;
        self
    }

    /// Sets the session id of the replayed stream; not together with a live destination.
    pub fn replication_session_id(mut self, session_id: i32) -> Self {
        self.replication_session_id = session_id;
        self
    }

    /// Goes over to the live stream, received on this destination.
    pub fn live_destination(mut self, channel: impl Into<String>) -> Self {
        self.live_destination = channel.into();
        self
    }

    /// Sets the channel of the replay.
    pub fn replication_channel(mut self, channel: impl Into<String>) -> Self {
        self.replication_channel = channel.into();
        self
    }

    /// Sets what is shown to the source archive.
    pub fn credentials(mut self, credentials: impl Into<Vec<u8>>) -> Self {
        self.credentials = credentials.into();
        self
    }

    /// Sets the channel on which the source archive answers.
    pub fn source_response_channel(mut self, channel: impl Into<String>) -> Self {
        self.source_response_channel = channel.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), ArchiveClientError> {
        if !self.live_destination.is_empty() && self.replication_session_id != -1 {
            return Err(ArchiveClientError::Parameters(
                "a replication session id can't be used with a live destination: the session is that of the live stream",
            ));
        }
        Ok(())
    }
}
