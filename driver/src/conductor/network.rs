//! Network publications (spec 02 §2).

use std::sync::Arc;

use harrier_protocol::counter_types;
use harrier_protocol::event::PublicationReady;
use harrier_protocol::udp::flag;
use harrier_protocol::uri::{ChannelUri, InitialPosition, ResponseCorrelation};
use harrier_ringbuf::logbuffer::{LogSettings, LogType, METADATA_LENGTH};
use harrier_ringbuf::position::compute_max_message_length;
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::pending::{AddPublication, AddSubscription, Pending};
use super::responses::answered_image;
use crate::allocation::{self, Allocation};
use crate::channel::UdpChannel;
use crate::counters::StreamIdentity;
use crate::error_notes::kind;
use crate::executor::{Job, Opened};
use crate::failure::Failure;
use crate::flow_control::FlowControl;
use crate::handover::{PublicationShared, SenderCommand};
use crate::ipc_publication::{Identity, State, Step, start_position};
use crate::log_files::{self, LogFile};
use crate::network_publication::{NetworkPublication, PublicationCounters};
use crate::params::{PublicationParams, SharedParams, SubscriptionParams};
use crate::retransmit::{RetransmitHandler, RetransmitSettings};
use crate::sender::publication::{SendPublication, SendPublicationSetup};
use crate::settings;

/// Receiver window by which the longest retransmit is measured, bytes (spec 02 §2.7).
const RETRANSMIT_WINDOW: i32 = 128 << 10;

/// A network publication with the state that only the conductor needs.
pub(super) struct PublicationEntry {
    pub(super) publication: NetworkPublication,
    pub(super) endpoint_id: u64,
    pub(super) channel: UdpChannel,
    pub(super) start: InitialPosition,
    socket_name: String,
    status_id: i32,
    pub(super) log_file_name: String,
}

/// A network publication whose log is being created.
#[derive(Debug)]
pub(super) struct NetworkLog {
    pub(super) identity: Identity,
    pub(super) endpoint_id: u64,
    channel: UdpChannel,
    params: PublicationParams,
    start: InitialPosition,
    flow_control: FlowControl,
    allocation: Allocation,
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    pub(super) fn add_network_publication(
        &mut self,
        add: AddPublication,
        uri: ChannelUri,
    ) -> Result<(), Failure> {
        PublicationParams::new(&uri, add.stream_id, &self.context)?;
        if uri.get("ats") == Some("true") {
            return Err(Failure::generic(format!(
                "ATS is not enabled and thus ats=true not allowed: channel={}",
                add.channel
            )));
        }
        let text = add.channel.clone();
        self.resolve_channel(uri, &text, Pending::PublicationChannel { add })
    }

    pub(super) fn on_publication_channel(
        &mut self,
        add: AddPublication,
        channel: Box<UdpChannel>,
    ) -> Result<(), Failure> {
        check_publication_channel(&channel)?;
        let params = PublicationParams::new(&channel.uri, add.stream_id, &self.context)?;
        self.check_response(&channel, &params)?;
        self.flow_control(&channel)?;
        let found = self.find_send_endpoint(&channel)?;
        let existing = found.map(|index| &self.send_endpoints[index].channel);
        self.check_mtu(&channel, existing, params.mtu_length)?;
        match found {
            Some(index) => self.create_network_log(add, *channel, index),
            None => {
                if channel.tag.is_some()
                    && channel.endpoint.is_none()
                    && channel.control.is_none()
                    && channel.control_mode.is_none()
                {
                    return Err(Failure::generic(format!(
                        "URI must have explicit control, endpoint, or be manual control-mode when original: \
                         channel={}",
                        add.channel
                    )));
                }
                let ttl = self.context.socket_multicast_ttl;
                let mut spec = channel.send_socket(self.context.connect_enabled, ttl);
                let port = self.choose_send_port(&mut spec, channel.control.is_some())?;
                let sockets = (spec, channel.control_socket(ttl));
                let (uri, text) = (channel.uri.clone(), channel.text.clone());
                let pending = Pending::PublicationSocket { add, channel, port };
                self.open_sockets(sockets, &uri, &text, pending)
                    .inspect_err(|_| self.send_ports.release(port))
            }
        }
    }

