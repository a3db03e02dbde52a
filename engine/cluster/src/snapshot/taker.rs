//! Taking a snapshot: the archive records a dedicated stream (spec 04 §4.9).

use harrier_archive::SourceLocation;
use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientError, find_recording_counter};
use harrier_client::{Aeron, ClientError, ExclusivePublication};
use harrier_protocol::sbe::SbeError;
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Now;
use harrier_ringbuf::append::OfferError;

use super::SnapshotError;
use crate::codec::SnapshotMessage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    AwaitPublication { id: i64 },
    StartRecording,
    AwaitRecording { correlation_id: i64 },
    AwaitCounter,
    Writing,
    Completing { position: i64 },
    Complete,
}

impl Stage {
    /// Name of a step that has a deadline.
    fn wait(self) -> Option<&'static str> {
        match self {
            Self::Begin | Self::AwaitPublication { .. } => Some("adding the snapshot's publication"),
            Self::StartRecording | Self::AwaitRecording { .. } => Some("starting the snapshot's recording"),
            Self::AwaitCounter => Some("waiting for the snapshot's recording counter"),
            Self::Writing | Self::Completing { .. } | Self::Complete => None,
        }
    }
}

/// Writes one snapshot into the archive.
///
/// [`poll`](Self::poll) it until [`is_writable`](Self::is_writable), write, call [`finish`](Self::finish), and poll
/// until [`recording_id`](Self::recording_id) returns the complete recording. Dropping it ends the stream and the
/// recording.
#[derive(Debug)]
pub struct SnapshotTaker {
    channel: String,
    stream_id: i32,
    timeout_ns: i64,
    deadline_ns: Option<i64>,
    stage: Stage,
    publication: Option<ExclusivePublication>,
    start_correlation_id: i64,
    counter_id: i32,
    counter_registration_id: i64,
    recording_id: i64,
    refusal: Option<(i64, String)>,
    buffer: Vec<u8>,
}

impl SnapshotTaker {
    /// Creates a taker for a channel and stream. Each step before writing may take `timeout_ns`.
    pub fn new(channel: impl Into<String>, stream_id: i32, timeout_ns: i64) -> Self {
        Self {
            channel: channel.into(),
            stream_id,
            timeout_ns,
            deadline_ns: None,
            stage: Stage::Begin,
            publication: None,
            start_correlation_id: -1,
            counter_id: -1,
            counter_registration_id: -1,
            recording_id: -1,
            refusal: None,
            buffer: vec![0; 512],
        }
    }

    /// Advances the snapshot. Returns the work done.
    ///
    /// # Errors
    /// See [`SnapshotError`]; after an error the snapshot is unusable.
    pub fn poll(
        &mut self,
        aeron: &mut Aeron,
        archive: &mut ArchiveClient,
        now: &Now,
    ) -> Result<usize, SnapshotError> {
        if let Some((code, message)) = self.refusal.take() {
            return Err(SnapshotError::Refused { request: "record it", code, message });
        }
        if let Some(waits_for) = self.stage.wait() {
            let deadline_ns = *self.deadline_ns.get_or_insert(now.ns + self.timeout_ns);
            if now.ns > deadline_ns {
                return Err(SnapshotError::Timeout(waits_for));
            }
        }
        let before = self.stage;
        self.stage = self.next_stage(aeron, archive)?;
        if self.stage == before {
            return Ok(0);
        }
        self.deadline_ns = None;
        Ok(1)
    }

    /// Handles an answer of the archive. Returns true when it was for this snapshot.
    pub fn on_answer(&mut self, answer: &ArchiveAnswer) -> bool {
        if self.start_correlation_id == -1 || answer.correlation_id() != self.start_correlation_id {
            return false;
        }
        match answer {
            ArchiveAnswer::Error { code, message, .. } => self.refusal = Some((*code, message.clone())),
            ArchiveAnswer::Ok { .. } if matches!(self.stage, Stage::AwaitRecording { .. }) => {
                self.stage = Stage::AwaitCounter;
                self.deadline_ns = None;
            }
            _ => {}
        }
        true
    }

    /// True while messages may be written.
    pub fn is_writable(&self) -> bool {
        self.stage == Stage::Writing
    }

    /// The snapshot's publication while messages may be written.
    pub fn publication(&mut self) -> Option<&mut ExclusivePublication> {
        if self.stage == Stage::Writing { self.publication.as_mut() } else { None }
    }

