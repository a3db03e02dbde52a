//! The only member stands for the next term, wins it, and opens the log to clients (spec 04 §5.2, §5.7).

use std::collections::VecDeque;

use harrier_archive::SourceLocation;
use harrier_archive::client::find_recording_counter;
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::consensus::ConsensusStream;
use super::core::{Core, Life};
use super::counters::{node_toggle, toggle};
use super::error::ModuleError;
use super::ingress::IngressStream;
use super::leading::{Leading, LogRecording};
use super::log::{self, LogPublisher, LogShape};
use super::replay::Replay;
use super::requests::Kind;
use super::role::{Role, Step};
use super::starting::extent_in;
use super::state::{LoggedState, Origin};
use crate::codec::{self, LogMessage, ModuleMessage};
use crate::recording_log::{LogExtent, RecoveryPlan};

/// Election states as counter 207 shows them.
mod state {
    pub(super) const INIT: i64 = 0;
    pub(super) const LEADER_LOG_REPLICATION: i64 = 5;
    pub(super) const LEADER_REPLAY: i64 = 6;
    pub(super) const LEADER_INIT: i64 = 7;
    pub(super) const LEADER_READY: i64 = 8;
    pub(super) const CLOSED: i64 = 17;
}

/// A member in an election.
pub(super) struct Electing {
    /// Recording of the log before this election.
    extent: Option<LogExtent>,
    last_term_id: i64,
    stage: Stage,
}

enum Stage {
    /// The recording of a leadership that was lost must have stopped.
    ListRecording {
        recording_id: i64,
    },
    AwaitDescriptor {
        recording_id: i64,
        correlation_id: i64,
    },
    AwaitStop {
        recording_id: i64,
        correlation_id: i64,
    },
    Stand,
    /// node-state.dat is being synced.
    AwaitTerm {
        term_id: i64,
    },
    AwaitPublication {
        id: i64,
        channel_tag: i64,
    },
    Replay {
        log: LogPublisher,
        replay: Replay,
    },
    Record {
        log: LogPublisher,
    },
    AwaitRecording {
        log: LogPublisher,
        correlation_id: i64,
    },
    AwaitCounter {
        log: LogPublisher,
    },
    JoinServices(LogPublisher, LogRecording),
    AwaitJoin(LogPublisher, LogRecording),
    AppendTerm(LogPublisher, LogRecording),
    AwaitIngress {
        leading: Box<Leading>,
        ids: VecDeque<i64>,
    },
}

/// Stage after a step, and whether the step has changed anything.
type Progress = Result<(Stage, bool), ModuleError>;

impl Electing {
    /// Starts the election of a member that has carried out its recovery plan.
    pub(super) fn new(plan: &RecoveryPlan) -> Self {
        Self {
            extent: plan.log.as_ref().map(|log| log.extent),
            last_term_id: plan.last_leadership_term_id,
            stage: Stage::Stand,
        }
    }

    /// Starts the election of a member that has lost the lead. Its log ends where the archive has stopped the recording.
    pub(super) fn again<M: Memory, S: Storage>(core: &mut Core<M, S>, recording_id: i64) -> Self {
        core.requests.begin_epoch();
        show(core, state::INIT);
        let stage = Stage::ListRecording { recording_id };
        Self { extent: None, last_term_id: core.leadership_term_id, stage }
    }