    pub(super) fn on_publication_socket(
        &mut self,
        add: AddPublication,
        channel: UdpChannel,
        opened: Opened<T::Socket>,
        port: Option<u16>,
    ) -> Result<(), Failure> {
        let index = self
            .add_send_endpoint(add.correlation_id, channel.clone(), opened, port)
            .inspect_err(|_| self.send_ports.release(port))?;
        let endpoint_id = self.send_endpoints[index].id;
        let created = self.create_network_log(add, channel, index);
        if created.is_err() {
            self.close_unused_send_endpoint(endpoint_id);
        }
        created
    }

    fn create_network_log(
        &mut self,
        add: AddPublication,
        channel: UdpChannel,
        endpoint: usize,
    ) -> Result<(), Failure> {
        let mut params = PublicationParams::new(&channel.uri, add.stream_id, &self.context)?;
        let endpoint_id = self.send_endpoints[endpoint].id;
        let socket_name = self.send_endpoints[endpoint].socket_name.clone();
        if !add.is_exclusive && self.share_network_publication(&add, &channel, &params, endpoint_id)? {
            return Ok(());
        }
        let flow_control = self.flow_control(&channel)?;
        let session_id = self.choose_session(&add, &mut params, &channel.uri, &socket_name)?;
        let start = self.choose_start(&params);
        let allocation = self.publication_allocation(&params, &start, add.is_exclusive);
        let log_type = if add.is_exclusive { LogType::Exclusive } else { LogType::Concurrent };
        let settings = LogSettings {
            correlation_id: add.correlation_id,
            session_id,
            stream_id: add.stream_id,
            log_type,
            socket_sndbuf_length: channel.uri.socket_sndbuf()?.unwrap_or(self.context.socket_sndbuf_length),
            socket_rcvbuf_length: channel.uri.socket_rcvbuf()?.unwrap_or(self.context.socket_rcvbuf_length),
            group: channel.is_group(),
            is_response: params.is_response,
            ..self.publication_log_settings(&params, &start)
        };
        let identity = Identity {
            registration_id: add.correlation_id,
            client_id: add.client_id,
            session_id,
            stream_id: add.stream_id,
            channel: add.channel,
            is_exclusive: add.is_exclusive,
        };
        let job = Job::CreateLog {
            path: log_files::publication_path(&self.context.directory, add.correlation_id),
            settings: Box::new(settings),
            storage: self.context.storage_checks(),
            first: allocation.initial(),
        };
        let log = NetworkLog { identity, endpoint_id, channel, params, start, flow_control, allocation };
        self.submit_for_client(job, Pending::NetworkLog(Box::new(log)))?;
        // The endpoint's other publications may be removed while the log is created.
        self.send_endpoints[endpoint].references += 1;
        Ok(())
    }

    /// Decides how much of a publication's log is allocated at first. A shared log is allocated whole, because its
    /// writers may go far beyond the publisher limit together.
    fn publication_allocation(
        &self,
        params: &PublicationParams,
        start: &InitialPosition,
        is_exclusive: bool,
    ) -> Allocation {
        if params.is_sparse || !is_exclusive {
            return Allocation::whole();
        }
        let lengths = (params.term_length as usize, params.mtu_length as usize);
        let position = start_position(start, params.term_length);
        let length = allocation::first_length(&self.context);
        Allocation::first_of_publication(params.allocation, position, lengths, METADATA_LENGTH, length)
    }

    fn flow_control(&self, channel: &UdpChannel) -> Result<FlowControl, Failure> {
        let defaults = settings::flow_control(&self.context);
        if channel.is_group() {
            FlowControl::group(channel.uri.get(harrier_protocol::uri::key::FLOW_CONTROL), &defaults)
        } else {
            Ok(FlowControl::unicast(&defaults))
        }
    }

