//! IPC publications and their subscribers (spec 02 §7).

use harrier_protocol::event::PublicationReady;
use harrier_protocol::uri::{ChannelUri, InitialPosition, ResponseCorrelation, SessionId};
use harrier_protocol::{ErrorCode, counter_types};
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::logbuffer::{LogSettings, LogType};
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::pending::{AddPublication, AddSubscription, Pending};
use super::sessions::IPC_SOCKET;
use super::subscriptions::{Source, Subscription};
use crate::counters::StreamIdentity;
use crate::error_notes::kind;
use crate::events::{IPC_SOURCE, ImageEvent, PublicationErrorEvent};
use crate::executor::Job;
use crate::failure::Failure;
use crate::ipc_publication::{Identity, IpcPublication, State, Step, start_position};
use crate::log_files::{self, LogFile};
use crate::params::{PublicationParams, SharedParams, SubscriptionParams};
use crate::subscribers::TetherChange;

impl<M: Memory, T: Transport> Conductor<M, T> {
    pub(super) fn add_ipc_publication(
        &mut self,
        add: AddPublication,
        uri: &ChannelUri,
    ) -> Result<(), Failure> {
        let mut params = PublicationParams::new(uri, add.stream_id, &self.context)?;
        if !add.is_exclusive && self.share_ipc_publication(&add, uri, &params)? {
            return Ok(());
        }
        let session_id = self.choose_session(&add, &mut params, uri, IPC_SOCKET)?;
        let start = self.choose_start(&params);
        let settings = self.ipc_log_settings(&add, &params, session_id, &start);
        let identity = Identity {
            registration_id: add.correlation_id,
            client_id: add.client_id,
            session_id,
            stream_id: add.stream_id,
            channel: add.channel,
            is_exclusive: add.is_exclusive,
        };
        let path = log_files::publication_path(&self.context.directory, add.correlation_id);
        let job = Job::CreateLog {
            path,
            settings: Box::new(settings),
            storage: self.context.storage_checks(),
            first: None,
        };
        self.submit_for_client(job, Pending::IpcLog { identity, params: Box::new(params), start })
    }

    /// Gives a client an existing publication; returns false when there is none to share.
    fn share_ipc_publication(
        &mut self,
        add: &AddPublication,
        uri: &ChannelUri,
        params: &PublicationParams,
    ) -> Result<bool, Failure> {
        let Some(publication) = self.ipc.iter_mut().find(|publication| {
            publication.state == State::Active
                && !publication.identity.is_exclusive
                && publication.identity.stream_id == add.stream_id
                && publication.params.response_correlation == params.response_correlation
        }) else {
            return Ok(false);
        };
        let existing = SharedParams {
            channel: publication.identity.channel.clone(),
            mtu_length: publication.params.mtu_length,
            term_length: publication.params.term_length,
            session_id: publication.identity.session_id,
            start: publication.start,
            spies_simulate_connection: params.spies_simulate_connection,
        };
        params.check_equal(uri, &existing, &add.channel)?;
        publication.references += 1;
        let id = publication.identity.registration_id;
        announce(&mut self.events, publication, add.correlation_id);
        self.clients.link_publication(add.client_id, add.correlation_id, id);
        Ok(true)
    }

    /// Chooses the session id of a new publication: explicit, that of a tag, or the next automatic one.
    pub(super) fn choose_session(
        &mut self,
        add: &AddPublication,
        params: &mut PublicationParams,
        uri: &ChannelUri,
        socket: &str,
    ) -> Result<i32, Failure> {
        let session_id = match params.session {
            None => return Ok(self.sessions.next(add.stream_id)),
            Some(SessionId::Fixed(id)) => id,
            Some(SessionId::Tag(tag)) => self.session_of_tag(tag, params, uri)?,
        };
        if self.sessions.is_used(add.stream_id, session_id, socket) {
            return Err(Failure::generic(format!(
                "Specified session-id is already in exclusive use for channel={} stream-id={}: existing \
                 publication has clashing sessionId={session_id}",
                add.channel, add.stream_id
            )));
        }
        Ok(session_id)
    }

    /// Chooses the initial position of a new publication: that of its channel, else offset 0 of a random term.
    pub(super) fn choose_start(&mut self, params: &PublicationParams) -> InitialPosition {
        params.position.unwrap_or_else(|| {
            let initial_term_id = self.rng.next_i32();
            InitialPosition { initial_term_id, term_id: initial_term_id, term_offset: 0 }
        })
    }