    /// Takes one step.
    pub(super) fn step<M: Memory, S: Storage>(self, core: &mut Core<M, S>) -> Step {
        let Self { mut extent, last_term_id, stage } = self;
        let (stage, is_step) = match stage {
            Stage::ListRecording { recording_id } => list_recording(core, recording_id)?,
            Stage::AwaitDescriptor { recording_id, correlation_id } => {
                await_descriptor(core, recording_id, correlation_id, &mut extent)?
            }
            Stage::AwaitStop { recording_id, correlation_id } => {
                match core.requests.take_answer(correlation_id) {
                    Some(_) => (Stage::ListRecording { recording_id }, true),
                    None => (Stage::AwaitStop { recording_id, correlation_id }, false),
                }
            }
            Stage::Stand => stand(core, extent, last_term_id)?,
            Stage::AwaitTerm { term_id } if core.files.poll()? => lead(core, extent, term_id)?,
            Stage::AwaitTerm { term_id } => (Stage::AwaitTerm { term_id }, false),
            Stage::AwaitPublication { id, channel_tag } => await_publication(core, id, channel_tag, extent)?,
            Stage::Replay { log, replay } => self::replay(core, log, replay, extent)?,
            Stage::Record { log } => record(core, log)?,
            Stage::AwaitRecording { log, correlation_id } => await_recording(core, log, correlation_id)?,
            Stage::AwaitCounter { log } => await_counter(core, log),
            Stage::JoinServices(log, recording) => join_services(core, log, recording),
            Stage::AwaitJoin(log, recording) => await_join(core, log, recording)?,
            Stage::AppendTerm(log, recording) => append_term(core, log, recording)?,
            Stage::AwaitIngress { leading, ids } => {
                return self::await_ingress(core, leading, ids, extent, last_term_id);
            }
        };
        Ok((Role::Electing(Self { extent, last_term_id, stage }), is_step))
    }

    /// A service has asked to close a session.
    pub(super) fn on_session_closing(&mut self, session_id: i64) {
        if let Stage::AwaitIngress { leading, .. } = &mut self.stage {
            leading.on_session_closing(session_id);
        }
    }

    /// Closes the streams to all clients.
    pub(super) fn disconnect_clients(&mut self) {
        if let Stage::AwaitIngress { leading, .. } = &mut self.stage {
            leading.disconnect_clients();
        }
    }
}

fn show<M: Memory, S: Storage>(core: &Core<M, S>, state: i64) {
    core.counters.election_state.set_ordered(state);
}

/// Asks for the recording of the log, once no snapshot is running: its acks and those of the next join would be at the same
/// position (spec 07 §28).
fn list_recording<M: Memory, S: Storage>(core: &mut Core<M, S>, recording_id: i64) -> Progress {
    if core.snapshot.is_some() {
        return Ok((Stage::ListRecording { recording_id }, false));
    }
    let outcome = core.archive.list_recording(&core.aeron, recording_id);
    Ok(match core.begin_archive_request(Kind::Answer, outcome)? {
        Some(correlation_id) => (Stage::AwaitDescriptor { recording_id, correlation_id }, true),
        None => (Stage::ListRecording { recording_id }, false),
    })
}

fn await_descriptor<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    recording_id: i64,
    correlation_id: i64,
    extent: &mut Option<LogExtent>,
) -> Progress {
    let Some(answer) = core.requests.take_answer(correlation_id) else {
        return Ok((Stage::AwaitDescriptor { recording_id, correlation_id }, false));
    };
    let found = extent_in(answer, recording_id)?;
    if found.stop_position != -1 {
        core.append_position = found.stop_position;
        *extent = Some(found);
        return Ok((Stage::Stand, true));
    }
    let outcome = core.archive.stop_recording_by_identity(&core.aeron, recording_id);
    Ok(match core.begin_archive_request(Kind::Answer, outcome)? {
        Some(correlation_id) => (Stage::AwaitStop { recording_id, correlation_id }, true),
        None => (Stage::ListRecording { recording_id }, false),
    })
}

/// Stands for the next term, which is stored first (spec 04 §5.2, state 0).
fn stand<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    extent: Option<LogExtent>,
    last_term_id: i64,
) -> Progress {
    show(core, state::INIT);
    let term_id = core.node_state.candidate_term_id().max(last_term_id) + 1;
    let operations = core.node_state.store(term_id, core.append_position, core.now.epoch_ms);
    core.files.submit(operations);
    if core.files.poll()? { lead(core, extent, term_id) } else { Ok((Stage::AwaitTerm { term_id }, true)) }
}

/// Begins the leadership of a term that is stored durably.
fn lead<M: Memory, S: Storage>(core: &mut Core<M, S>, extent: Option<LogExtent>, term_id: i64) -> Progress {
    core.leadership_term_id = term_id;
    core.counters.election_count.increment();
    core.counters.role.set_ordered(codec::Role::Leader as i64);
    core.enter(Life::Running);
    show(core, state::LEADER_LOG_REPLICATION);
    let tags = (core.aeron.next_correlation_id(), core.aeron.next_correlation_id());
    let host = log::host_of(&core.member.log);
    let shape = extent.map(|extent| LogShape { position: core.append_position, ..LogShape::of(&extent) });
    let channel = log::publication_channel(&core.context.log_channel, tags, host, shape)?;
    let id = core.aeron.add_exclusive_publication(&channel, core.context.log_stream_id)?;
    core.begin_request(Kind::Publication, id);
    Ok((Stage::AwaitPublication { id, channel_tag: tags.0 }, true))
}