    fn share_network_publication(
        &mut self,
        add: &AddPublication,
        channel: &UdpChannel,
        params: &PublicationParams,
        endpoint_id: u64,
    ) -> Result<bool, Failure> {
        let Some(entry) = self.publications.iter_mut().find(|entry| {
            let publication = &entry.publication;
            entry.endpoint_id == endpoint_id
                && publication.state == State::Active
                && !publication.identity.is_exclusive
                && publication.identity.stream_id == add.stream_id
                && publication.params.response_correlation == params.response_correlation
        }) else {
            return Ok(false);
        };
        let existing = SharedParams {
            channel: entry.publication.identity.channel.clone(),
            mtu_length: entry.publication.params.mtu_length,
            term_length: entry.publication.params.term_length,
            session_id: entry.publication.identity.session_id,
            start: entry.start,
            spies_simulate_connection: entry.publication.params.spies_simulate_connection,
        };
        params.check_equal(&channel.uri, &existing, &add.channel)?;
        entry.publication.references += 1;
        let id = entry.publication.identity.registration_id;
        announce(&mut self.events, entry, add.correlation_id);
        self.clients.link_publication(add.client_id, add.correlation_id, id);
        Ok(true)
    }

    /// Finds the session of the publication with an entity tag and takes over its lengths (spec 02 §2.10).
    pub(super) fn session_of_tag(
        &self,
        tag: i64,
        params: &mut PublicationParams,
        uri: &ChannelUri,
    ) -> Result<i32, Failure> {
        let network = self
            .publications
            .iter()
            .map(|entry| (&entry.publication.params, entry.publication.identity.session_id));
        let ipc = self.ipc.iter().map(|publication| (&publication.params, publication.identity.session_id));
        let Some((existing, session_id)) =
            network.chain(ipc).find(|(params, _)| params.entity_tag == Some(tag))
        else {
            return Err(Failure::generic(format!(
                "session-id=tag:{tag} must reference a network publication"
            )));
        };
        let (mtu, term_length) = (existing.mtu_length, existing.term_length);
        let differs = uri.mtu()?.is_some_and(|length| length != mtu)
            || uri.term_length()?.is_some_and(|length| length != term_length);
        if differs {
            return Err(Failure::generic(format!(
                "session-id=tag:{tag} has mtu={mtu} term-length={term_length}; give the same or none"
            )));
        }
        params.mtu_length = mtu;
        params.term_length = term_length;
        params.window_length = params.window_length.min(term_length / 2);
        Ok(session_id)
    }

    pub(super) fn on_network_log(
        &mut self,
        log: NetworkLog,
        (file, warning): (LogFile, Option<String>),
    ) -> Result<(), Failure> {
        let NetworkLog { identity, endpoint_id, channel, params, start, flow_control, allocation } = log;
        self.on_mapped(file.length);
        if let Some(warning) = warning {
            self.events.record_kind(kind::LOW_SPACE, &warning);
        }
        let Some(endpoint) = self.send_endpoints.iter().find(|endpoint| endpoint.id == endpoint_id) else {
            self.closed_logs.push_back(file);
            return Err(Failure::generic("the channel's endpoint has gone, please retry"));
        };
        let (socket_name, status_id) = (endpoint.socket_name.clone(), endpoint.status.id());
        let position = start_position(&start, params.term_length);
        let counters = match self.publication_counters(&identity, &flow_control, position) {
            Ok(counters) => counters,
            Err(failure) => {
                self.closed_logs.push_back(file);
                return Err(failure);
            }
        };
        let shared = Arc::new(PublicationShared::default());
        let send = self.send_publication(
            &identity,
            endpoint_id,
            &channel,
            &params,
            &file,
            &counters,
            &shared,
            flow_control,
        );
        self.tell_sender(SenderCommand::AddPublication(Box::new(send)));
        self.sessions.insert(identity.stream_id, identity.session_id, &socket_name);
        let (client_id, id) = (identity.client_id, identity.registration_id);
        let entry = PublicationEntry {
            log_file_name: file.path.to_string_lossy().into_owned(),
            publication: NetworkPublication::new(identity, params, file, counters, shared, self.now.ns)
                .with_allocation(allocation),
            endpoint_id,
            channel,
            start,
            socket_name,
            status_id,
        };
        announce(&mut self.events, &entry, id);
        let answered = answered_image(&entry);
        self.publications.push(entry);
        self.clients.link_publication(client_id, id, id);
        if let Some((image_id, session_id)) = answered {
            self.set_response_session(image_id, session_id);
        }
        self.link_spies_of(self.publications.len() - 1);
        Ok(())
    }