    fn ipc_log_settings(
        &self,
        add: &AddPublication,
        params: &PublicationParams,
        session_id: i32,
        start: &InitialPosition,
    ) -> LogSettings {
        let log_type = if add.is_exclusive { LogType::Exclusive } else { LogType::Concurrent };
        LogSettings {
            correlation_id: add.correlation_id,
            session_id,
            stream_id: add.stream_id,
            log_type,
            is_response: params.is_response,
            ..self.publication_log_settings(params, start)
        }
    }

    /// Log settings that all publications have in common.
    pub(super) fn publication_log_settings(
        &self,
        params: &PublicationParams,
        start: &InitialPosition,
    ) -> LogSettings {
        LogSettings {
            correlation_id: 0,
            initial_term_id: start.initial_term_id,
            session_id: 0,
            stream_id: 0,
            mtu_length: params.mtu_length as usize,
            term_length: params.term_length as usize,
            page_size: self.context.file_page_size,
            publication_window_length: params.window_length,
            receiver_window_length: 0,
            socket_sndbuf_length: 0,
            os_default_socket_sndbuf_length: self.limits.default_sndbuf as i32,
            os_max_socket_sndbuf_length: self.limits.max_sndbuf as i32,
            socket_rcvbuf_length: 0,
            os_default_socket_rcvbuf_length: self.limits.default_rcvbuf as i32,
            os_max_socket_rcvbuf_length: self.limits.max_rcvbuf as i32,
            max_resend: params.max_resend,
            entity_tag: params.entity_tag.unwrap_or(-1),
            response_correlation_id: match params.response_correlation {
                None => -1,
                Some(ResponseCorrelation::Id(id)) => id,
                Some(ResponseCorrelation::Prototype) => -2,
            },
            linger_timeout_ns: params.linger_ns,
            untethered_window_limit_timeout_ns: params.untethered.window_limit_ns,
            untethered_resting_timeout_ns: params.untethered.resting_ns,
            untethered_linger_timeout_ns: params.untethered.linger_ns,
            group: false,
            is_response: false,
            rejoin: false,
            reliable: false,
            sparse: params.is_sparse,
            signal_eos: params.signals_eos,
            spies_simulate_connection: params.spies_simulate_connection,
            tether: false,
            log_type: LogType::Concurrent,
            start_term_id: start.term_id,
            start_term_offset: start.term_offset,
        }
    }

    pub(super) fn on_ipc_log(
        &mut self,
        identity: Identity,
        params: PublicationParams,
        start: InitialPosition,
        (file, warning): (LogFile, Option<String>),
    ) -> Result<(), Failure> {
        self.on_mapped(file.length);
        if let Some(warning) = warning {
            self.events.record_kind(kind::LOW_SPACE, &warning);
        }
        let (position, limit) = match self.ipc_counters(&identity, start_position(&start, params.term_length))
        {
            Ok(counters) => counters,
            Err(failure) => {
                self.closed_logs.push_back(file);
                return Err(failure);
            }
        };
        self.sessions.insert(identity.stream_id, identity.session_id, IPC_SOCKET);
        let id = identity.registration_id;
        let client_id = identity.client_id;
        let mut publication =
            IpcPublication::new(identity, params, start, file, position, limit, self.now.ns);
        publication.references = 1;
        announce(&mut self.events, &publication, id);
        self.ipc.push(publication);
        self.clients.link_publication(client_id, id, id);
        self.connect_ipc_response(self.ipc.len() - 1);
        self.link_ipc_subscriptions(self.ipc.len() - 1);
        Ok(())
    }

    fn ipc_counters(
        &mut self,
        identity: &Identity,
        position: i64,
    ) -> Result<(AtomicCounter, AtomicCounter), Failure> {
        use counter_types::{name, type_id};
        let stream = stream_of(identity);
        let name = if identity.is_exclusive {
            name::PUBLISHER_POSITION_EXCLUSIVE
        } else {
            name::PUBLISHER_POSITION_CONCURRENT
        };
        let publisher = self.counters.stream(type_id::PUBLISHER_POSITION, name, stream, position)?;
        match self.counters.stream(type_id::PUBLISHER_LIMIT, name::PUBLISHER_LIMIT, stream, position) {
            Ok(limit) => Ok((publisher, limit)),
            Err(error) => {
                self.counters.free(publisher.id());
                Err(error.into())
            }
        }
    }

