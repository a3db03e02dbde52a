//! Optional parameters of a replication (spec 03 §5.4).

use super::ArchiveClientError;

/// Parameters of [`ArchiveClient::replicate`](super::ArchiveClient::replicate). By default the whole source is copied
/// into a new recording over the archive's configured channel.
///
/// ```
/// use harrier_archive::client::ReplicationParams;
/// let params = ReplicationParams::default().target_recording_id(3).stop_position(4_096);
/// assert_eq!((params.target_recording_id, params.stop_position), (3, 4_096));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicationParams {
    /// Recording to extend; -1 makes a new one.
    pub target_recording_id: i64,
    /// Position at or after which the copy ends; -1 for the source's stop position.
    pub stop_position: i64,
    /// Tag of the channel that receives the copy; -1 for none.
    pub channel_tag_id: i64,
    /// Tag of the subscription that receives the copy; -1 for none.
    pub subscription_tag_id: i64,
    /// Maximum bytes of one read at the source; -1 for its setting.
    pub file_io_max_length: i32,
    /// Session id of the replayed stream; -1 for the source recording's.
    pub replication_session_id: i32,
    /// Destination of the live stream to merge with; empty for none.
    pub live_destination: String,
    /// Channel of the replay; empty for the archive's setting.
    pub replication_channel: String,
    /// Credentials for the source archive.
    pub credentials: Vec<u8>,
    /// Channel on which the source archive answers; empty for the archive's setting.
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

    /// Ends the copy at or after a position.
    pub fn stop_position(mut self, position: i64) -> Self {
        self.stop_position = position;
        self
    }

    /// Receives the copy on a tagged subscription; -1 leaves the tag to the archive.
    pub fn tags(mut self, channel_tag_id: i64, subscription_tag_id: i64) -> Self {
        (self.channel_tag_id, self.subscription_tag_id) = (channel_tag_id, subscription_tag_id);
        self
    }

    /// Limits one read at the source, bytes.
    pub fn file_io_max_length(mut self, length: i32) -> Self {
        self.file_io_max_length = length;
        self
    }

    /// Sets the session id of the replayed stream. Cannot be combined with a live destination.
    pub fn replication_session_id(mut self, session_id: i32) -> Self {
        self.replication_session_id = session_id;
        self
    }

    /// Merges with the live stream, received on this destination.
    pub fn live_destination(mut self, channel: impl Into<String>) -> Self {
        self.live_destination = channel.into();
        self
    }

    /// Sets the channel of the replay.
    pub fn replication_channel(mut self, channel: impl Into<String>) -> Self {
        self.replication_channel = channel.into();
        self
    }

    /// Sets the credentials for the source archive.
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