    /// Writes one message. Returns false when the stream is back-pressured.
    ///
    /// # Errors
    /// The stream takes nothing any more, or never takes a message of this length.
    pub fn offer(&mut self, message: &SnapshotMessage<'_>) -> Result<bool, SnapshotError> {
        let Some(publication) = self.publication.as_mut().filter(|_| self.stage == Stage::Writing) else {
            return Ok(false);
        };
        let length = match message.encode(&mut self.buffer) {
            Ok(length) => length,
            Err(SbeError::BufferTooSmall { required, .. }) => {
                self.buffer.resize(required, 0);
                message.encode(&mut self.buffer).map_err(undecodable)?
            }
            Err(error) => return Err(undecodable(error)),
        };
        let bytes = &self.buffer[..length];
        let sent = match publication.offer(bytes) {
            Err(OfferError::AdminAction) => publication.offer(bytes),
            outcome => outcome,
        };
        match sent {
            Ok(_) => Ok(true),
            Err(error) if error.is_retryable() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the snapshot after the messages written so far.
    pub fn finish(&mut self) {
        if self.stage == Stage::Writing
            && let Some(publication) = &self.publication
        {
            self.stage = Stage::Completing { position: publication.position() };
        }
    }

    /// Recording id, once the whole snapshot is recorded.
    pub fn recording_id(&self) -> Option<i64> {
        (self.stage == Stage::Complete).then_some(self.recording_id)
    }

    fn next_stage(&mut self, aeron: &mut Aeron, archive: &mut ArchiveClient) -> Result<Stage, SnapshotError> {
        Ok(match self.stage {
            Stage::Begin => {
                let id = aeron.add_exclusive_publication(&self.channel, self.stream_id)?;
                Stage::AwaitPublication { id }
            }
            Stage::AwaitPublication { id } => {
                self.publication = aeron.exclusive_publication(id)?;
                if self.publication.is_some() { Stage::StartRecording } else { self.stage }
            }
            Stage::StartRecording => self.start_recording(aeron, archive)?,
            Stage::AwaitRecording { .. } | Stage::Complete => self.stage,
            Stage::AwaitCounter => self.find_counter(aeron, archive),
            Stage::Writing => {
                self.check_recording(aeron, i64::MAX)?;
                self.stage
            }
            Stage::Completing { position } => {
                if self.check_recording(aeron, position)? {
                    self.publication = None;
                    Stage::Complete
                } else {
                    self.stage
                }
            }
        })
    }

    fn start_recording(
        &mut self,
        aeron: &Aeron,
        archive: &mut ArchiveClient,
    ) -> Result<Stage, SnapshotError> {
        let Some(publication) = &self.publication else { return Ok(self.stage) };
        let mut uri = ChannelUri::parse(&self.channel).map_err(|error| ClientError::InvalidArgument {
            argument: "snapshot channel",
            reason: error.to_string(),
        })?;
        uri.put(key::SESSION_ID, publication.session_id());
        let channel = uri.to_string();
        match archive.start_recording(aeron, &channel, self.stream_id, SourceLocation::Local, true) {
            Ok(correlation_id) => {
                self.start_correlation_id = correlation_id;
                Ok(Stage::AwaitRecording { correlation_id })
            }
            Err(ArchiveClientError::BackPressured) => Ok(self.stage),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the recording's position counter, which is valid once the archive has set its recording id and
    /// registration id (spec 04 §4.14).
    fn find_counter(&mut self, aeron: &Aeron, archive: &ArchiveClient) -> Stage {
        let Some(publication) = &self.publication else { return self.stage };
        let counters = aeron.counters();
        let found = find_recording_counter(counters, publication.session_id(), Some(archive.archive_id()));
        let Some((counter_id, recording_id)) = found else { return self.stage };
        let registration_id = counters.registration_id(counter_id);
        if registration_id == 0 || recording_id == -1 {
            return self.stage;
        }
        self.counter_id = counter_id;
        self.counter_registration_id = registration_id;
        self.recording_id = recording_id;
        Stage::Writing
    }

    /// True once the recording has reached `position`.
    fn check_recording(&self, aeron: &Aeron, position: i64) -> Result<bool, SnapshotError> {
        let counters = aeron.counters();
        // Read before the check, so that the value of a reused counter is discarded.
        let recorded = counters.value(self.counter_id);
        let is_own = counters.is_allocated(self.counter_id)
            && counters.registration_id(self.counter_id) == self.counter_registration_id;
        if is_own {
            return Ok(recorded >= position);
        }
        let written = self.publication.as_ref().map_or(0, ExclusivePublication::position);
        Err(SnapshotError::RecordingStopped { recording_id: self.recording_id, position: written })
    }
}

fn undecodable(error: SbeError) -> SnapshotError {
    SnapshotError::State(error.to_string())
}
