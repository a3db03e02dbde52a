//! Dispatch of client requests (spec 03 §2.8).

use harrier_protocol::counter_types::{Key, type_id};
use harrier_protocol::uri::{ChannelUri, ControlMode, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::recordings::StartRequest;
use super::{Archive, CONTROL_SESSIONS, Origin};
use crate::channel;
use crate::codec::{ArchiveErrorCode, ControlCode, Request, RequestBody, Response};
use crate::counters;
use crate::session::{ControlSession, Listing, SessionSetup};

/// Catalog entries examined per session and duty cycle.
const LISTING_LIMIT: usize = 64;

impl<M: Memory, S: Storage> Archive<M, S> {
    pub(super) fn on_request(&mut self, request: &Request<'_>, origin: Origin<'_>) {
        let Request { control_session_id: id, correlation_id, body } = *request;
        match body {
            RequestBody::Connect {
                response_stream_id,
                version,
                response_channel,
                credentials,
                client_info,
            } => {
                let connect = Connect {
                    correlation_id,
                    response_stream_id,
                    version,
                    response_channel,
                    credentials,
                    client_info,
                    origin,
                };
                if let Err(message) = self.on_connect(&connect) {
                    self.refuse_message("connect request", &message);
                }
                return;
            }
            RequestBody::CloseSession => {
                if let Some(session) = self.session_of(id, origin) {
                    session.state = crate::session::SessionState::Done;
                }
                return;
            }
            RequestBody::ChallengeResponse { credentials } => {
                if let Some(session) = self.session_of(id, origin) {
                    session.on_challenge_response(correlation_id, credentials);
                }
                return;
            }
            RequestBody::Replay(replay)
                if self.on_token_replay(correlation_id, &replay, origin.image_correlation_id) =>
            {
                return;
            }
            _ => {}
        }
        let Some(session) = self.session_of(id, origin) else {
            return self.refuse_message("WARN: request of unknown control session", &id.to_string());
        };
        // Two requests ignore the session's state (spec 03 §2.5).
        let is_heard = session.accept_request()
            || matches!(body, RequestBody::ReplayToken { .. } | RequestBody::UpdateChannel { .. });
        if !is_heard {
            return;
        }
        if !self.context.authorisation.allows(request.template_id()) {
            let message = format!("unauthorised action={}", request.template_id());
            return self.refuse(id, correlation_id, ArchiveErrorCode::UnauthorisedAction, &message);
        }
        self.on_authorised(id, correlation_id, &body);
    }

    /// Returns a session that the request's image has opened. Images of other clients cannot use it.
    fn session_of(&mut self, id: i64, origin: Origin<'_>) -> Option<&mut ControlSession> {
        self.session(id).filter(|session| session.image_correlation_id == origin.image_correlation_id)
    }

    #[expect(clippy::too_many_lines, reason = "a table: one arm for each request")]
    fn on_authorised(&mut self, id: i64, correlation_id: i64, body: &RequestBody<'_>) {
        let outcome = match *body {
            RequestBody::KeepAlive => Ok(None),
            RequestBody::ArchiveId => Ok(Some(self.archive_id)),
            RequestBody::StartRecording { stream_id, location, auto_stop, channel } => {
                self.check_start(None, stream_id).map(|()| {
                    self.check_space(StartRequest {
                        control_session_id: id,
                        correlation_id,
                        stream_id,
                        location,
                        auto_stop,
                        channel: channel.to_owned(),
                        extends: None,
                        replication_id: None,
                    });
                    None
                })
            }
            RequestBody::ExtendRecording { recording_id, stream_id, location, auto_stop, channel } => {
                self.check_start(Some(recording_id), stream_id).map(|()| {
                    self.check_space(StartRequest {
                        control_session_id: id,
                        correlation_id,
                        stream_id,
                        location,
                        auto_stop,
                        channel: channel.to_owned(),
                        extends: Some(recording_id),
                        replication_id: None,
                    });
                    None
                })
            }
            RequestBody::StopRecording { stream_id, channel } => self.on_stop_recording(stream_id, channel),
            RequestBody::StopRecordingSubscription { subscription_id } => {
                if self.stop_subscription(|entry| entry.registration_id == subscription_id) {
                    Ok(Some(0))
                } else {
                    let message = format!("no recording subscription found for {subscription_id}");
                    Err((ArchiveErrorCode::UnknownSubscription, message))
                }
            }
            RequestBody::StopRecordingByIdentity { recording_id } => {
                self.known(recording_id).map(|()| Some(i64::from(self.stop_recording_by_id(recording_id))))
            }
            RequestBody::Replay(replay) => {
                self.on_replay(id, correlation_id, &replay, None);
                Ok(None)
            }
            RequestBody::StopReplay { replay_session_id } => {
                self.stop_replays(|replay| replay.session_id() == replay_session_id);
                Ok(Some(0))
            }
            RequestBody::StopAllReplays { recording_id } => {
                self.stop_replays(|replay| {
                    recording_id == -1 || replay.setup.recording.recording_id == recording_id
                });
                Ok(Some(0))
            }
            RequestBody::TruncateRecording { recording_id, position } => {
                self.truncate(id, correlation_id, recording_id, position).map(|()| None)
            }
            RequestBody::PurgeRecording { recording_id } => {
                self.purge(id, correlation_id, recording_id).map(|()| None)
            }
            _ => self.on_segments(id, correlation_id, body),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(relevant_id)) => {
                if let Some(session) = self.session(id) {
                    session.send_ok(correlation_id, relevant_id);
                }
            }
            Err((code, message)) => self.refuse(id, correlation_id, code, &message),
        }
    }

    /// Handles requests that move the ends of recordings or change a channel.
    fn on_segments(
        &mut self,
        id: i64,
        correlation_id: i64,
        body: &RequestBody<'_>,
    ) -> Result<Option<i64>, (ArchiveErrorCode, String)> {
        match *body {
            RequestBody::DetachSegments { recording_id, new_start_position } => {
                self.detach_segments(recording_id, new_start_position).map(|()| Some(0))
            }
            RequestBody::DeleteDetachedSegments { recording_id } => {
                self.delete_detached_segments(id, correlation_id, recording_id).map(|()| None)
            }
            RequestBody::PurgeSegments { recording_id, new_start_position } => {
                self.purge_segments(id, correlation_id, recording_id, new_start_position).map(|()| None)
            }
            RequestBody::AttachSegments { recording_id } => {
                self.attach_segments(id, correlation_id, recording_id).map(|()| None)
            }
            RequestBody::MigrateSegments { source_recording_id, target_recording_id } => self
                .migrate_segments(id, correlation_id, source_recording_id, target_recording_id)
                .map(|()| None),
            RequestBody::UpdateChannel { recording_id, channel } => {
                self.update_channel(id, correlation_id, recording_id, channel)
            }
            _ => self.on_query(id, correlation_id, body),
        }
    }

    /// Handles read-only requests and requests that this archive does not support.
    fn on_query(
        &mut self,
        id: i64,
        correlation_id: i64,
        body: &RequestBody<'_>,
    ) -> Result<Option<i64>, (ArchiveErrorCode, String)> {
        match *body {
            RequestBody::RecordingPosition { recording_id } => {
                self.known(recording_id).map(|()| Some(self.active_position(recording_id).unwrap_or(-1)))
            }
            RequestBody::StartPosition { recording_id } => {
                self.known(recording_id)?;
                Ok(self.catalog.get(recording_id).map(|entry| entry.start_position))
            }
            RequestBody::StopPosition { recording_id } => {
                self.known(recording_id)?;
                Ok(self.catalog.get(recording_id).map(|entry| entry.stop_position))
            }
            RequestBody::MaxRecordedPosition { recording_id } => {
                self.known(recording_id)?;
                let stop = self.catalog.get(recording_id).map(|entry| entry.stop_position);
                Ok(self.active_position(recording_id).or(stop))
            }
            RequestBody::FindLastMatchingRecording { min_recording_id, session_id, stream_id, channel } => {
                if min_recording_id < 0 {
                    let message = format!("minRecordingId={min_recording_id} < 0");
                    return Err((ArchiveErrorCode::UnknownRecording, message));
                }
                let last = self.catalog.valid_from(min_recording_id).filter(|recording| {
                    recording.session_id == session_id
                        && recording.stream_id == stream_id
                        && recording.original_channel.contains(channel)
                });
                Ok(Some(last.last().map_or(-1, |entry| entry.recording_id)))
            }
            RequestBody::ListRecording { recording_id } => {
                self.list_one(id, correlation_id, recording_id);
                Ok(None)
            }
            RequestBody::ListRecordings { from_recording_id, count } => {
                self.begin_listing(id, correlation_id, from_recording_id, count, None)
            }
            RequestBody::ListRecordingsForUri { from_recording_id, count, stream_id, channel } => {
                let filter = Some((stream_id, channel.to_owned()));
                self.begin_listing(id, correlation_id, from_recording_id, count, filter)
            }
            RequestBody::ListRecordingSubscriptions {
                pseudo_index,
                count,
                applies_stream_id,
                stream_id,
                channel,
            } => {
                let stream_id = applies_stream_id.then_some(stream_id);
                self.list_subscriptions(id, correlation_id, pseudo_index, count, stream_id, channel);
                Ok(None)
            }
            RequestBody::ReplayToken { recording_id } => self.make_replay_token(id, recording_id).map(Some),
            RequestBody::Replicate(replicate) => self.on_replicate(id, &replicate).map(Some),
            RequestBody::StopReplication { replication_id } => {
                self.stop_replication(replication_id).map(Some)
            }
            _ => Err((ArchiveErrorCode::Generic, "this archive does not support the request".to_owned())),
        }
    }

    fn known(&self, recording_id: i64) -> Result<(), (ArchiveErrorCode, String)> {
        if self.catalog.get(recording_id).is_some() {
            return Ok(());
        }
        Err((ArchiveErrorCode::UnknownRecording, format!("unknown recording id: {recording_id}")))
    }

    /// Checks that one more recording may be active. Requests are checked, and each recording again when it starts.
    pub(super) fn check_count(&self) -> Result<(), (ArchiveErrorCode, String)> {
        let max = self.context.max_concurrent_recordings;
        if self.recordings.len() + self.starting.len() < max {
            return Ok(());
        }
        Err((ArchiveErrorCode::MaxRecordings, format!("max concurrent recordings reached {max}")))
    }

    pub(super) fn check_start(
        &self,
        extends: Option<i64>,
        stream_id: i32,
    ) -> Result<(), (ArchiveErrorCode, String)> {
        self.check_count()?;
        let Some(recording_id) = extends else { return Ok(()) };
        self.known(recording_id)?;
        let actual = self.catalog.get(recording_id).map(|recording| recording.stream_id);
        if actual != Some(stream_id) {
            let message = format!("cannot extend recording {recording_id} with streamId={stream_id}");
            return Err((ArchiveErrorCode::UnknownRecording, message));
        }
        if self.is_active(recording_id) {
            let message = format!("cannot extend active recording {recording_id}");
            return Err((ArchiveErrorCode::ActiveRecording, message));
        }
        Ok(())
    }

    fn on_stop_recording(
        &mut self,
        stream_id: i32,
        channel: &str,
    ) -> Result<Option<i64>, (ArchiveErrorCode, String)> {
        let uri = channel::parse(channel).map_err(|error| (ArchiveErrorCode::Generic, error.to_string()))?;
        let key = channel::subscription_key(&uri, stream_id);
        if self.stop_subscription(|entry| entry.key == key) {
            return Ok(Some(0));
        }
        let message = format!("no recording found for streamId={stream_id} channel={channel}");
        Err((ArchiveErrorCode::UnknownSubscription, message))
    }

    fn list_one(&mut self, id: i64, correlation_id: i64, recording_id: i64) {
        let descriptor = self.catalog.get(recording_id).cloned();
        let Some(session) = self.session(id) else { return };
        match descriptor {
            Some(descriptor) => session.send_response(&Response::Descriptor {
                control_session_id: id,
                correlation_id,
                descriptor: Box::new(descriptor),
            }),
            None => session.send_unknown(correlation_id, recording_id, ControlCode::RecordingUnknown),
        }
    }

    fn begin_listing(
        &mut self,
        id: i64,
        correlation_id: i64,
        from: i64,
        count: i32,
        filter: Option<(i32, String)>,
    ) -> Result<Option<i64>, (ArchiveErrorCode, String)> {
        let Some(session) = self.session(id) else { return Ok(None) };
        if session.listing.is_some() {
            return Err((ArchiveErrorCode::ActiveListing, "active listing already in progress".to_owned()));
        }
        if count <= 0 {
            session.send_unknown(correlation_id, from, ControlCode::RecordingUnknown);
            return Ok(None);
        }
        session.listing = Some(Listing { correlation_id, next_recording_id: from, remaining: count, filter });
        Ok(None)
    }

    pub(super) fn continue_listings(&mut self) -> usize {
        let mut work_count = 0;
        for session in &mut self.sessions {
            if !session.has_room() {
                continue;
            }
            let Some(mut listing) = session.listing.take() else { continue };
            let mut looked_at = 0;
            for recording in self.catalog.valid_from(listing.next_recording_id) {
                if looked_at == LISTING_LIMIT || listing.remaining == 0 {
                    break;
                }
                looked_at += 1;
                listing.next_recording_id = recording.recording_id + 1;
                let is_match = listing.filter.as_ref().is_none_or(|(stream_id, fragment)| {
                    recording.stream_id == *stream_id && recording.original_channel.contains(fragment)
                });
                if !is_match {
                    continue;
                }
                listing.remaining -= 1;
                session.send_response(&Response::Descriptor {
                    control_session_id: session.id,
                    correlation_id: listing.correlation_id,
                    descriptor: Box::new(recording.clone()),
                });
            }
            work_count += looked_at;
            let is_at_end = self.catalog.valid_from(listing.next_recording_id).next().is_none();
            if listing.remaining > 0 && is_at_end {
                let next = listing.next_recording_id.max(0);
                session.send_unknown(listing.correlation_id, next, ControlCode::RecordingUnknown);
            } else if listing.remaining > 0 {
                session.listing = Some(listing);
            }
        }
        work_count
    }

    fn list_subscriptions(
        &mut self,
        id: i64,
        correlation_id: i64,
        pseudo_index: i32,
        count: i32,
        stream_id: Option<i32>,
        fragment: &str,
    ) {
        let first = usize::try_from(pseudo_index).unwrap_or(usize::MAX);
        let wanted = usize::try_from(count).unwrap_or(0);
        let found: Vec<(i64, i32, String)> = self
            .subscriptions
            .iter()
            .skip(first)
            .filter(|entry| entry.is_requested && entry.subscription.is_some())
            .filter(|entry| stream_id.is_none_or(|wanted| wanted == entry.stream_id))
            .filter(|entry| entry.subscribed_channel.contains(fragment))
            .take(wanted)
            .map(|entry| (entry.registration_id, entry.stream_id, entry.subscribed_channel.clone()))
            .collect();
        let Some(session) = self.session(id) else { return };
        for (subscription_id, stream_id, channel) in &found {
            session.send_response(&Response::SubscriptionDescriptor {
                control_session_id: id,
                correlation_id,
                subscription_id: *subscription_id,
                stream_id: *stream_id,
                channel,
            });
        }
        if found.len() < wanted || wanted == 0 {
            session.send_unknown(correlation_id, 0, ControlCode::SubscriptionUnknown);
        }
    }

    fn on_connect(&mut self, connect: &Connect<'_>) -> Result<(), String> {
        if self.sessions.len() >= self.context.max_control_sessions {
            return Err(format!("too many control sessions: at most {}", self.context.max_control_sessions));
        }
        let uri = channel::parse(connect.response_channel).map_err(|error| error.to_string())?;
        let response = self.response_channel(&uri, connect.origin.image_correlation_id);
        let id = self.next_session_id;
        self.next_session_id += 1;
        let archive_id = self.archive_id;
        let text = format!(
            "control-session: {} sourceIdentity={} sessionId={}",
            connect.client_info, connect.origin.source, connect.origin.image_session_id
        );
        let label = counters::label(&text, archive_id);
        let key = Key::of_i64(archive_id).with(&id.to_le_bytes());
        let aeron = self.aeron();
        let publication_id = aeron
            .add_exclusive_publication(&response, connect.response_stream_id)
            .map_err(|error| error.to_string())?;
        let counter_id = aeron
            .add_counter(type_id::ARCHIVE_CONTROL_SESSION, key.as_bytes(), label.as_str())
            .map_err(|error| error.to_string())?;
        let setup = SessionSetup {
            id,
            correlation_id: connect.correlation_id,
            client_version: connect.version,
            credentials: connect.credentials.to_vec(),
            image_correlation_id: connect.origin.image_correlation_id,
            publication_id,
            counter_id,
            connect_timeout_ns: self.context.connect_timeout_ns,
            ping_interval_ns: self.context.session_liveness_check_interval_ns,
        };
        self.sessions.push(ControlSession::new(setup, self.now.ns));
        self.add_to(CONTROL_SESSIONS, 1);
        Ok(())
    }

    /// Builds the channel of the response publication (spec 03 §2.5).
    fn response_channel(&self, uri: &ChannelUri, image_correlation_id: i64) -> String {
        let mut response = channel::strip(uri);
        if uri.control_mode() == Some(ControlMode::Response) {
            response.put(key::RESPONSE_CORRELATION_ID, image_correlation_id);
        }
        let text = |key: &str, default: String| uri.get(key).map_or(default, str::to_owned);
        response.put(
            key::TERM_LENGTH,
            text(key::TERM_LENGTH, self.context.control_term_buffer_length.to_string()),
        );
        response.put(key::MTU, text(key::MTU, self.context.control_mtu_length.to_string()));
        // An unauthenticated client must not cause memory to be allocated: its `sparse` parameter is honoured only when
        // the archive's own logs are not sparse.
        let is_sparse = self.context.control_term_buffer_sparse;
        let sparse = if is_sparse { is_sparse.to_string() } else { text(key::SPARSE, is_sparse.to_string()) };
        response.put(key::SPARSE, sparse);
        response.to_string()
    }
}

/// A connect request with its origin.
struct Connect<'a> {
    correlation_id: i64,
    response_stream_id: i32,
    version: i32,
    response_channel: &'a str,
    credentials: &'a [u8],
    client_info: &'a str,
    origin: Origin<'a>,
}