fn await_publication<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    id: i64,
    channel_tag: i64,
    extent: Option<LogExtent>,
) -> Progress {
    let Some(publication) = core.aeron.exclusive_publication(id)? else {
        return Ok((Stage::AwaitPublication { id, channel_tag }, false));
    };
    core.requests.end(id);
    let log = LogPublisher::new(publication, channel_tag);
    if extent.is_none() || core.append_position == core.commit_position {
        return Ok((Stage::Record { log }, true));
    }
    show(core, state::LEADER_REPLAY);
    Ok((Stage::Replay { log, replay: Replay::Start }, true))
}

fn replay<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    log: LogPublisher,
    replay: Replay,
    extent: Option<LogExtent>,
) -> Progress {
    let Some(extent) = extent else { return Ok((Stage::Record { log }, true)) };
    let (replay, is_step) = replay.step(core, extent.recording_id)?;
    Ok(match replay {
        Replay::Complete => (Stage::Record { log }, true),
        replay => (Stage::Replay { log, replay }, is_step),
    })
}

fn record<M: Memory, S: Storage>(core: &mut Core<M, S>, log: LogPublisher) -> Progress {
    show(core, state::LEADER_INIT);
    let channel = log.recording_channel(&core.context.log_channel);
    let (stream_id, source) = (core.context.log_stream_id, SourceLocation::Local);
    let (archive, aeron) = (&mut core.archive, &core.aeron);
    let outcome = match core.recording_log.last_term().map(|term| term.recording_id) {
        Some(id) => archive.extend_recording(aeron, id, &channel, stream_id, source, true),
        None => archive.start_recording(aeron, &channel, stream_id, source, true),
    };
    Ok(match core.begin_archive_request(Kind::Recording, outcome)? {
        Some(correlation_id) => (Stage::AwaitRecording { log, correlation_id }, true),
        None => (Stage::Record { log }, false),
    })
}

fn await_recording<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    log: LogPublisher,
    correlation_id: i64,
) -> Progress {
    Ok(match core.requests.take_result(correlation_id, "record the log")? {
        Some(_) => (Stage::AwaitCounter { log }, true),
        None => (Stage::AwaitRecording { log, correlation_id }, false),
    })
}

fn await_counter<M: Memory, S: Storage>(core: &Core<M, S>, log: LogPublisher) -> (Stage, bool) {
    let archive_id = Some(core.archive.archive_id());
    match find_recording_counter(core.aeron.counters(), log.session_id(), archive_id) {
        Some((counter_id, recording_id)) => {
            (Stage::JoinServices(log, LogRecording { counter_id, recording_id }), true)
        }
        None => (Stage::AwaitCounter { log }, false),
    }
}

fn join_services<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    log: LogPublisher,
    recording: LogRecording,
) -> (Stage, bool) {
    let channel = log::service_channel(&log.recording_channel(&core.context.log_channel));
    let message = ModuleMessage::JoinLog {
        log_position: core.append_position,
        max_log_position: i64::MAX,
        member_id: core.context.member_id,
        log_session_id: log.session_id(),
        log_stream_id: core.context.log_stream_id,
        // The services must connect the egress of sessions that live on at once.
        is_startup: core.state.session_count() == 0,
        role: codec::Role::Leader,
        is_standby: false,
        log_channel: &channel,
    };
    if !core.link.send(&message) {
        return (Stage::JoinServices(log, recording), false);
    }
    core.begin_request(Kind::Join, core.append_position);
    (Stage::AwaitJoin(log, recording), true)
}