    fn publication_counters(
        &mut self,
        identity: &Identity,
        flow_control: &FlowControl,
        position: i64,
    ) -> Result<PublicationCounters, Failure> {
        use counter_types::{name, type_id};
        let stream = StreamIdentity {
            registration_id: identity.registration_id,
            owner_id: identity.client_id,
            session_id: identity.session_id,
            stream_id: identity.stream_id,
            channel: &identity.channel,
        };
        let publisher = if identity.is_exclusive {
            name::PUBLISHER_POSITION_EXCLUSIVE
        } else {
            name::PUBLISHER_POSITION_CONCURRENT
        };
        let wanted = [
            (type_id::PUBLISHER_POSITION, publisher, position),
            (type_id::PUBLISHER_LIMIT, name::PUBLISHER_LIMIT, position),
            (type_id::SENDER_POSITION, name::SENDER_POSITION, position),
            (type_id::SENDER_LIMIT, name::SENDER_LIMIT, position),
            (type_id::SENDER_BACK_PRESSURE_EVENTS, name::SENDER_BACK_PRESSURE_EVENTS, 0),
            (type_id::SENDER_NAKS_RECEIVED, name::SENDER_NAKS_RECEIVED, 0),
        ];
        let mut counters = Vec::with_capacity(wanted.len() + 1);
        for (type_id, name, value) in wanted {
            match self.counters.stream(type_id, name, stream, value) {
                Ok(counter) => counters.push(counter),
                Err(error) => {
                    self.counters.free_all(&counters);
                    return Err(error.into());
                }
            }
        }
        let receivers = match flow_control.receiver_count() {
            Some(_) => {
                let stream = StreamIdentity { owner_id: -1, ..stream };
                let name = name::FLOW_CONTROL_RECEIVERS;
                Some(self.counters.stream(type_id::FLOW_CONTROL_RECEIVERS, name, stream, 0)?)
            }
            None => None,
        };
        let mut counters = counters.into_iter();
        let mut next = || counters.next().expect("six counters were allocated");
        Ok(PublicationCounters {
            publisher_position: next(),
            publisher_limit: next(),
            sender_position: next(),
            sender_limit: next(),
            back_pressure_events: next(),
            naks_received: next(),
            receivers,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one publication, put together once")]
    fn send_publication(
        &self,
        identity: &Identity,
        endpoint_id: u64,
        channel: &UdpChannel,
        params: &PublicationParams,
        file: &LogFile,
        counters: &PublicationCounters,
        shared: &Arc<PublicationShared>,
        flow_control: FlowControl,
    ) -> SendPublication {
        let is_group = channel.is_group();
        let longest = flow_control
            .retransmit_window_multiple
            .saturating_mul(RETRANSMIT_WINDOW.min(params.term_length / 2));
        let retransmit = RetransmitHandler::new(RetransmitSettings {
            delay_ns: self.context.retransmit_unicast_delay_ns,
            linger_ns: self.context.retransmit_unicast_linger_ns,
            max_resend: params.max_resend as usize,
            has_group_semantics: is_group || params.has_max_resend,
            max_length: longest,
        });
        let publication = SendPublication::new(SendPublicationSetup {
            registration_id: identity.registration_id,
            endpoint_id,
            session_id: identity.session_id,
            stream_id: identity.stream_id,
            log: file.log.clone(),
            max_message_length: compute_max_message_length(params.term_length as usize) as i64,
            connection_timeout_ns: self.context.publication_connection_timeout_ns,
            signals_eos: params.signals_eos,
            setup_flags: if is_group { flag::SETUP_GROUP } else { 0 },
            flow_control,
            retransmit,
            sender_position: counters.sender_position.clone(),
            sender_limit: counters.sender_limit.clone(),
            back_pressure_events: counters.back_pressure_events.clone(),
            naks_received: counters.naks_received.clone(),
            receivers: counters.receivers.clone(),
            shared: shared.clone(),
        });
        let publication = match &channel.group {
            Some(group) => publication.with_ttl(i32::from(group.ttl(self.context.socket_multicast_ttl))),
            None => publication,
        };
        match params.response_correlation {
            _ if params.is_response => publication.responding(),
            Some(ResponseCorrelation::Id(subscription_id)) => publication.requesting(subscription_id),
            _ => publication,
        }
    }

    pub(super) fn release_network_publication(&mut self, id: i64) {
        let found =
            self.publications.iter_mut().find(|entry| entry.publication.identity.registration_id == id);
        if let Some(entry) = found {
            entry.publication.release();
        }
    }

    pub(super) fn revoke_network_publication(&mut self, id: i64) {
        let found = self.publications.iter().find(|entry| entry.publication.identity.registration_id == id);
        if let Some(entry) = found {
            entry.publication.file.log.set_publication_revoked();
        }
    }

    pub(super) fn check_publications(&mut self) {
        for index in 0..self.publications.len() {
            let mut changes = std::mem::take(&mut self.tether_changes);
            changes.clear();
            let unblock_ns = self.context.publication_unblock_timeout_ns;
            let step = self.publications[index].publication.on_timer(
                self.now.ns,
                unblock_ns,
                &self.system,
                &mut changes,
            );
            for change in &changes {
                self.on_spy_tether(index, *change);
            }
            self.tether_changes = changes;
            match step {
                Step::Ended => self.end_network_stream(index),
                Step::Done => {
                    let registration_id = self.publications[index].publication.identity.registration_id;
                    self.tell_sender(SenderCommand::RemovePublication { registration_id });
                }
                Step::None | Step::Rejoin => {}
            }
        }
    }

    fn end_network_stream(&mut self, index: usize) {
        let entry = &mut self.publications[index];
        let identity = entry.publication.identity.clone();
        self.sessions.remove(identity.stream_id, identity.session_id, &entry.socket_name);
        let answered = answered_image(entry);
        let spies = entry.publication.spies.drain();
        entry.publication.on_spies_changed();
        for spy in spies {
            self.counters.free(spy.position.id());
            self.tell_unavailable(identity.registration_id, spy.registration_id);
        }
        if let Some((image_id, session_id)) = answered {
            self.clear_response_session(image_id, session_id);
        }
    }

    /// Frees a publication that the sender has released, so that nothing uses its log any more.
    pub(super) fn on_publication_released(&mut self, registration_id: i64) {
        let Some(index) = self
            .publications
            .iter()
            .position(|entry| entry.publication.identity.registration_id == registration_id)
        else {
            return;
        };
        let entry = self.publications.remove(index);
        self.counters.free_all(entry.publication.counters.iter());
        self.closed_logs.push_back(entry.publication.file);
        self.release_send_endpoint(entry.endpoint_id);
    }

    pub(super) fn add_network_subscription(
        &mut self,
        add: AddSubscription,
        uri: ChannelUri,
        is_spy: bool,
    ) -> Result<(), Failure> {
        let params = Box::new(SubscriptionParams::new(&uri, &self.context)?);
        let text = add.channel.clone();
        self.resolve_channel(uri, &text, Pending::SubscriptionChannel { add, params, is_spy })
    }
}

/// Checks the rules on a publication's channel that need its addresses (spec 02 §2.10).
fn check_publication_channel(channel: &UdpChannel) -> Result<(), Failure> {
    if channel.control.is_some() && channel.endpoint.is_none() && channel.control_mode.is_none() {
        return Err(Failure::generic(format!(
            "'control' parameter requires that either 'endpoint' or 'control-mode' is specified, channel={}",
            channel.text
        )));
    }
    if channel.endpoint.is_some_and(|endpoint| endpoint.port() == 0) && !channel.is_multi_destination() {
        return Err(Failure::generic(format!(
            "endpoint has port=0 for publication: channel={}",
            channel.text
        )));
    }
    Ok(())
}

fn announce(events: &mut crate::events::Events, entry: &PublicationEntry, correlation_id: i64) {
    let identity = &entry.publication.identity;
    events.publication_ready(
        identity.is_exclusive,
        PublicationReady {
            correlation_id,
            registration_id: identity.registration_id,
            session_id: identity.session_id,
            stream_id: identity.stream_id,
            publisher_limit_counter_id: entry.publication.counters.publisher_limit.id(),
            channel_status_counter_id: entry.status_id,
            log_file_name: &entry.log_file_name,
        },
    );
}
