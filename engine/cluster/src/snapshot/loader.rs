//! Loading a snapshot by replaying its recording from the start (spec 04 §4.14, §6.5).

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientError, ReplayOptions};
use harrier_client::{Aeron, ClientError, Image, Subscription};
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Now;
use harrier_ringbuf::assembly::ImageFragmentAssembler;
use harrier_ringbuf::image_reader::Action;

use super::{MarkerCheck, SnapshotError, SnapshotExpectation};
use crate::codec::{SnapshotMarker, SnapshotMessage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    StartReplay,
    AwaitReplay,
    AddSubscription,
    AwaitSubscription { id: i64 },
    AwaitImage,
    Reading,
}

impl Stage {
    fn wait(self) -> Option<&'static str> {
        match self {
            Self::StartReplay | Self::AwaitReplay => Some("starting the snapshot's replay"),
            Self::AddSubscription | Self::AwaitSubscription { .. } => {
                Some("adding the snapshot's subscription")
            }
            Self::AwaitImage => Some("waiting for the snapshot's image"),
            Self::Reading => None,
        }
    }
}

/// Loads one snapshot from the archive.
///
/// [`poll`](Self::poll) it until [`is_readable`](Self::is_readable), then [`read`](Self::read) until
/// [`is_complete`](Self::is_complete). [`image`](Self::image) then continues with the service's state after the END
/// marker.
#[derive(Debug)]
pub struct SnapshotLoader {
    recording_id: i64,
    channel: String,
    stream_id: i32,
    timeout_ns: i64,
    deadline_ns: Option<i64>,
    stage: Stage,
    correlation_id: i64,
    replay_session_id: i64,
    subscription: Option<Subscription>,
    image: Option<Image>,
    assembler: ImageFragmentAssembler,
    check: MarkerCheck,
    refusal: Option<SnapshotError>,
}

impl SnapshotLoader {
    /// Creates a loader that replays a recording on a channel and stream. Each step before reading may take
    /// `timeout_ns`.
    pub fn new(
        recording_id: i64,
        replay_channel: impl Into<String>,
        replay_stream_id: i32,
        expectation: SnapshotExpectation,
        timeout_ns: i64,
    ) -> Self {
        Self {
            recording_id,
            channel: replay_channel.into(),
            stream_id: replay_stream_id,
            timeout_ns,
            deadline_ns: None,
            stage: Stage::StartReplay,
            correlation_id: -1,
            replay_session_id: -1,
            subscription: None,
            image: None,
            assembler: ImageFragmentAssembler::new(),
            check: MarkerCheck::new(expectation),
            refusal: None,
        }
    }

