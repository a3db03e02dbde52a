//! The replay of the member's own log, which the services read with the module (spec 04 §4.14, §5.2 state 6).

use harrier_archive::client::ReplayOptions;
use harrier_client::{Image, Subscription};
use harrier_protocol::uri::{ChannelUri, UriError, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::ImageFragmentAssembler;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::core::Core;
use super::error::ModuleError;
use super::requests::Kind;
use crate::codec::{ModuleMessage, Role};

/// Progress of a replay from the commit position to the append position.
pub(super) enum Replay {
    Start,
    AwaitSession { correlation_id: i64 },
    AwaitSubscription { id: i64, session_id: i32 },
    AwaitImage { subscription: Subscription, session_id: i32, deadline_ns: i64 },
    AwaitServices(Box<ReplayedLog>),
    Reading(Box<ReplayedLog>),
    Complete,
}

/// A log that is being replayed. The subscription holds the image's stream open.
pub(super) struct ReplayedLog {
    _subscription: Subscription,
    image: Image,
    assembler: ImageFragmentAssembler,
}

/// Progress after a step, and whether the step has changed anything.
type Progress = Result<(Replay, bool), ModuleError>;

impl Replay {
    /// Takes one step of the replay of a recording.
    pub(super) fn step<M: Memory, S: Storage>(self, core: &mut Core<M, S>, recording_id: i64) -> Progress {
        match self {
            Self::Start => start(core, recording_id),
            Self::AwaitSession { correlation_id } => {
                let result = core.requests.take_result(correlation_id, "replay the log")?;
                let Some(replay_session_id) = result else {
                    return Ok((Self::AwaitSession { correlation_id }, false));
                };
                subscribe(core, replay_session_id as i32)
            }
            Self::AwaitSubscription { id, session_id } => {
                let Some(subscription) = core.aeron.subscription(id)? else {
                    return Ok((Self::AwaitSubscription { id, session_id }, false));
                };
                core.requests.end(id);
                let deadline_ns = core.now.ns + core.context.startup_timeout_ns;
                Ok((Self::AwaitImage { subscription, session_id, deadline_ns }, true))
            }
            Self::AwaitImage { subscription, session_id, deadline_ns } => {
                take_image(core, subscription, session_id, deadline_ns)
            }
            Self::AwaitServices(log) => await_services(core, log),
            Self::Reading(log) => read(core, log),
            Self::Complete => Ok((Self::Complete, false)),
        }
    }
}

fn start<M: Memory, S: Storage>(core: &mut Core<M, S>, recording_id: i64) -> Progress {
    let (channel, stream_id) = (&core.context.replay_channel, core.context.replay_stream_id);
    let (begin, length) = (core.commit_position, core.append_position - core.commit_position);
    let options = ReplayOptions::default();
    let outcome = core.archive.replay(&core.aeron, recording_id, begin, length, channel, stream_id, options);
    Ok(match core.begin_archive_request(Kind::Replay, outcome)? {
        Some(correlation_id) => (Replay::AwaitSession { correlation_id }, true),
        None => (Replay::Start, false),
    })
}

fn subscribe<M: Memory, S: Storage>(core: &mut Core<M, S>, session_id: i32) -> Progress {
    let channel = replay_channel(core, session_id)?;
    let id = core.aeron.add_subscription(&channel, core.context.replay_stream_id)?;
    core.begin_request(Kind::Subscription, id);
    Ok((Replay::AwaitSubscription { id, session_id }, true))
}

fn replay_channel<M: Memory, S: Storage>(core: &Core<M, S>, session_id: i32) -> Result<String, UriError> {
    let mut uri = ChannelUri::parse(&core.context.replay_channel)?;
    uri.put(key::SESSION_ID, session_id);
    Ok(uri.to_string())
}

/// Takes the image of the replay, and tells the services to join it.
fn take_image<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    mut subscription: Subscription,
    session_id: i32,
    deadline_ns: i64,
) -> Progress {
    let id = subscription.image_by_session_id(session_id).map(|image| image.correlation_id());
    let Some(image) = id.and_then(|id| subscription.take_image(id)) else {
        if core.now.ns > deadline_ns {
            return Err(ModuleError::Timeout("waiting for the replay of the log"));
        }
        return Ok((Replay::AwaitImage { subscription, session_id, deadline_ns }, false));
    };
    let start = core.commit_position;
    if image.join_position() != start {
        let joined = image.join_position();
        return Err(ModuleError::Replay(format!("it begins at {joined} instead of {start}")));
    }
    let channel = replay_channel(core, session_id)?;
    let message = ModuleMessage::JoinLog {
        log_position: start,
        max_log_position: core.append_position,
        member_id: core.context.member_id,
        log_session_id: session_id,
        log_stream_id: core.context.replay_stream_id,
        is_startup: true,
        role: Role::Follower,
        is_standby: false,
        log_channel: &channel,
    };
    if !core.link.send(&message) {
        return Err(ModuleError::Replay("services cannot be told".into()));
    }
    core.requests.begin(Kind::Join, start, deadline_ns);
    let assembler = ImageFragmentAssembler::new();
    Ok((Replay::AwaitServices(Box::new(ReplayedLog { _subscription: subscription, image, assembler })), true))
}

fn await_services<M: Memory, S: Storage>(core: &mut Core<M, S>, log: Box<ReplayedLog>) -> Progress {
    let start = core.commit_position;
    if core.take_acks(start, Purpose::Arrival)?.is_some() {
        core.requests.end(start);
        return Ok((Replay::Reading(log), true));
    }
    if core.requests.is_join_overdue(start, core.now.ns) {
        return Err(core.missing_service("has not joined the replay of the log"));
    }
    Ok((Replay::AwaitServices(log), false))
}

/// Reads the log up to the append position.
fn read<M: Memory, S: Storage>(core: &mut Core<M, S>, mut log: Box<ReplayedLog>) -> Progress {
    // A snapshot that the log asks for is taken first: the services wait at its position.
    if core.snapshot.is_some() {
        return Ok((Replay::Reading(log), false));
    }
    let before = core.commit_position;
    let position = read_fragments(core, &mut log)?;
    core.commit(position);
    if position < core.append_position {
        if log.image.is_closed() {
            let reason = core.archive_error.as_ref();
            let reason = reason.map_or(String::new(), |text| format!("; the archive says: {text}"));
            let end = core.append_position;
            return Err(ModuleError::Replay(format!("it ended at {position} of {end}{reason}")));
        }
        return Ok((Replay::Reading(log), position > before));
    }
    if core.snapshot.is_some() {
        return Ok((Replay::Reading(log), true));
    }
    Ok((Replay::Complete, true))
}

/// Reads some fragments; returns the position after them.
fn read_fragments<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    log: &mut ReplayedLog,
) -> Result<i64, ModuleError> {
    let ReplayedLog { image, assembler, .. } = log;
    let (end, limit) = (core.append_position, core.context.log_fragment_limit);
    let mut failure = None;
    image.bounded_controlled_poll(end, limit, &mut |payload, header| {
        assembler.on_controlled_fragment(payload, header, &mut |message, header| {
            core.on_read(message, header.position()).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                Action::Break
            })
        })
    });
    failure.map_or_else(|| Ok(image.position()), Err)
}
