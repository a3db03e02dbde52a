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
                let message = format!("unknown destination recording id {target_id}");
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
        &mut self,
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
        context.seed = self.rng.next_u64();
        Ok(context)
    }

    /// Builds a response channel with an ephemeral port on the archive's control host.
    fn default_response_channel(&self, source: &str) -> Result<String, Refusal> {
        let control =
            self.context.control_channel.as_deref().and_then(|channel| ChannelUri::parse(channel).ok());
        let host = control
            .as_ref()
            .and_then(|uri| uri.get(key::ENDPOINT))
            .and_then(|endpoint| endpoint.rsplit_once(':'));
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
        match self.replications.iter_mut().find(|replication| replication.id == id && !replication.is_aborted)
        {
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
        for mut replication in std::mem::take(&mut self.replications) {
            let turn = if replication.is_aborted {
                Ok(Turn::Ended)
            } else {
                self.go_on_replicating(&mut replication)
            };
            match turn {
                Ok(Turn::Waiting) => self.replications.push(replication),
                Ok(Turn::Next(state)) => {
                    replication.state = state;
                    replication.deadline_ns = self.now.ns + self.context.replication_message_timeout_ns;
                    self.replications.push(replication);
                    work_count += 1;
                }
                Ok(Turn::Ended) => {
                    self.end_replication(replication, None);
                    work_count += 1;
                }
                Err(error) => {
                    self.end_replication(replication, Some(error));
                    work_count += 1;
                }
            }
        }
        work_count
    }

    fn go_on_replicating(&mut self, replication: &mut Replication) -> Result<Turn, Refusal> {
        if replication.state.has_deadline()
            && replication.state != State::Connect
            && self.now.ns > replication.deadline_ns
        {
            let message = format!("replication {} timed out in {}", replication.id, replication.state.name());
            return refusal(ArchiveErrorCode::Generic, message);
        }
        let now = self.now;
        let code = match replication.state {
            State::Connect => ArchiveErrorCode::ReplicationConnectionFailure,
            _ => ArchiveErrorCode::Generic,
        };
        replication.client.poll(self.aeron(), &now).map_err(|error| (code, error.to_string()))?;
        match replication.state {
            State::Connect => Ok(match replication.client.is_connected() {
                true => Turn::Next(State::ReplicateDescriptor { correlation_id: None }),
                false => Turn::Waiting,
            }),
            State::ReplicateDescriptor { correlation_id } => {
                self.replicate_descriptor(replication, correlation_id)
            }
            State::AwaitTarget { is_new } => self.await_target(replication, is_new),
            State::SourceRecordingPosition { correlation_id } => {
                self.ask_position(replication, correlation_id)
            }
            State::Extend => self.extend_target(replication),
            State::AwaitExtension => self.await_extension(replication),
            State::AddReplayDestination { command_id } => Ok(match self.is_command_done(command_id)? {
                true => Turn::Next(State::Replay { correlation_id: None }),
                false => Turn::Waiting,
            }),
            State::ReplayToken { correlation_id } => self.ask_replay_token(replication, correlation_id),
            State::AwaitProxy { publication_id } => self.await_proxy(replication, publication_id),
            State::Replay { correlation_id } => self.start_source_replay(replication, correlation_id),
            State::AwaitImage => self.await_replicated_image(replication),
            State::Replicate => self.copy(replication),
            State::CatchUp => self.catch_up(replication),
            State::AttemptLiveJoin { correlation_id } => self.attempt_live_join(replication, correlation_id),
            State::AddLiveDestination { command_id } => {
                if !self.is_command_done(command_id)? {
                    return Ok(Turn::Waiting);
                }
                replication.is_live_added = true;
                Ok(Turn::Next(State::CatchUp))
            }
            State::RemoveReplayDestination { command_id, position } => {
                if !self.is_command_done(command_id)? {
                    return Ok(Turn::Waiting);
                }
                replication.is_merged = true;
                self.signal_replication(replication, -1, position, Signal::Merge);
                Ok(Turn::Ended)
            }
        }
    }

    fn is_command_done(&mut self, command_id: i64) -> Result<bool, Refusal> {
        self.aeron().command_done(command_id).map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))
    }

    fn replicate_descriptor(
        &mut self,
        replication: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        if correlation_id.is_none() {
            let source_id = replication.setup.source_recording_id;
            let sent = replication.client.list_recording(self.aeron(), source_id);
            return Ok(match sent_request(sent)? {
                None => Turn::Waiting,
                sent => Turn::Next(State::ReplicateDescriptor { correlation_id: sent }),
            });
        }
        match take_answer(replication, correlation_id)? {
            None => Ok(Turn::Waiting),
            Some(ArchiveAnswer::Descriptor { descriptor, .. }) => self.on_source(replication, *descriptor),
            Some(_) => {
                let message = format!("unknown src recording id {}", replication.setup.source_recording_id);
                refusal(ArchiveErrorCode::UnknownRecording, message)
            }
        }
    }

    /// Handles the source's descriptor: checks the target or creates a new one.
    fn on_source(
        &mut self,
        replication: &mut Replication,
        source: RecordingDescriptor,
    ) -> Result<Turn, Refusal> {
        let generic = |message: String| (ArchiveErrorCode::Generic, message);
        catalog::check_descriptor(&source)
            .and_then(|()| catalog::check_positions(&source))
            .map_err(|reason| generic(format!("source archive: a recording cannot have {reason}")))?;
        let (io_length, mtu_length) = (replication.setup.file_io_max_length, source.mtu_length);
        if io_length > 0 && io_length < mtu_length {
            return Err(generic(format!(
                "Replication fileIoMaxLength ({io_length}) is less than than the recording mtuLength ({mtu_length})"
            )));
        }
        let is_new = replication.target_recording_id == -1;
        let writes = if is_new {
            let (id, writes) =
                self.catalog.add(as_empty(&source)).map_err(|error| generic(error.to_string()))?;
            replication.target_recording_id = id;
            writes
        } else {
            let id = replication.target_recording_id;
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
        replication.source = Some(source);
        replication.ticket = Some(ticket);
        Ok(Turn::Next(State::AwaitTarget { is_new }))
    }

    /// Decides what to copy once the target is in the catalog.
    fn await_target(&mut self, replication: &mut Replication, is_new: bool) -> Result<Turn, Refusal> {
        if replication.ticket.as_mut().is_some_and(|ticket| !self.is_written(ticket)) {
            return Ok(Turn::Waiting);
        }
        let Some(source) = &replication.source else { return Ok(Turn::Ended) };
        let (start, stop) = (source.start_position, source.stop_position);
        if is_new {
            self.signal_replication(replication, -1, start, Signal::Replicate);
        }
        let position =
            self.catalog.get(replication.target_recording_id).map_or(-1, |target| target.stop_position);
        replication.last_position = position;
        let is_live = replication.setup.live_destination.is_some();
        if is_live && stop != -1 {
            return refusal(
                ArchiveErrorCode::Generic,
                format!("cannot merge with a live stream: the source recording has stopped at {stop}"),
            );
        }
        if stop != -1 && (start == stop || position == stop) {
            self.signal_replication(replication, -1, position, Signal::Sync);
            return Ok(Turn::Ended);
        }
        Ok(Turn::Next(match is_live {
            true => State::SourceRecordingPosition { correlation_id: None },
            false => State::Extend,
        }))
    }

    /// Extends the target with the stream that the source will replay.
    fn extend_target(&mut self, replication: &mut Replication) -> Result<Turn, Refusal> {
        let Some(source) = &replication.source else { return Ok(Turn::Ended) };
        let (stream_id, channel) = (source.stream_id, replication.setup.recorded_channel(source));
        self.check_start(Some(replication.target_recording_id), stream_id)?;
        self.check_space(StartRequest {
            control_session_id: replication.control_session_id,
            correlation_id: replication.id,
            stream_id,
            location: SourceLocation::Remote,
            auto_stop: true,
            channel,
            extends: Some(replication.target_recording_id),
            replication_id: Some(replication.id),
        });
        Ok(Turn::Next(State::AwaitExtension))
    }

    fn await_extension(&mut self, replication: &mut Replication) -> Result<Turn, Refusal> {
        if self.space_checks.iter().any(|check| check.start.replication_id == Some(replication.id)) {
            return Ok(Turn::Waiting);
        }
        let Some(subscribed) =
            self.subscriptions.iter().find(|sub| sub.replication_id == Some(replication.id))
        else {
            // The client already has the error of the failed extension.
            return Ok(Turn::Ended);
        };
        replication.subscription_id = Some(subscribed.registration_id);
        if subscribed.subscription.is_none() {
            return Ok(Turn::Waiting);
        }
        if replication.setup.is_response {
            return Ok(Turn::Next(State::ReplayToken { correlation_id: None }));
        }
        if !replication.setup.is_multi_destination() || replication.setup.channel.is_ipc() {
            return Ok(Turn::Next(State::Replay { correlation_id: None }));
        }
        let (registration_id, destination) =
            (subscribed.registration_id, replication.setup.replay_destination());
        let command_id = self
            .aeron()
            .add_rcv_destination(registration_id, &destination)
            .map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))?;
        Ok(Turn::Next(State::AddReplayDestination { command_id }))
    }

    /// Returns the bound endpoint that receives the replay; an empty one for IPC.
    fn bound_endpoint(&self, replication: &Replication) -> Option<String> {
        let Some(endpoint) = replication.setup.channel.get(key::ENDPOINT) else { return Some(String::new()) };
        let Some(host) = endpoint.strip_suffix(":0") else { return Some(endpoint.to_owned()) };
        let aeron: &Aeron = self.aeron.as_ref()?;
        let subscribed = self.subscriptions.iter().find(|sub| sub.replication_id == Some(replication.id))?;
        let addresses = subscribed.subscription.as_ref()?.local_socket_addresses(aeron.counters());
        let port = addresses.first()?.rsplit_once(':')?.1;
        Some(format!("{host}:{port}"))
    }

    fn start_source_replay(
        &mut self,
        replication: &mut Replication,
        correlation_id: Option<i64>,
    ) -> Result<Turn, Refusal> {
        if correlation_id.is_some() {
            return Ok(match take_answer(replication, correlation_id)? {
                Some(ArchiveAnswer::Ok { relevant_id, .. }) => {
                    replication.replay_session_id = Some(relevant_id);
                    replication.proxy = None;
                    Turn::Next(State::AwaitImage)
                }
                _ => Turn::Waiting,
            });
        }
        let (Some(endpoint), Some(source)) = (self.bound_endpoint(replication), &replication.source) else {
            return Ok(Turn::Waiting);
        };
        let channel = replication.setup.replay_channel(source, (!endpoint.is_empty()).then_some(&endpoint));
        let length = match replication.setup.stop_position {
            -1 => -1,
            stop => stop - replication.last_position,
        };
        let (source_id, stream_id) = (replication.setup.source_recording_id, source.stream_id);
        let position = replication.last_position;
        let options = ReplayOptions {
            file_io_max_length: Some(replication.setup.file_io_max_length),
            ..ReplayOptions::default()
        };
        let sent = match &mut replication.proxy {
            None => replication.client.replay(
                self.aeron(),
                source_id,
                position,
                length,
                &channel,
                stream_id,
                options,
            ),
            Some(proxy) => {
                let request = ReplayRequest {
                    recording_id: source_id,
                    position,
                    length,
                    limit_counter_id: None,
                    stream_id,
                    file_io_max_length: replication.setup.file_io_max_length,
                    replay_token: replication.replay_token,
                    channel: &channel,
                };
                let correlation_id = self.aeron().next_correlation_id();
                replication.client.replay_on(proxy, correlation_id, request)
            }
        };
        Ok(match sent_request(sent)? {
            None => Turn::Waiting,
            sent => Turn::Next(State::Replay { correlation_id: sent }),
        })
    }

    /// True while the extension waits for its image or records it.
    fn is_extending(&self, replication: &Replication) -> bool {
        self.subscriptions.iter().any(|sub| sub.replication_id == Some(replication.id) && sub.is_requested)
    }

    fn is_recording(&self, replication: &Replication) -> bool {
        self.is_active(replication.target_recording_id)
    }

    fn await_replicated_image(&mut self, replication: &mut Replication) -> Result<Turn, Refusal> {
        take_answer(replication, None)?;
        if self.is_recording(replication) {
            replication.ask_soon();
            return Ok(Turn::Next(match replication.setup.live_destination.is_some() {
                true => State::CatchUp,
                false => State::Replicate,
            }));
        }
        Ok(if self.is_extending(replication) { Turn::Waiting } else { Turn::Ended })
    }

    /// Returns the position up to which the target is written.
    fn target_position(&self, replication: &Replication) -> i64 {
        let id = replication.target_recording_id;
        let stopped = || self.catalog.get(id).map(|target| target.stop_position).filter(|stop| *stop != -1);
        self.active_position(id).or_else(stopped).unwrap_or(replication.last_position)
    }

    fn copy(&mut self, replication: &mut Replication) -> Result<Turn, Refusal> {
        let position = self.target_position(replication);
        let source_stop = replication.source.as_ref().map_or(-1, |source| source.stop_position);
        replication.last_position = position;
        if source_stop != -1 && position >= source_stop {
            self.signal_replication(
                replication,
                replication.subscription_id.unwrap_or(-1),
                position,
                Signal::Sync,
            );
            return Ok(Turn::Ended);
        }
        let is_at_stop = replication.setup.stop_position != -1 && position >= replication.setup.stop_position;
        if is_at_stop || !self.is_recording(replication) {
            return Ok(Turn::Ended);
        }
        take_answer(replication, None)?;
        Ok(Turn::Waiting)
    }

    fn signal_replication(
        &mut self,
        replication: &Replication,
        subscription_id: i64,
        position: i64,
        signal: Signal,
    ) {
        let (id, recording_id) = (replication.id, replication.target_recording_id);
        if let Some(session) = self.session(replication.control_session_id) {
            session.send_signal(id, recording_id, subscription_id, position, signal);
        }
    }

    fn end_replication(&mut self, mut replication: Replication, error: Option<Refusal>) {
        if let Some((code, message)) = error {
            self.refuse(replication.control_session_id, replication.id, code, &message);
        }
        if replication.is_merged {
            if let Some(sub) =
                self.subscriptions.iter_mut().find(|sub| sub.replication_id == Some(replication.id))
            {
                sub.replication_id = None;
            }
        } else {
            self.space_checks.retain(|check| check.start.replication_id != Some(replication.id));
            self.stop_subscription(|sub| sub.replication_id == Some(replication.id));
        }
        if let (Some(replay_session_id), true) =
            (replication.replay_session_id, replication.client.is_connected())
        {
            // If this message is lost, the replay ends when its subscriber is gone.
            let _unsent = replication.client.stop_replay(self.aeron(), replay_session_id);
        }
        replication.client.close();
        self.signal_replication(&replication, -1, -1, Signal::ReplicateEnd);
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

fn take_answer(replication: &mut Replication, wanted: Option<i64>) -> Result<Option<ArchiveAnswer>, Refusal> {
    replication.take_answer(wanted).map_err(|message| (ArchiveErrorCode::Generic, message))
}

/// Returns the correlation id of a sent request; `None` when it must be sent again.
fn sent_request(sent: Result<i64, ArchiveClientError>) -> Result<Option<i64>, Refusal> {
    match sent {
        Ok(correlation_id) => Ok(Some(correlation_id)),
        Err(ArchiveClientError::BackPressured) => Ok(None),
        Err(error) => refusal(ArchiveErrorCode::Generic, error.to_string()),
    }
}