    /// Advances until the snapshot can be read. Returns the work done.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn poll(
        &mut self,
        aeron: &mut Aeron,
        archive: &mut ArchiveClient,
        now: &Now,
    ) -> Result<usize, SnapshotError> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
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
        if self.correlation_id == -1 || answer.correlation_id() != self.correlation_id {
            return false;
        }
        match answer {
            ArchiveAnswer::Ok { relevant_id, .. } if self.stage == Stage::AwaitReplay => {
                self.replay_session_id = *relevant_id;
                self.stage = Stage::AddSubscription;
                self.deadline_ns = None;
            }
            ArchiveAnswer::Error { code, message, .. } => {
                let (code, message) = (*code, message.clone());
                self.refusal = Some(SnapshotError::Refused { request: "replay it", code, message });
            }
            ArchiveAnswer::RecordingUnknown { .. } => {
                self.refusal = Some(SnapshotError::RecordingUnknown(self.recording_id));
            }
            _ => {}
        }
        true
    }

    /// True once [`read`](Self::read) may be called.
    pub fn is_readable(&self) -> bool {
        self.stage == Stage::Reading
    }

    /// Passes the messages between the markers in up to `limit` fragments to `on_message` and stops after END. Returns
    /// the number of fragments.
    ///
    /// # Errors
    /// A broken marker rule, a recording that ends before END, or an error of `on_message`.
    pub fn read(
        &mut self,
        limit: usize,
        on_message: &mut impl FnMut(&SnapshotMessage<'_>) -> Result<(), SnapshotError>,
    ) -> Result<usize, SnapshotError> {
        let Some(image) = self.image.as_mut().filter(|_| !self.check.is_complete()) else { return Ok(0) };
        let (assembler, check) = (&mut self.assembler, &mut self.check);
        let mut failure = None;
        let count = image.controlled_poll(limit, &mut |payload, header| {
            assembler.on_controlled_fragment(payload, header, &mut |message, header| match on_fragment(
                check,
                message,
                header.position(),
                on_message,
            ) {
                Ok(action) => action,
                Err(error) => {
                    failure = Some(error);
                    Action::Break
                }
            })
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let is_over = image.is_closed() || image.is_end_of_stream();
        if count == 0 && is_over && !self.check.is_complete() {
            let ended = SnapshotError::of_ended(image, self.recording_id);
            return Err(self.refusal.take().unwrap_or(ended));
        }
        Ok(count)
    }

    /// True once the END marker has been read.
    pub fn is_complete(&self) -> bool {
        self.check.is_complete()
    }

    /// The BEGIN marker, once read.
    pub fn marker(&self) -> Option<&SnapshotMarker> {
        self.check.begin()
    }

    /// The snapshot's image once the END marker has been read; the rest belongs to the writer.
    pub fn image(&mut self) -> Option<&mut Image> {
        if self.check.is_complete() { self.image.as_mut() } else { None }
    }

    /// Ends the replay.
    pub fn close(mut self, aeron: &Aeron, archive: &mut ArchiveClient) {
        self.image = None;
        self.subscription = None;
        if self.replay_session_id != -1 {
            // If this message is lost, the replay ends when its subscriber is gone.
            let _unsent = archive.stop_replay(aeron, self.replay_session_id);
        }
    }

    fn next_stage(&mut self, aeron: &mut Aeron, archive: &mut ArchiveClient) -> Result<Stage, SnapshotError> {
        Ok(match self.stage {
            Stage::StartReplay => self.start_replay(aeron, archive)?,
            Stage::AwaitReplay | Stage::Reading => self.stage,
            Stage::AddSubscription => {
                let mut uri = ChannelUri::parse(&self.channel).map_err(|error| {
                    ClientError::InvalidArgument { argument: "replay channel", reason: error.to_string() }
                })?;
                // The stream's session id is the low half of the replay session id (spec 03 §5.1).
                uri.put(key::SESSION_ID, self.replay_session_id as i32);
                let id = aeron.add_subscription(&uri.to_string(), self.stream_id)?;
                Stage::AwaitSubscription { id }
            }
            Stage::AwaitSubscription { id } => {
                self.subscription = aeron.subscription(id)?;
                if self.subscription.is_some() { Stage::AwaitImage } else { self.stage }
            }
            Stage::AwaitImage => self.take_image()?,
        })
    }

    fn start_replay(&mut self, aeron: &Aeron, archive: &mut ArchiveClient) -> Result<Stage, SnapshotError> {
        let options = ReplayOptions::default();
        match archive.replay(aeron, self.recording_id, 0, -1, &self.channel, self.stream_id, options) {
            Ok(correlation_id) => {
                self.correlation_id = correlation_id;
                Ok(Stage::AwaitReplay)
            }
            Err(ArchiveClientError::BackPressured) => Ok(self.stage),
            Err(error) => Err(error.into()),
        }
    }

    fn take_image(&mut self) -> Result<Stage, SnapshotError> {
        let session_id = self.replay_session_id as i32;
        let Some(subscription) = &mut self.subscription else { return Ok(self.stage) };
        let id = subscription.image_by_session_id(session_id).map(|image| image.correlation_id());
        let Some(image) = id.and_then(|id| subscription.take_image(id)) else { return Ok(self.stage) };
        if image.join_position() != 0 {
            let joined = image.join_position();
            return Err(SnapshotError::State(format!("its replay begins at {joined} instead of 0")));
        }
        self.image = Some(image);
        Ok(Stage::Reading)
    }
}

fn on_fragment(
    check: &mut MarkerCheck,
    message: &[u8],
    position: i64,
    on_message: &mut impl FnMut(&SnapshotMessage<'_>) -> Result<(), SnapshotError>,
) -> Result<Action, SnapshotError> {
    let decoded = SnapshotMessage::decode(message);
    match decoded.map_err(|error| SnapshotError::Undecodable { position, error })? {
        Some(SnapshotMessage::Marker(marker)) => {
            check.on_marker(&marker, position)?;
            Ok(if check.is_complete() { Action::Break } else { Action::Continue })
        }
        Some(message) => {
            check.on_state(position)?;
            on_message(&message)?;
            Ok(Action::Continue)
        }
        None => Ok(Action::Continue),
    }
}