fn await_join<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    log: LogPublisher,
    recording: LogRecording,
) -> Progress {
    let position = core.append_position;
    if core.take_acks(position, Purpose::Arrival)?.is_none() {
        if core.requests.is_join_overdue(position, core.now.ns) {
            return Err(core.missing_service("has not joined the log"));
        }
        return Ok((Stage::AwaitJoin(log, recording), false));
    }
    core.requests.end(position);
    core.skip_logged_messages();
    let (term_id, timestamp) = (core.leadership_term_id, core.time());
    let operations = core.recording_log.append_term(recording.recording_id, term_id, position, timestamp);
    core.files.submit(operations);
    show(core, state::LEADER_READY);
    Ok((Stage::AppendTerm(log, recording), true))
}

/// Appends the first event of the term, once recording.log holds the term.
fn append_term<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    mut log: LogPublisher,
    recording: LogRecording,
) -> Progress {
    if !core.files.poll()? {
        return Ok((Stage::AppendTerm(log, recording), false));
    }
    let (timestamp, log_session_id) = (core.time(), log.session_id());
    let event = |log_position| LogMessage::NewLeadershipTerm {
        leadership_term_id: core.leadership_term_id,
        log_position,
        timestamp,
        term_base_log_position: core.append_position,
        leader_member_id: core.context.member_id,
        log_session_id,
        time_unit: core.clock.unit(),
        app_version: core.context.app_version,
    };
    let Some(position) = log.append_positioned(event)? else {
        return Ok((Stage::AppendTerm(log, recording), false));
    };
    let event = event(position);
    core.state.apply(&event, position, Origin::Appended);
    let ids = add_streams(core)?;
    let leading = Box::new(Leading::new(core, log, recording));
    Ok((Stage::AwaitIngress { leading, ids }, true))
}

/// Requests the stream of members and backups, unless it is there, and then those of clients.
fn add_streams<M: Memory, S: Storage>(core: &mut Core<M, S>) -> Result<VecDeque<i64>, ModuleError> {
    let mut ids = VecDeque::new();
    let context = &core.context;
    let mut ingress = ChannelUri::parse(&context.ingress_channel)?;
    if ingress.is_udp() {
        ingress.put_if_absent(key::ENDPOINT, &core.member.ingress);
    }
    ingress.put(key::REJOIN, false);
    ingress.put(key::RELIABLE, true);
    if core.consensus.is_none() {
        let mut consensus = ChannelUri::parse(&context.consensus_channel)?;
        if consensus.is_udp() {
            consensus.put_if_absent(key::ENDPOINT, &core.member.consensus);
        }
        let stream_id = context.consensus_stream_id;
        ids.push_back(core.aeron.add_subscription(&consensus.to_string(), stream_id)?);
    }
    ids.push_back(core.aeron.add_subscription(&ingress.to_string(), context.ingress_stream_id)?);
    if context.is_ipc_ingress_allowed && ingress.is_udp() {
        ids.push_back(core.aeron.add_subscription("aeron:ipc", context.ingress_stream_id)?);
    }
    for id in &ids {
        core.begin_request(Kind::Subscription, *id);
    }
    Ok(ids)
}

fn await_ingress<M: Memory, S: Storage>(
    core: &mut Core<M, S>,
    mut leading: Box<Leading>,
    mut ids: VecDeque<i64>,
    extent: Option<LogExtent>,
    last_term_id: i64,
) -> Step {
    while let Some(id) = ids.front().copied() {
        let Some(subscription) = core.aeron.subscription(id)? else {
            let stage = Stage::AwaitIngress { leading, ids };
            return Ok((Role::Electing(Electing { extent, last_term_id, stage }), false));
        };
        core.requests.end(id);
        match core.consensus {
            None => core.consensus = Some(Box::new(ConsensusStream::new(subscription))),
            Some(_) => leading.add_ingress(IngressStream {
                subscription,
                assembler: FragmentAssembler::new(),
                known_sessions: Vec::new(),
            }),
        }
        ids.pop_front();
    }
    core.counters.leadership_term_id.set_ordered(core.leadership_term_id);
    // A cluster that was suspended stays so until an operator resumes it.
    let is_suspended = core.state.state() == LoggedState::Suspended;
    core.counters.control_toggle.set_ordered(if is_suspended { toggle::SUSPEND } else { toggle::NEUTRAL });
    core.counters.node_toggle.set_ordered(node_toggle::NEUTRAL);
    show(core, state::CLOSED);
    core.mark.signal_ready(&core.now);
    Ok((Role::Leading(leading), true))
}
