//! Replications: copies of another archive's recordings, received as replays (spec 03 §5.4).

mod live;
mod response;

use harrier_client::Aeron;
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::Archive;
use super::recordings::StartRequest;
use super::replays::{Refusal, refusal};
use crate::catalog;
use crate::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext, ArchiveClientError, ReplayOptions};
use crate::codec::{ArchiveErrorCode, ReplayRequest, ReplicateRequest, Signal, SourceLocation};
use crate::descriptor::RecordingDescriptor;
use crate::replication::{Replication, ReplicationSetup, ReplicationState as State};

/// Result of one step of a replication.
enum Turn {
    /// Nothing to do yet.
    Waiting,
    /// Change to another state.
    Next(State),
    /// The replication has ended; only the signal reports it.
    Ended,
}

impl<M: Memory, S: Storage> Archive<M, S> {
    pub(super) fn on_replicate(
        &mut self,
        session_id: i64,
        request: &ReplicateRequest<'_>,
    ) -> Result<i64, Refusal> {
        let max = self.context.max_concurrent_recordings;
        if self.replications.len() >= max {
            let message =
                format!("too many replications: at most aeron.archive.max.concurrent.recordings={max}");
            return refusal(ArchiveErrorCode::MaxRecordings, message);
        }
        let id = self.next_session_id;
        let default = self.context.replication_channel.as_deref();
        let setup = ReplicationSetup::new(request, default, id)
            .map_err(|message| (ArchiveErrorCode::Generic, message))?;
        let target_id = request.target_recording_id;
        if target_id != -1 {
            let Some(target) = self.catalog.get(target_id) else {
                let message = format!("unknown destination recording id: {target_id}");
                return refusal(ArchiveErrorCode::UnknownRecording, message);
            };
            if target.is_active() || self.is_active(target_id) {
                let message = format!("cannot replicate to active recording {target_id}");
                return refusal(ArchiveErrorCode::ActiveRecording, message);
            }
        }
        let client = ArchiveClient::new(self.source_client(request, id)?);
        self.next_session_id += 1;
        let deadline_ns = self.now.ns + self.context.replication_message_timeout_ns;
        self.replications.push(Replication::new(id, session_id, setup, client, deadline_ns));
        Ok(id)
    }

