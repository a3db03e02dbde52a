//! Destinations of manual publications, and reports of sender and receiver (spec 02 §2.9, §5.5).

use harrier_protocol::ErrorCode;
use harrier_protocol::uri::{ChannelUri, ControlMode, key};
use harrier_ringbuf::{Memory, Transport};

use super::Conductor;
use super::commands::parse;
use super::endpoints::UnresolvedDestination;
use super::pending::Pending;
use crate::channel::UdpChannel;
use crate::error_notes::kind;
use crate::events::PublicationErrorEvent;
use crate::failure::Failure;
use crate::handover::{ConductorCommand, SenderCommand};
use crate::sender::DESTINATION_TIMEOUT_NS;
use crate::sender::destinations::Destination;

/// Most reports of sender and receiver that are taken per duty cycle.
const COMMAND_LIMIT: usize = 8;

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Finds the endpoint of a publication that takes destinations.
    fn manual_endpoint(&self, publication_id: i64, channel: &str) -> Result<u64, Failure> {
        let entry = self
            .publications
            .iter()
            .find(|entry| entry.publication.identity.registration_id == publication_id)
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::UnknownPublication,
                    format!("unknown publication registration_id={publication_id}"),
                )
            })?;
        if !entry.channel.is_manual() {
            return Err(Failure::generic(format!(
                "channel does not allow manual control of destinations: {channel}"
            )));
        }
        Ok(entry.endpoint_id)
    }

    pub(super) fn on_add_destination(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        channel: &str,
    ) -> Result<(), Failure> {
        self.manual_endpoint(publication_id, channel)?;
        let uri = check_destination(channel)?;
        let (kept, text) = (Box::new(uri.clone()), channel.to_owned());
        let pending = Pending::AddDestination { correlation_id, publication_id, uri: kept, text };
        self.resolve_channel(uri, channel, pending)
    }

    pub(super) fn on_remove_destination(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        channel: &str,
    ) -> Result<(), Failure> {
        self.manual_endpoint(publication_id, channel)?;
        let uri = check_destination(channel)?;
        let text = channel.to_owned();
        let pending = Pending::RemoveDestination { correlation_id, publication_id, text };
        self.resolve_channel(uri, channel, pending)
    }

    pub(super) fn on_remove_destination_by_id(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        registration_id: i64,
    ) -> Result<(), Failure> {
        let endpoint_id = self.manual_endpoint(publication_id, "")?;
        self.forget_names(endpoint_id, |id, _| id == registration_id);
        self.forget_unresolved(endpoint_id, |destination| destination.registration_id == registration_id);
        self.tell_sender(SenderCommand::RemoveDestinationById { endpoint_id, registration_id });
        self.events.operation_success(correlation_id);
        Ok(())
    }

    fn forget_names(&mut self, endpoint_id: u64, is_gone: impl Fn(i64, &UdpChannel) -> bool) {
        if let Some(endpoint) = self.send_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id) {
            endpoint.named_destinations.retain(|(id, channel)| !is_gone(*id, channel));
        }
    }

    pub(super) fn on_destination_channel(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        channel: &UdpChannel,
    ) -> Result<(), Failure> {
        let endpoint_id = self.manual_endpoint(publication_id, &channel.text)?;
        self.add_destination(endpoint_id, correlation_id, channel);
        self.events.operation_success(correlation_id);
        Ok(())
    }

    pub(super) fn add_destination(&mut self, endpoint_id: u64, registration_id: i64, channel: &UdpChannel) {
        let Some(address) = channel.endpoint else { return };
        let is_named = channel.has_endpoint_name();
        if let Some(endpoint) = self.send_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id)
            && is_named
        {
            endpoint.named_destinations.push((registration_id, channel.clone()));
        }
        let destination = Destination { registration_id, address, is_named };
        self.tell_sender(SenderCommand::AddDestination { endpoint_id, destination });
    }

    /// Adds a destination whose name does not resolve yet. That is no error: the name is looked up again (spec 02
    /// §5.12).
    pub(super) fn on_unresolved_destination(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        uri: Box<ChannelUri>,
        text: String,
    ) -> Result<(), Failure> {
        let endpoint_id = self.manual_endpoint(publication_id, &text)?;
        if let Some(endpoint) = self.send_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id) {
            let (registration_id, next_ns) = (correlation_id, self.now.ns + DESTINATION_TIMEOUT_NS);
            endpoint.unresolved.push(UnresolvedDestination { registration_id, uri, text, next_ns });
        }
        self.events.operation_success(correlation_id);
        Ok(())
    }

    pub(super) fn forget_unresolved(
        &mut self,
        endpoint_id: u64,
        is_gone: impl Fn(&UnresolvedDestination) -> bool,
    ) {
        if let Some(endpoint) = self.send_endpoints.iter_mut().find(|endpoint| endpoint.id == endpoint_id) {
            endpoint.unresolved.retain(|destination| !is_gone(destination));
        }
    }

    pub(super) fn on_removed_destination_channel(
        &mut self,
        correlation_id: i64,
        publication_id: i64,
        text: &str,
        channel: Result<Box<UdpChannel>, Failure>,
    ) -> Result<(), Failure> {
        let endpoint_id = self.manual_endpoint(publication_id, text)?;
        self.forget_unresolved(endpoint_id, |destination| destination.text == text);
        let address = match channel {
            Ok(channel) => channel.endpoint,
            Err(failure) if failure.code == ErrorCode::UnknownHost => None,
            Err(failure) => return Err(failure),
        };
        if let Some(address) = address {
            self.forget_names(endpoint_id, |_, named| named.endpoint == Some(address));
            self.tell_sender(SenderCommand::RemoveDestination { endpoint_id, address });
        }
        self.events.operation_success(correlation_id);
        Ok(())
    }

    /// Takes reports of sender and receiver, and errors of the agents.
    pub(super) fn take_agent_commands(&mut self) -> usize {
        let mut work_count = 0;
        while work_count < COMMAND_LIMIT {
            let Ok(command) = self.queues.from_receiver.pop().or_else(|_| self.queues.from_sender.pop())
            else {
                break;
            };
            work_count += 1;
            self.on_agent_command(command);
        }
        if let Some(errors) = self.handle.errors.take() {
            for note in errors {
                self.events.record_note(&note);
            }
        }
        work_count
    }

    fn on_agent_command(&mut self, command: ConductorCommand<T>) {
        match command {
            ConductorCommand::CreateImage { endpoint_id, setup, source, control } => {
                self.on_create_image(endpoint_id, setup, source, control);
            }
            ConductorCommand::ImageReleased { correlation_id } => self.on_image_released(correlation_id),
            ConductorCommand::PublicationReleased { registration_id } => {
                self.on_publication_released(registration_id);
            }
            ConductorCommand::SendEndpointReleased { endpoint } => self.on_send_endpoint_released(&endpoint),
            ConductorCommand::ResponseSetup { subscription_id, session_id } => {
                self.on_response_setup(subscription_id, session_id);
            }
            ConductorCommand::ResponseConnected { registration_id } => {
                self.on_response_connected(registration_id);
            }
            ConductorCommand::ReceiveEndpointReleased { endpoint } => {
                self.on_receive_endpoint_released(&endpoint);
            }
            ConductorCommand::PublicationError {
                registration_id,
                destination_id,
                receiver_id,
                group_tag,
                source,
                code,
                message,
            } => {
                let Some(entry) = self
                    .publications
                    .iter()
                    .find(|entry| entry.publication.identity.registration_id == registration_id)
                else {
                    return;
                };
                let identity = &entry.publication.identity;
                let (session_id, stream_id) = (identity.session_id, identity.stream_id);
                let text = format!(
                    "WARN: onPublicationError: registrationId={registration_id} sessionId={session_id} \
                     streamId={stream_id} receiverId={receiver_id} errorCode={code} message={message}"
                );
                self.events.record_kind(kind::PUBLICATION_ERROR, &text);
                self.events.publication_error(PublicationErrorEvent {
                    registration_id,
                    destination_id,
                    session_id,
                    stream_id,
                    receiver_id,
                    group_tag,
                    source,
                    code,
                    message: &message,
                });
            }
            ConductorCommand::ReResolve { endpoint_id, destination_id } => {
                self.re_resolve(endpoint_id, destination_id);
            }
            ConductorCommand::Error(note) => self.events.record_note(&note),
        }
    }

    /// Follows all streams, in every duty cycle.
    #[inline]
    pub(super) fn track_positions(&mut self) -> usize {
        let mut work_count = 0;
        let mut allocation_due = None;
        for entry in &mut self.images {
            work_count += entry.image.track(&mut self.loss_report, self.now.ns, self.now.epoch_ms);
            if entry.image.allocation.is_due() {
                allocation_due = Some(entry.image.identity.correlation_id);
            }
        }
        for entry in &mut self.publications {
            work_count += entry.publication.track();
            if entry.publication.allocation.is_due() {
                allocation_due = Some(entry.publication.identity.registration_id);
            }
        }
        for publication in &mut self.ipc {
            work_count += publication.track();
        }
        if let Some(id) = allocation_due {
            self.allocate(id);
        }
        work_count
    }
}