    /// Links a publication to all subscriptions that match it.
    fn link_ipc_subscriptions(&mut self, index: usize) {
        let publication = &self.ipc[index];
        let fitting: Vec<i64> = self
            .subscriptions
            .iter()
            .filter(|subscription| fits(subscription, publication))
            .map(|subscription| subscription.registration_id)
            .collect();
        for registration_id in fitting {
            self.link_ipc(index, registration_id);
        }
    }

    fn link_ipc(&mut self, index: usize, registration_id: i64) {
        let publication = &mut self.ipc[index];
        let Some(subscription) =
            self.subscriptions.iter().find(|subscription| subscription.registration_id == registration_id)
        else {
            return;
        };
        let identity = &publication.identity;
        let Some(params) = subscription.ipc_params(identity.stream_id, identity.session_id) else { return };
        if publication.subscribers.contains(registration_id) {
            return;
        }
        let join_position = publication.join_position();
        let stream = subscription.stream(publication.identity.session_id);
        let source_id = publication.identity.registration_id;
        let position = match self.counters.subscriber_position(stream, join_position, source_id) {
            Ok(position) => position,
            Err(error) => return self.events.record_error(&error.to_string()),
        };
        let position_id = position.id();
        publication.subscribers.add(
            registration_id,
            position,
            params.is_tethered,
            params.rejoins,
            self.now.ns,
        );
        publication.update_connected();
        self.events.available_image(image_event(publication, registration_id, position_id));
    }

    pub(super) fn add_ipc_subscription(
        &mut self,
        add: AddSubscription,
        uri: &ChannelUri,
    ) -> Result<(), Failure> {
        let params = SubscriptionParams::new(uri, &self.context)?;
        self.events.subscription_ready(add.correlation_id, -1);
        let registration_id = add.correlation_id;
        let subscription = Subscription::new(add, params, Source::Ipc);
        self.subscriptions.push(subscription);
        self.link_ipc_publications(registration_id);
        Ok(())
    }

    /// Links a subscription to all publications that match it.
    pub(super) fn link_ipc_publications(&mut self, registration_id: i64) {
        for index in 0..self.ipc.len() {
            let is_fit = self.subscriptions.iter().any(|subscription| {
                subscription.registration_id == registration_id && fits(subscription, &self.ipc[index])
            });
            if is_fit {
                self.link_ipc(index, registration_id);
            }
        }
    }

    /// Unlinks a subscription from all IPC publications.
    pub(super) fn unlink_ipc_subscription(&mut self, registration_id: i64) {
        for publication in &mut self.ipc {
            if let Some(subscriber) = publication.subscribers.remove(registration_id) {
                self.counters.free(subscriber.position.id());
                publication.update_connected();
            }
        }
    }

    pub(super) fn reject_ipc_image(&mut self, image_id: i64, reason: &str) -> bool {
        let Some(publication) =
            self.ipc.iter_mut().find(|publication| publication.identity.registration_id == image_id)
        else {
            return false;
        };
        let identity = publication.identity.clone();
        publication.reject(self.now.ns + self.context.image_liveness_timeout_ns);
        let code = ErrorCode::ImageRejected.value();
        let text = format!(
            "WARN: onPublicationError: registrationId={} sessionId={} streamId={} receiverId=-1 \
             errorCode={code} message={reason}",
            identity.registration_id, identity.session_id, identity.stream_id
        );
        self.events.record_kind(&format!("{}: {reason}", kind::IPC_IMAGE_REJECTED), &text);
        self.events.publication_error(PublicationErrorEvent {
            registration_id: identity.registration_id,
            destination_id: -1,
            session_id: identity.session_id,
            stream_id: identity.stream_id,
            receiver_id: -1,
            group_tag: -1,
            source: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            code,
            message: reason,
        });
        let subscribers = publication.subscribers.drain();
        for subscriber in subscribers {
            self.counters.free(subscriber.position.id());
            self.tell_unavailable(identity.registration_id, subscriber.registration_id);
        }
        true
    }