    /// Creates the client of the source archive.
    fn source_client(
        &self,
        request: &ReplicateRequest<'_>,
        id: i64,
    ) -> Result<ArchiveClientContext, Refusal> {
        let response = match (request.source_response_channel, &self.context.replication_response_channel) {
            ("", Some(channel)) => channel.clone(),
            ("", None) => self.default_response_channel(request.source_control_channel)?,
            (channel, _) => channel.to_owned(),
        };
        let mut context = ArchiveClientContext::udp(request.source_control_channel, response);
        context.control_request_stream_id = request.source_control_stream_id;
        context.message_timeout_ns = self.context.replication_message_timeout_ns;
        context.credentials = request.credentials.to_vec();
        context.challenge_answer = request.credentials.to_vec();
        context.client_name = format!("archive archiveId={} replicationSessionId={id}", self.archive_id);
        context.control_term_buffer_length = self.context.control_term_buffer_length;
        context.control_mtu_length = self.context.control_mtu_length;
        context.seed = self.context.seed ^ (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Ok(context)
    }

    /// Builds a response channel with an ephemeral port on the archive's control host.
    fn default_response_channel(&self, source: &str) -> Result<String, Refusal> {
        let own = self.context.control_channel.as_deref().and_then(|own| ChannelUri::parse(own).ok());
        let host = own.as_ref().and_then(|own| own.get(key::ENDPOINT)).and_then(|own| own.rsplit_once(':'));
        match host {
            Some((host, _)) => Ok(format!("aeron:udp?endpoint={host}:0")),
            None if source.starts_with("aeron:ipc") => Ok("aeron:ipc".to_owned()),
            None => refusal(
                ArchiveErrorCode::Generic,
                "no response channel to the source archive: name one, or set \
                 aeron.archive.control.response.channel",
            ),
        }
    }

    pub(super) fn stop_replication(&mut self, id: i64) -> Result<i64, Refusal> {
        match self.replications.iter_mut().find(|own| own.id == id && !own.is_aborted) {
            Some(replication) => {
                replication.is_aborted = true;
                Ok(0)
            }
            None => refusal(ArchiveErrorCode::UnknownReplication, format!("unknown replication id {id}")),
        }
    }

    /// Advances replications. Runs before recordings so that the signal of the copy's end precedes the recording's.
    pub(super) fn serve_replications(&mut self) -> usize {
        let mut work_count = 0;
        for mut own in std::mem::take(&mut self.replications) {
            let turn = if own.is_aborted { Ok(Turn::Ended) } else { self.go_on_replicating(&mut own) };
            match turn {
                Ok(Turn::Waiting) => self.replications.push(own),
                Ok(Turn::Next(state)) => {
                    own.state = state;
                    own.deadline_ns = self.now.ns + self.context.replication_message_timeout_ns;
                    self.replications.push(own);
                    work_count += 1;
                }
                Ok(Turn::Ended) => {
                    self.end_replication(own, None);
                    work_count += 1;
                }
                Err(error) => {
                    self.end_replication(own, Some(error));
                    work_count += 1;
                }
            }
        }
        work_count
    }

    fn go_on_replicating(&mut self, own: &mut Replication) -> Result<Turn, Refusal> {
        if own.state.has_deadline() && own.state != State::Connect && self.now.ns > own.deadline_ns {
            let message = format!("replication {} timed out in {}", own.id, own.state.name());
            return refusal(ArchiveErrorCode::Generic, message);
        }
        let now = self.now;
        let code = match own.state {
            State::Connect => ArchiveErrorCode::ReplicationConnectionFailure,
            _ => ArchiveErrorCode::Generic,
        };
        own.client.poll(self.aeron(), &now).map_err(|error| (code, error.to_string()))?;
        match own.state {
            State::Connect => Ok(match own.client.is_connected() {
                true => Turn::Next(State::ReplicateDescriptor { correlation_id: None }),
                false => Turn::Waiting,
            }),
            State::ReplicateDescriptor { correlation_id } => self.replicate_descriptor(own, correlation_id),
            State::AwaitTarget { is_new } => self.await_target(own, is_new),
            State::SourceRecordingPosition { correlation_id } => self.ask_position(own, correlation_id),
            State::Extend => self.extend_target(own),
            State::AwaitExtension => self.await_extension(own),
            State::AddReplayDestination { command_id } => Ok(match self.is_command_done(command_id)? {
                true => Turn::Next(State::Replay { correlation_id: None }),
                false => Turn::Waiting,
            }),
            State::ReplayToken { correlation_id } => self.ask_replay_token(own, correlation_id),
            State::AwaitProxy { publication_id } => self.await_proxy(own, publication_id),
            State::Replay { correlation_id } => self.start_source_replay(own, correlation_id),
            State::AwaitImage => self.await_replicated_image(own),
            State::Replicate => self.copy(own),
            State::CatchUp => self.catch_up(own),
            State::AttemptLiveJoin { correlation_id } => self.attempt_live_join(own, correlation_id),
            State::AddLiveDestination { command_id } => {
                if !self.is_command_done(command_id)? {
                    return Ok(Turn::Waiting);
                }
                own.is_live_added = true;
                Ok(Turn::Next(State::CatchUp))
            }
            State::RemoveReplayDestination { command_id, position } => {
                if !self.is_command_done(command_id)? {
                    return Ok(Turn::Waiting);
                }
                own.is_merged = true;
                self.signal_replication(own, -1, position, Signal::Merge);
                Ok(Turn::Ended)
            }
        }
    }

    fn is_command_done(&mut self, command_id: i64) -> Result<bool, Refusal> {
        self.aeron().command_done(command_id).map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))
    }

    fn replicate_descriptor(
        &mut self,
        own: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        if correlation_id.is_none() {
            let source_id = own.setup.source_recording_id;
            let sent = own.client.list_recording(self.aeron(), source_id);
            return Ok(match sent_request(sent)? {
                None => Turn::Waiting,
                sent => Turn::Next(State::ReplicateDescriptor { correlation_id: sent }),
            });
        }
        match take_answer(own, correlation_id)? {
            None => Ok(Turn::Waiting),
            Some(ArchiveAnswer::Descriptor { descriptor, .. }) => self.on_source(own, *descriptor),
            Some(_) => {
                let message = format!("unknown source recording id: {}", own.setup.source_recording_id);
                refusal(ArchiveErrorCode::UnknownRecording, message)
            }
        }
    }

    /// Handles the source's descriptor: checks the target or creates a new one.
    fn on_source(&mut self, own: &mut Replication, source: RecordingDescriptor) -> Result<Turn, Refusal> {
        let generic = |message: String| (ArchiveErrorCode::Generic, message);
        catalog::check_descriptor(&source)
            .and_then(|()| catalog::check_positions(&source))
            .map_err(|reason| generic(format!("source archive: a recording cannot have {reason}")))?;
        let (io_length, mtu_length) = (own.setup.file_io_max_length, source.mtu_length);
        if io_length > 0 && io_length < mtu_length {
            return Err(generic(format!(
                "Replication fileIoMaxLength ({io_length}) is less than than the recording mtuLength ({mtu_length})"
            )));
        }
        let is_new = own.target_recording_id == -1;
        let writes = if is_new {
            let (id, writes) =
                self.catalog.add(as_empty(&source)).map_err(|error| generic(error.to_string()))?;
            own.target_recording_id = id;
            writes
        } else {
            let id = own.target_recording_id;
            let Some(target) = self.catalog.get(id) else {
                return refusal(ArchiveErrorCode::UnknownRecording, format!("unknown recording id: {id}"));
            };
            if target.is_active() || self.is_active(id) {
                return refusal(ArchiveErrorCode::ActiveRecording, format!("recording {id} is active"));
            }
            if target.start_position == target.stop_position {
                let replacement = RecordingDescriptor { recording_id: id, ..as_empty(&source) };
                let replaced = self.catalog.replace(id, |target| *target = replacement);
                replaced.map_err(|error| generic(error.to_string()))?
            } else {
                Vec::new()
            }
        };
        let ticket = self.write_catalog(writes);
        own.source = Some(source);
        own.ticket = Some(ticket);
        Ok(Turn::Next(State::AwaitTarget { is_new }))
    }

    /// Decides what to copy once the target is in the catalog.
    fn await_target(&mut self, own: &mut Replication, is_new: bool) -> Result<Turn, Refusal> {
        if own.ticket.as_mut().is_some_and(|ticket| !self.is_written(ticket)) {
            return Ok(Turn::Waiting);
        }
        let Some(source) = &own.source else { return Ok(Turn::Ended) };
        let (start, stop) = (source.start_position, source.stop_position);
        if is_new {
            self.signal_replication(own, -1, start, Signal::Replicate);
        }
        let position = self.catalog.get(own.target_recording_id).map_or(-1, |target| target.stop_position);
        own.last_position = position;
        let is_live = own.setup.live_destination.is_some();
        if is_live && stop != -1 {
            return refusal(
                ArchiveErrorCode::Generic,
                format!("cannot merge with a live stream: the source recording has stopped at {stop}"),
            );
        }
        if stop != -1 && (start == stop || position == stop) {
            self.signal_replication(own, -1, position, Signal::Sync);
            return Ok(Turn::Ended);
        }
        Ok(Turn::Next(match is_live {
            true => State::SourceRecordingPosition { correlation_id: None },
            false => State::Extend,
        }))
    }

    /// Extends the target with the stream that the source will replay.
    fn extend_target(&mut self, own: &mut Replication) -> Result<Turn, Refusal> {
        let Some(source) = &own.source else { return Ok(Turn::Ended) };
        let (stream_id, channel) = (source.stream_id, own.setup.recorded_channel(source));
        self.check_start(Some(own.target_recording_id), stream_id)?;
        self.check_space(StartRequest {
            control_session_id: own.control_session_id,
            correlation_id: own.id,
            stream_id,
            location: SourceLocation::Remote,
            auto_stop: true,
            channel,
            extends: Some(own.target_recording_id),
            replication_id: Some(own.id),
        });
        Ok(Turn::Next(State::AwaitExtension))
    }

    fn await_extension(&mut self, own: &mut Replication) -> Result<Turn, Refusal> {
        if self.space_checks.iter().any(|check| check.start.replication_id == Some(own.id)) {
            return Ok(Turn::Waiting);
        }
        let Some(subscribed) = self.subscriptions.iter().find(|sub| sub.replication_id == Some(own.id))
        else {
            // The client has been told why the extension failed.
            return Ok(Turn::Ended);
        };
        own.subscription_id = Some(subscribed.registration_id);
        if subscribed.subscription.is_none() {
            return Ok(Turn::Waiting);
        }
        if own.setup.is_response {
            return Ok(Turn::Next(State::ReplayToken { correlation_id: None }));
        }
        if !own.setup.is_multi_destination() || own.setup.channel.is_ipc() {
            return Ok(Turn::Next(State::Replay { correlation_id: None }));
        }
        let (registration_id, destination) = (subscribed.registration_id, own.setup.replay_destination());
        let command_id = self
            .aeron()
            .add_rcv_destination(registration_id, &destination)
            .map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))?;
        Ok(Turn::Next(State::AddReplayDestination { command_id }))
    }

    /// Returns the bound endpoint that receives the replay; an empty one for IPC.
    fn bound_endpoint(&self, own: &Replication) -> Option<String> {
        let Some(endpoint) = own.setup.channel.get(key::ENDPOINT) else { return Some(String::new()) };
        let Some(host) = endpoint.strip_suffix(":0") else { return Some(endpoint.to_owned()) };
        let aeron: &Aeron = self.aeron.as_ref()?;
        let subscribed = self.subscriptions.iter().find(|sub| sub.replication_id == Some(own.id))?;
        let addresses = subscribed.subscription.as_ref()?.local_socket_addresses(aeron.counters());
        let port = addresses.first()?.rsplit_once(':')?.1;
        Some(format!("{host}:{port}"))
    }

    fn start_source_replay(
        &mut self,
        own: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        if correlation_id.is_some() {
            return Ok(match take_answer(own, correlation_id)? {
                Some(ArchiveAnswer::Ok { relevant_id, .. }) => {
                    own.replay_session_id = Some(relevant_id);
                    own.proxy = None;
                    Turn::Next(State::AwaitImage)
                }
                _ => Turn::Waiting,
            });
        }
        let (Some(endpoint), Some(source)) = (self.bound_endpoint(own), &own.source) else {
            return Ok(Turn::Waiting);
        };
        let channel = own.setup.replay_channel(source, (!endpoint.is_empty()).then_some(&endpoint));
        let length = match own.setup.stop_position {
            -1 => -1,
            stop => stop - own.last_position,
        };
        let (source_id, stream_id) = (own.setup.source_recording_id, source.stream_id);
        let position = own.last_position;
        let options = ReplayOptions {
            file_io_max_length: Some(own.setup.file_io_max_length),
            ..ReplayOptions::default()
        };
        let sent = match &mut own.proxy {
            None => {
                own.client.replay(self.aeron(), source_id, position, length, &channel, stream_id, options)
            }
            Some(proxy) => {
                let request = ReplayRequest {
                    recording_id: source_id,
                    position,
                    length,
                    limit_counter_id: None,
                    stream_id,
                    file_io_max_length: own.setup.file_io_max_length,
                    replay_token: own.replay_token,
                    channel: &channel,
                };
                let correlation_id = self.aeron().next_correlation_id();
                own.client.replay_on(proxy, correlation_id, request)
            }
        };
        Ok(match sent_request(sent)? {
            None => Turn::Waiting,
            sent => Turn::Next(State::Replay { correlation_id: sent }),
        })
    }

    /// True while the extension waits for its image or records it.
    fn is_extending(&self, own: &Replication) -> bool {
        self.subscriptions.iter().any(|sub| sub.replication_id == Some(own.id) && sub.is_requested)
    }

    fn is_recording(&self, own: &Replication) -> bool {
        self.is_active(own.target_recording_id)
    }

    fn await_replicated_image(&mut self, own: &mut Replication) -> Result<Turn, Refusal> {
        take_answer(own, None)?;
        if self.is_recording(own) {
            own.ask_soon();
            return Ok(Turn::Next(match own.setup.live_destination.is_some() {
                true => State::CatchUp,
                false => State::Replicate,
            }));
        }
        Ok(if self.is_extending(own) { Turn::Waiting } else { Turn::Ended })
    }

    /// Returns the position up to which the target is written.
    fn target_position(&self, own: &Replication) -> i64 {
        let id = own.target_recording_id;
        let stopped = || self.catalog.get(id).map(|target| target.stop_position).filter(|stop| *stop != -1);
        self.active_position(id).or_else(stopped).unwrap_or(own.last_position)
    }

    fn copy(&mut self, own: &mut Replication) -> Result<Turn, Refusal> {
        let position = self.target_position(own);
        let source_stop = own.source.as_ref().map_or(-1, |source| source.stop_position);
        own.last_position = position;
        if source_stop != -1 && position >= source_stop {
            self.signal_replication(own, own.subscription_id.unwrap_or(-1), position, Signal::Sync);
            return Ok(Turn::Ended);
        }
        let is_at_stop = own.setup.stop_position != -1 && position >= own.setup.stop_position;
        if is_at_stop || !self.is_recording(own) {
            return Ok(Turn::Ended);
        }
        take_answer(own, None)?;
        Ok(Turn::Waiting)
    }

    fn signal_replication(&mut self, own: &Replication, subscription_id: i64, position: i64, signal: Signal) {
        let (id, recording_id) = (own.id, own.target_recording_id);
        if let Some(session) = self.session(own.control_session_id) {
            session.send_signal(id, recording_id, subscription_id, position, signal);
        }
    }

    fn end_replication(&mut self, mut own: Replication, error: Option<Refusal>) {
        if let Some((code, message)) = error {
            self.refuse(own.control_session_id, own.id, code, &message);
        }
        if own.is_merged {
            if let Some(sub) = self.subscriptions.iter_mut().find(|sub| sub.replication_id == Some(own.id)) {
                sub.replication_id = None;
            }
        } else {
            self.space_checks.retain(|check| check.start.replication_id != Some(own.id));
            self.stop_subscription(|sub| sub.replication_id == Some(own.id));
        }
        if let (Some(replay_session_id), true) = (own.replay_session_id, own.client.is_connected()) {
            // If this message is lost, the replay ends when its subscriber is gone.
            let _unsent = own.client.stop_replay(self.aeron(), replay_session_id);
        }
        own.client.close();
        self.signal_replication(&own, -1, -1, Signal::ReplicateEnd);
    }
}

/// Builds an empty target recording for a source.
fn as_empty(source: &RecordingDescriptor) -> RecordingDescriptor {
    RecordingDescriptor {
        control_session_id: 0,
        correlation_id: 0,
        stop_timestamp: source.start_timestamp,
        stop_position: source.start_position,
        ..source.clone()
    }
}

fn take_answer(own: &mut Replication, wanted: Option<i64>) -> Result<Option<ArchiveAnswer>, Refusal> {
    own.take_answer(wanted).map_err(|message| (ArchiveErrorCode::Generic, message))
}

/// Returns the correlation id of a sent request; `None` when it must be sent again.
fn sent_request(sent: Result<i64, ArchiveClientError>) -> Result<Option<i64>, Refusal> {
    match sent {
        Ok(correlation_id) => Ok(Some(correlation_id)),
        Err(ArchiveClientError::BackPressured) => Ok(None),
        Err(error) => refusal(ArchiveErrorCode::Generic, error.to_string()),
    }
}