/// Checks the rules on destination strings (spec 02 §5.5).
fn check_destination(channel: &str) -> Result<ChannelUri, Failure> {
    let uri = parse(channel)?;
    if uri.is_spy() {
        return Err(Failure::channel(format!(
            "Aeron spies are invalid as send destinations: channel={channel}"
        )));
    }
    if !uri.is_udp() {
        return Err(Failure::channel(format!("incorrect URI format for destination: {channel}")));
    }
    check_destination_keys(&uri, channel)?;
    if uri.endpoint().ok().flatten().is_some_and(|endpoint| endpoint.port == 0) {
        return Err(Failure::channel(format!("endpoint has port=0 for send destination: channel={channel}")));
    }
    Ok(uri)
}

/// Refuses keys that neither send nor receive destinations may have (spec 02 §5.5).
pub(super) fn check_destination_keys(uri: &ChannelUri, channel: &str) -> Result<(), Failure> {
    for key in
        [key::MTU, key::RECEIVER_WINDOW, key::SOCKET_RCVBUF, key::SOCKET_SNDBUF, key::RESPONSE_CORRELATION_ID]
    {
        if uri.contains(key) {
            return Err(Failure::channel(format!(
                "destinations must not contain the key: {key} channel={channel}"
            )));
        }
    }
    if uri.control_mode() == Some(ControlMode::Response) {
        return Err(Failure::channel("destinations may not specify control-mode=response"));
    }
    Ok(())
}