    /// Tells a subscription that one of its images is unavailable.
    pub(super) fn tell_unavailable(&mut self, image_id: i64, registration_id: i64) {
        let Some(subscription) =
            self.subscriptions.iter().find(|subscription| subscription.registration_id == registration_id)
        else {
            return;
        };
        self.events.unavailable_image(
            image_id,
            registration_id,
            subscription.stream_id,
            &subscription.channel,
        );
    }

    pub(super) fn release_ipc_publication(&mut self, id: i64) -> bool {
        let found = self.ipc.iter_mut().find(|publication| publication.identity.registration_id == id);
        let Some(publication) = found else { return false };
        publication.release();
        true
    }

    pub(super) fn revoke_ipc_publication(&mut self, id: i64) {
        let found = self.ipc.iter().find(|publication| publication.identity.registration_id == id);
        if let Some(publication) = found {
            publication.file.log.set_publication_revoked();
        }
    }

    pub(super) fn check_ipc(&mut self) {
        let mut index = 0;
        while index < self.ipc.len() {
            let mut changes = std::mem::take(&mut self.tether_changes);
            changes.clear();
            let unblock_ns = self.context.publication_unblock_timeout_ns;
            let step = self.ipc[index].on_timer(self.now.ns, unblock_ns, &self.system, &mut changes);
            for change in &changes {
                self.on_ipc_tether(index, *change);
            }
            self.tether_changes = changes;
            match step {
                Step::None => {}
                Step::Ended => self.end_ipc_stream(index),
                Step::Rejoin => self.link_ipc_subscriptions(index),
                Step::Done => {
                    self.close_ipc(index);
                    continue;
                }
            }
            index += 1;
        }
    }

    fn on_ipc_tether(&mut self, index: usize, change: TetherChange) {
        let id = self.ipc[index].identity.registration_id;
        match change {
            TetherChange::Unavailable { registration_id } => self.tell_unavailable(id, registration_id),
            TetherChange::Available { registration_id, counter_id, .. } => {
                self.events.available_image(image_event(&self.ipc[index], registration_id, counter_id));
            }
            TetherChange::Removed { counter_id, .. } => self.counters.free(counter_id),
        }
    }

    fn end_ipc_stream(&mut self, index: usize) {
        let publication = &self.ipc[index];
        let identity = &publication.identity;
        self.sessions.remove(identity.stream_id, identity.session_id, IPC_SOCKET);
        let id = identity.registration_id;
        let active: Vec<i64> = publication
            .subscribers
            .iter()
            .filter(|subscriber| subscriber.is_active())
            .map(|subscriber| subscriber.registration_id)
            .collect();
        for registration_id in active {
            self.tell_unavailable(id, registration_id);
        }
    }

    fn close_ipc(&mut self, index: usize) {
        let mut publication = self.ipc.remove(index);
        for subscriber in publication.subscribers.drain() {
            self.counters.free(subscriber.position.id());
        }
        self.counters.free_all([&publication.publisher_position, &publication.publisher_limit]);
        self.closed_logs.push_back(publication.file);
    }
}

fn stream_of(identity: &Identity) -> StreamIdentity<'_> {
    StreamIdentity {
        registration_id: identity.registration_id,
        owner_id: identity.client_id,
        session_id: identity.session_id,
        stream_id: identity.stream_id,
        channel: &identity.channel,
    }
}

fn fits(subscription: &Subscription, publication: &IpcPublication) -> bool {
    let identity = &publication.identity;
    subscription.ipc_params(identity.stream_id, identity.session_id).is_some()
        && publication.accepts_subscribers()
}

fn image_event(publication: &IpcPublication, subscription_id: i64, position_id: i32) -> ImageEvent<'_> {
    ImageEvent {
        correlation_id: publication.identity.registration_id,
        session_id: publication.identity.session_id,
        stream_id: publication.identity.stream_id,
        subscription_id,
        position_id,
        log_file: &publication.log_file_name,
        source: IPC_SOURCE,
    }
}

fn announce(events: &mut crate::events::Events, publication: &IpcPublication, correlation_id: i64) {
    let identity = &publication.identity;
    events.publication_ready(
        identity.is_exclusive,
        PublicationReady {
            correlation_id,
            registration_id: identity.registration_id,
            session_id: identity.session_id,
            stream_id: identity.stream_id,
            publisher_limit_counter_id: publication.publisher_limit.id(),
            channel_status_counter_id: -1,
            log_file_name: &publication.log_file_name,
        },
    );
}
