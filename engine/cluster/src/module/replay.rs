//! Reading the log that earlier runs have written, with the services behind it (spec 04 §4.14, §5.2 state 6).

use harrier_archive::client::{ArchiveAnswer, ReplayOptions};
use harrier_client::{Image, Subscription};
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::ImageFragmentAssembler;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::agent::ConsensusModule;
use super::error::ModuleError;
use super::start::{Phase, Step, sent};
use crate::codec::{ModuleMessage, Role};

/// A log that is being replayed through the services.
pub(super) struct LogReplay {
    replay_session_id: i64,
    subscription: Option<Subscription>,
    image: Option<Image>,
    assembler: ImageFragmentAssembler,
    has_joined: bool,
    deadline_ns: i64,
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Where the replay begins.
    fn replay_start(&self) -> i64 {
        self.plan.log.as_ref().map_or(0, |log| log.start_position)
    }

    pub(super) fn start_replay(&mut self) -> Step {
        let Some(log) = &self.plan.log else { return Ok((Phase::StartRecording, true)) };
        let Some(aeron) = &self.aeron else { return Ok((Phase::StartReplay, false)) };
        let (channel, stream_id) = (self.context.replay_channel.clone(), self.context.replay_stream_id);
        let (recording_id, start) = (log.extent.recording_id, log.start_position);
        let length = self.append_position - start;
        let options = ReplayOptions::default();
        let outcome = self.archive.replay(aeron, recording_id, start, length, &channel, stream_id, options);
        Ok(match sent(outcome)? {
            Some(correlation_id) => (Phase::AwaitReplay { correlation_id }, true),
            None => (Phase::StartReplay, false),
        })
    }

    pub(super) fn await_replay(&mut self, correlation_id: i64) -> Step {
        let Some(replay_session_id) = self.take_answer(correlation_id, "replay the log")? else {
            return Ok((Phase::AwaitReplay { correlation_id }, false));
        };
        let channel = self.replay_channel(replay_session_id as i32)?;
        let stream_id = self.context.replay_stream_id;
        let id = self.client().add_subscription(&channel, stream_id)?;
        Ok((Phase::AwaitReplaySubscription { id, replay_session_id }, true))
    }

    fn replay_channel(&self, session_id: i32) -> Result<String, ModuleError> {
        let mut uri = ChannelUri::parse(&self.context.replay_channel)?;
        uri.put(key::SESSION_ID, session_id);
        Ok(uri.to_string())
    }

    pub(super) fn await_replay_subscription(&mut self, id: i64, replay_session_id: i64) -> Step {
        let Some(subscription) = self.client().subscription(id)? else {
            return Ok((Phase::AwaitReplaySubscription { id, replay_session_id }, false));
        };
        let replay = LogReplay {
            replay_session_id,
            subscription: Some(subscription),
            image: None,
            assembler: ImageFragmentAssembler::new(),
            has_joined: false,
            deadline_ns: self.now.ns + self.context.startup_timeout_ns,
        };
        Ok((Phase::Replaying { replay: Box::new(replay) }, true))
    }

    /// Reads the log with the services behind it, up to its end.
    pub(super) fn replay(&mut self, mut replay: Box<LogReplay>) -> Step {
        if !replay.has_joined {
            let is_step = self.join_replay(&mut replay)?;
            return Ok((Phase::Replaying { replay }, is_step));
        }
        // A snapshot that the log says is taken first: the services wait at its position.
        if self.snapshot.is_some() {
            return Ok((Phase::Replaying { replay }, false));
        }
        let before = self.commit_position;
        let position = self.read_log(&mut replay)?;
        if let Some(counters) = &self.counters {
            counters.commit_position.set_ordered(position);
        }
        self.commit_position = position;
        if position < self.append_position {
            if replay.image.as_ref().is_none_or(Image::is_closed) {
                let reason = match &self.answer {
                    Some(ArchiveAnswer::Error { message, .. }) => format!("; the archive says: {message}"),
                    _ => String::new(),
                };
                let end = self.append_position;
                return Err(ModuleError::Replay(format!("it ended at {position} of {end}{reason}")));
            }
            return Ok((Phase::Replaying { replay }, position > before));
        }
        if self.snapshot.is_some() {
            return Ok((Phase::Replaying { replay }, true));
        }
        Ok((Phase::StartRecording, true))
    }

    /// Takes the image, tells the services of it and awaits them; true when it has come further.
    fn join_replay(&mut self, replay: &mut LogReplay) -> Result<bool, ModuleError> {
        let (start, session_id) = (self.replay_start(), replay.replay_session_id as i32);
        if replay.image.is_some() {
            replay.has_joined = self.take_acks(start, Purpose::Arrival)?.is_some();
            if !replay.has_joined && self.now.ns > replay.deadline_ns {
                return Err(self.missing_service("has not joined the replay of the log"));
            }
            return Ok(replay.has_joined);
        }
        let Some(subscription) = &mut replay.subscription else {
            return Err(ModuleError::Replay("its subscription is gone".into()));
        };
        let id = subscription.image_by_session_id(session_id).map(|image| image.correlation_id());
        let Some(image) = id.and_then(|id| subscription.take_image(id)) else {
            if self.now.ns > replay.deadline_ns {
                return Err(ModuleError::Timeout("waiting for the replay of the log"));
            }
            return Ok(false);
        };
        if image.join_position() != start {
            let joined = image.join_position();
            return Err(ModuleError::Replay(format!("it begins at {joined} instead of {start}")));
        }
        let channel = self.replay_channel(session_id)?;
        let message = ModuleMessage::JoinLog {
            log_position: start,
            max_log_position: self.append_position,
            member_id: self.context.member_id,
            log_session_id: session_id,
            log_stream_id: self.context.replay_stream_id,
            is_startup: true,
            role: Role::Follower,
            is_standby: false,
            log_channel: &channel,
        };
        if !self.link.as_mut().is_some_and(|link| link.send(&message)) {
            return Err(ModuleError::Replay("services cannot be told".into()));
        }
        replay.image = Some(image);
        Ok(true)
    }

    /// Reads on; stops behind every action, so that nothing is read in the state before it (spec 04 §4.5).
    fn read_log(&mut self, replay: &mut LogReplay) -> Result<i64, ModuleError> {
        let LogReplay { image: Some(image), assembler, .. } = replay else {
            return Err(ModuleError::Replay("its image is gone".into()));
        };
        let (end, limit) = (self.append_position, self.context.log_fragment_limit);
        let mut failure = None;
        image.bounded_controlled_poll(end, limit, &mut |payload, header| {
            assembler.on_controlled_fragment(payload, header, &mut |message, header| {
                self.on_replayed(message, header.position()).unwrap_or_else(|error| {
                    failure.get_or_insert(error);
                    Action::Break
                })
            })
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(image.position()),
        }
    }
}
